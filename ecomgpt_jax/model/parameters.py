"""The parameter table of a model, from which initialisation, sharding, counting and the HF layout are derived."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.families import family_of
from ecomgpt_jax.model.table import Parameter, Params
from ecomgpt_jax.parallel.sharding import array_sharding, check_split, replicates


def parameter_table(model: ModelConfig) -> tuple[Parameter, ...]:
    """Returns every parameter of the model; all are float32.

    Raises:
      ConfigError: the model's shape is incomplete (`resolve` fills it in, for `vocab_size=0` after the tokenizer).
    """
    for field in ("embed", "layers", "heads", "vocab_size"):
        if getattr(model, field) <= 0:
            raise ConfigError(
                f"config: model.{field} is {getattr(model, field)}; resolve the config before building a model"
            )
    return family_of(model).parameter_table(model)


def to_tree(leaves: dict[tuple[str, ...], Any]) -> Params:
    """Returns {path: leaf} nested as in the params pytree."""
    tree: Params = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def to_layers(leaves: dict[tuple[str, ...], Any]) -> Params:
    """Returns {path: leaf} as layered params; the leaf of a stacked parameter is a sequence with an array per block."""
    stacked = {path[1:]: arrays for path, arrays in leaves.items() if path[0] == "blocks"}
    layers = range(len(next(iter(stacked.values()))))
    blocks = tuple(to_tree({path: arrays[layer] for path, arrays in stacked.items()}) for layer in layers)
    return to_tree({path: leaf for path, leaf in leaves.items() if path[0] != "blocks"}) | {"blocks": blocks}


def layer_sharding(sharding: Sharding) -> Sharding:
    """Returns the sharding of one block's part of a stacked array."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


@partial(jax.jit, static_argnames="dtype")
def unstack(stacked: jax.Array, dtype: str) -> tuple[jax.Array, ...]:
    """Returns the array of each block [...] of a stacked parameter [layers, ...], in `dtype`."""
    return tuple(layer.astype(dtype) for layer in jnp.unstack(stacked))


def split_layers(params: Params, model: ModelConfig, mesh: Mesh | None = None, *, consume: bool = False) -> Params:
    """Returns layered params in the compute dtype; arrays that are already so are returned unchanged.

    Stacked params are copied once, one parameter at a time. Decoding needs layered ones because a slice of a stacked
    array is copied every time it is read, and a cast would read the wider array again.

    Args:
      params: the model's parameters, stacked or layered.
      model: their shape and compute dtype.
      mesh: devices of the copy; None: those of `params`.
      consume: delete each array of stacked `params` as soon as it is copied.
    """
    dtype, leaves, layered = model.compute_dtype, {}, isinstance(params["blocks"], tuple)
    shardings = None if mesh is None else param_shardings(model, mesh)
    for parameter in parameter_table(model):
        path = parameter.path
        if not parameter.stacked:
            old = leaf_of(params, path)
            new = old.astype(dtype)
        elif layered:
            old = [leaf_of(block, path[1:]) for block in params["blocks"]]
            new = [array.astype(dtype) for array in old]
        else:
            old = leaf_of(params, path)
            new = list(unstack(old, dtype))
        if shardings is not None:
            place = leaf_of(shardings, path)
            new = jax.device_put(new, layer_sharding(place) if parameter.stacked else place)
        if consume and not layered and new is not old:
            jax.block_until_ready(new)
            old.delete()
        leaves[path] = new
    return to_layers(leaves)


def leaf_of(params: Params, path: tuple[str, ...]) -> Any:
    """Returns the leaf of a params-shaped pytree at `path`."""
    for key in path:
        params = params[key]
    return params


def param_shardings(model: ModelConfig, mesh: Mesh | AbstractMesh) -> Params:
    """Returns the params pytree with a `NamedSharding` at every leaf.

    Raises:
      ConfigError: the mesh does not divide a parameter, an axis has no rule, or too much would be replicated.
    """
    table = parameter_table(model)
    shardings = [array_sharding(p.name, p.shape, p.axes, mesh) for p in table]
    # Keys and values of heads that several devices share are replicated intentionally.
    split = [(p.shape, s) for p, s in zip(table, shardings, strict=True) if not replicates(p.shape, p.axes, mesh)]
    check_split(split, mesh)
    return to_tree({p.path: sharding for p, sharding in zip(table, shardings, strict=True)})


def param_shapes(model: ModelConfig, dtype: Any = np.float32) -> Params:
    """Returns the params pytree with a `jax.ShapeDtypeStruct` at every leaf."""
    return to_tree({p.path: jax.ShapeDtypeStruct(p.shape, dtype) for p in parameter_table(model)})


def parameter_count(model: ModelConfig) -> int:
    """Returns the number of weights; the tied head counts once."""
    return sum(math.prod(parameter.shape) for parameter in parameter_table(model))


def flops_per_token(model: ModelConfig, length: int, target_fraction: float = 1.0) -> float:
    """Returns the training FLOPs of one token of a row: forward, and twice that for the backward.

    Counts two per multiply-add of every kernel, of the head at the share of positions that have a target, and of causal
    attention (scores and context) over the average number of keys per query: (length + 1) / 2, in a layer with a window
    fewer. Norms, softmax and rematerialisation do not count.
    """
    table = parameter_table(model)
    kernels = sum(math.prod(parameter.shape) for parameter in table if parameter.inputs)
    head = target_fraction * model.vocab_size * model.embed
    full = length * (length + 1) // 2  # pairs of a query and a key that it attends to
    seen = full - max(0, length - model.window) * (length - model.window + 1) // 2 if model.window else full
    pairs = sum(seen if slides else full for slides in model.slides)
    attention = pairs * 2 * model.heads * model.head_width // length
    return 3 * 2 * (kernels + head + attention)
