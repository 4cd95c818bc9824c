"""Estimates the bytes per device at each stage of a run by arithmetic, without compiling or using a device."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh

from ecomgpt_jax.config import Config, ModelConfig, parse_mesh
from ecomgpt_jax.model.parameters import parameter_table
from ecomgpt_jax.parallel.mesh import AXES, batch_shards, mesh_shape
from ecomgpt_jax.parallel.sharding import array_sharding
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import TrainState, abstract_state

STEPS = 1000  # of the schedule; the sizes do not depend on it
AnyMesh = Mesh | AbstractMesh


def shard_bytes(tree: Any) -> int:
    """Returns the bytes of abstract arrays on one device, by their shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def state(config: Config, mesh: AnyMesh) -> TrainState:
    """Returns the training state as shapes with shardings."""
    return abstract_state(config, make_optimizer(config.optimizer, STEPS), mesh)


def state_bytes(config: Config, mesh: AnyMesh) -> int:
    """Returns the bytes of weights and optimizer state on one device."""
    return shard_bytes(state(config, mesh))


def _kept(model: ModelConfig, remat: str) -> int:
    """Returns the number of values per token that each block keeps for the backward pass, its input included."""
    heads = 2 * (model.heads + model.key_heads) * model.head_width  # q, k, v and context
    products = 1 if model.family == "bloom" else 2  # of the MLP; in addition it keeps the input of the last one
    return {
        "none": 4 * model.embed + heads + (products + 1) * model.mlp_width,
        "dots": 3 * model.embed + heads + products * model.mlp_width,
        "selective": 2 * model.embed + heads,
        "full": model.embed,
    }[remat]


def _kernels(model: ModelConfig) -> list[int]:
    """Returns the number of weights of each kernel of one block."""
    return [math.prod(p.layer_shape) for p in parameter_table(model) if p.stacked and p.inputs]


def _activation_width(dtype: str, mesh: AnyMesh) -> int:
    """Returns the bytes of an activation or cached value of a model that computes in `dtype`.

    A CPU holds them in float32 (`product.stream_dtype`); those that layers keep in bfloat16 XLA converts as a whole
    before it goes back through the layers. An abstract mesh stands for accelerators.
    """
    on_cpu = isinstance(mesh, Mesh) and mesh.devices.flat[0].platform == "cpu"
    return 4 if on_cpu else jnp.dtype(dtype).itemsize


def row_bytes(config: Config, mesh: AnyMesh) -> int:
    """Returns the bytes of activations per row on a device (an upper bound where `tensor` splits them)."""
    model = config.model
    live = 0 if model.remat == "none" else _kept(model, "none")  # the block being recomputed
    width = _activation_width(model.compute_dtype, mesh)
    return config.data.length * width * (model.layers * _kept(model, model.remat) + live)


def estimated_bytes(config: Config, mesh: AnyMesh) -> int:
    """Returns the bytes per device for training: state, gradients, gathered weights, logits, activations."""
    model = config.model
    words = model.vocab_size // mesh.shape["tensor"]
    narrow = jnp.dtype(model.compute_dtype).itemsize
    held = state(config, mesh)
    trained = shard_bytes(held.params)
    gradients = trained * (1 if config.train.accumulation == 1 else 2)  # of a micro-batch, and their sum
    copies = 0 if config.lora.rank else trained * narrow // 4  # weights in the compute dtype
    gathered = 2 * sum(_kernels(model)) // mesh.shape["tensor"] * narrow  # of one block and the next one
    head = words * model.embed * (narrow + 4)  # the table and its float32 gradient, whole rows
    positions = min(model.head_chunk, config.train.rows_per_device * config.data.length)
    logits = positions * words * (2 * 4 + narrow)
    activations = config.train.rows_per_device * row_bytes(config, mesh)
    return shard_bytes(held) + gradients + copies + gathered + head + logits + activations


def _weight_bytes(config: Config, mesh: AnyMesh, dtype: str) -> int:
    """Returns the bytes of all weights in `dtype` on one device."""
    table = parameter_table(config.model)
    shards = (array_sharding(p.name, p.shape, p.axes, mesh).shard_shape(p.shape) for p in table)
    return sum(math.prod(shard) for shard in shards) * jnp.dtype(dtype).itemsize


def _evaluation_mesh(config: Config, mesh: AnyMesh) -> AnyMesh:
    if not config.eval.mesh:
        return mesh
    return AbstractMesh(mesh_shape(parse_mesh(config.eval.mesh), mesh.size), AXES, axis_types=(AxisType.Auto,) * 3)


def evaluation_bytes(config: Config, mesh: AnyMesh) -> int:
    """Returns the bytes per device for decoding `eval.batch` prompts during training.

    Decoding reads a copy of the weights, block by block, in `eval.dtype` on `eval.mesh`. With LoRA the merged weights
    replace the base, and are copied only for another dtype or mesh. Cache, prompts in prefill (a quarter of the batch),
    gathered weights and logits are added.
    """
    model, settings, held = config.model, config.eval, state(config, mesh)
    dtype, at = settings.dtype or model.compute_dtype, _evaluation_mesh(config, mesh)
    narrow, wide, tensor = jnp.dtype(dtype).itemsize, _activation_width(dtype, mesh), at.shape["tensor"]
    beside = shard_bytes((held.params, held.optimizer))
    if config.lora.rank and (dtype != model.compute_dtype or at is not mesh):
        beside += _weight_bytes(config, mesh, model.compute_dtype)
    rows, words = math.ceil(settings.batch * settings.num_beams / batch_shards(at)), model.vocab_size // tensor
    held_heads = model.key_heads // tensor if model.key_heads % tensor == 0 else model.key_heads
    cached = model.layers * 2 * held_heads * model.head_width * wide  # keys and values of a token
    cache = rows * (settings.max_prompt_tokens + settings.max_new_tokens) * cached
    reading = math.ceil(rows / 4) * settings.max_prompt_tokens * (cached + _kept(model, "none") * wide)
    gathered = (2 * sum(_kernels(model)) // tensor + words * model.embed) * narrow if at.shape["fsdp"] > 1 else 0
    return beside + _weight_bytes(config, at, dtype) + cache + reading + gathered + rows * words * 2 * 4


def stage_bytes(config: Config, mesh: AnyMesh) -> dict[str, int]:
    """Returns the bytes per device at each stage of a run: loading, training, with LoRA merging, evaluation.

    Loading needs the weights and the tensor (of the embedding some rows) being read; merging needs the state, and sum
    and product of one block's kernel in float32. Stages that the run does not have are left out.
    """
    lora = config.lora.rank > 0
    dtype = config.model.compute_dtype if lora else "float32"
    tensor = max(_kernels(config.model)) // (mesh.shape["fsdp"] * mesh.shape["tensor"])  # of one block
    stages = {
        "loading": _weight_bytes(config, mesh, dtype) + tensor * jnp.dtype(dtype).itemsize,
        "training": estimated_bytes(config, mesh),
    }
    if lora:
        stages["merging"] = state_bytes(config, mesh) + 2 * tensor * 4
    if config.train.final_evaluation or config.eval.every:
        stages["evaluation"] = evaluation_bytes(config, mesh)
    return stages


def describe(stages: dict[str, int]) -> str:
    """Returns the result of `stage_bytes` as text: "loading 1.04, training 5.31 GiB"."""
    return ", ".join(f"{name} {size / 2**30:.2f}" for name, size in stages.items()) + " GiB"
