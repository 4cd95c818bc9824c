"""Bytes a device needs to train, by arithmetic: nothing is compiled and no device is touched."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from ecomgpt_jax.config import Config
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import TrainState, abstract_state

STEPS = 1000  # of the schedule; no size depends on it
# Values times `embed` that a token keeps in each block for the backward pass, its input included.
_KEPT = {"none": 16, "dots": 11, "selective": 6, "full": 1}

AnyMesh = Mesh | AbstractMesh


def shard_bytes(tree: Any) -> int:
    """Returns what one device holds of abstract arrays with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def state(config: Config, mesh: AnyMesh) -> TrainState:
    """Returns the training state as shapes with shardings."""
    return abstract_state(config, make_optimizer(config.optimizer, STEPS), mesh)


def state_bytes(config: Config, mesh: AnyMesh) -> int:
    """Returns the bytes of weights and optimizer state on one device."""
    return shard_bytes(state(config, mesh))


def row_bytes(config: Config) -> int:
    """Returns the bytes of activations that one more row a device needs (an upper bound where `tensor` splits them)."""
    model = config.model
    live = 0 if model.remat == "none" else _KEPT["none"]  # the block that is being recomputed
    width = jnp.dtype(model.compute_dtype).itemsize * model.embed
    return config.data.length * width * (model.layers * _KEPT[model.remat] + live)


def estimated_bytes(config: Config, mesh: AnyMesh) -> int:
    """Returns the bytes a device needs by arithmetic: state, gradients, gathered weights, logits, activations."""
    model = config.model
    words = model.vocab_size // mesh.shape["tensor"]
    narrow = jnp.dtype(model.compute_dtype).itemsize
    held = state(config, mesh)
    trained = shard_bytes(held.params)
    gradients = trained * (1 if config.train.accumulation == 1 else 2)  # a micro-batch's, and the sum of them
    copies = 0 if config.lora.rank else trained * narrow // 4  # weights in the compute dtype
    gathered = 2 * 12 * model.embed**2 // mesh.shape["tensor"] * narrow  # one block's and the next one's
    head = words * model.embed * (narrow + 4)  # the table and its float32 gradient, whole rows
    positions = min(model.head_chunk, config.train.rows_per_device * config.data.length)
    logits = positions * words * (2 * 4 + narrow)
    activations = config.train.rows_per_device * row_bytes(config)
    return shard_bytes(held) + gradients + copies + gathered + head + logits + activations
