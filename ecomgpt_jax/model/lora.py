"""LoRA (Hu et al., arXiv 2106.09685): low-rank adapters added to frozen kernels.

An adapted kernel is W + alpha / rank * A B, with A [in…, rank] and B [rank, out…] for each block. Only the pytree of
adapters is trained, in float32; the base is a separate params pytree, in the compute dtype.
`decoder.forward` takes both. Merging adds A B to one kernel of one block at a time, in float32.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from ecomgpt_jax.config import LoraConfig, ModelConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.layers import Adapters
from ecomgpt_jax.model.parameters import Parameter, Params, parameter_table, to_tree
from ecomgpt_jax.parallel.host_memory import return_freed_memory
from ecomgpt_jax.parallel.sharding import array_sharding


def adapted_kernels(model: ModelConfig, lora: LoraConfig) -> list[Parameter]:
    """Returns the kernels that the settings add adapters to.

    Raises:
      ConfigError: a target is not a layer of the family's blocks.
    """
    kernels = [p for p in parameter_table(model) if p.stacked and p.inputs]
    if unknown := set(lora.targets) - {p.path[1] for p in kernels}:
        raise ConfigError(
            f"lora.targets holds {', '.join(sorted(unknown))}: blocks of model.family={model.family} have the layers "
            f"{', '.join(p.path[1] for p in kernels)}"
        )
    return [p for p in kernels if p.path[1] in lora.targets]


def adapter_table(model: ModelConfig, lora: LoraConfig) -> tuple[Parameter, ...]:
    """Returns the parameters of the adapters, A and B for each target; HF names are PEFT's, without prefix.

    A starts uniform in ±1/sqrt(inputs) and B at zero, as in PEFT, so that training starts at the base model.
    """
    table = []
    for kernel in adapted_kernels(model, lora):
        split, module = 1 + kernel.inputs, kernel.hf_name.removesuffix(".weight")
        ins, outs = kernel.shape[1:split], kernel.shape[split:]

        def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, width: int = math.prod(ins)) -> jax.Array:
            bound = 1 / math.sqrt(width)
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        table += [
            Parameter(
                (*kernel.path[:2], "lora_a"), (model.layers, *ins, lora.rank), (*kernel.axes[:split], "rank"), uniform,
                f"{module}.lora_A.weight", len(ins), kernel.hf_prefix,
            ),
            Parameter(
                (*kernel.path[:2], "lora_b"), (model.layers, lora.rank, *outs),
                ("layers", "rank", *kernel.axes[split:]), jax.nn.initializers.zeros, f"{module}.lora_B.weight", 1,
                kernel.hf_prefix,
            ),
        ]  # fmt: skip
    return tuple(table)


def adapter_shapes(model: ModelConfig, lora: LoraConfig) -> Params:
    """Returns the adapters' pytree with a float32 `jax.ShapeDtypeStruct` at every leaf."""
    return to_tree({p.path: jax.ShapeDtypeStruct(p.shape, jnp.float32) for p in adapter_table(model, lora)})


def adapter_shardings(model: ModelConfig, lora: LoraConfig, mesh: Mesh) -> Params:
    """Returns the adapters' pytree with a `NamedSharding` at every leaf; axes are split as in the kernels.

    Raises:
      ConfigError: the mesh does not divide an adapter.
    """
    table = adapter_table(model, lora)
    return to_tree({p.path: array_sharding(p.name, p.shape, p.axes, mesh) for p in table})


def init_adapters(model: ModelConfig, lora: LoraConfig, mesh: Mesh, key: jax.Array) -> Params:
    """Returns fresh adapters, float32, created sharded on `mesh`."""
    table = adapter_table(model, lora)

    def fresh(key: jax.Array) -> Params:
        keys = jax.random.split(key, len(table))
        return to_tree({p.path: p.initializer(k, p.shape, jnp.float32) for p, k in zip(table, keys, strict=True)})

    with jax.set_mesh(mesh):
        return jax.jit(fresh, out_shardings=adapter_shardings(model, lora, mesh))(key)


def make_adapters(trained: Params, lora: LoraConfig, key: jax.Array | None = None) -> Adapters:
    """Returns the adapters as an argument of the forward pass.

    Args:
      trained: from `init_adapters`; gradients flow here.
      lora: rank, alpha, dropout.
      key: for the dropout of this forward pass; None: no dropout.
    """
    layers = trained["blocks"]
    count = len(jax.tree.leaves(layers)[0])
    keys = jax.random.split(key, count) if key is not None and lora.dropout else None
    return Adapters(layers, keys, lora.alpha / lora.rank, lora.dropout)


@jax.jit
def merge_layer(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """Returns one block's kernel [in…, out…] with its adapters a [in…, rank] and b [rank, out…] added, float32."""
    return kernel.astype(jnp.float32) + scale * jnp.tensordot(a, b, axes=1, precision=jax.lax.Precision.HIGHEST)


@lru_cache(maxsize=64)
def _merging(sharding: Sharding, dtype: jnp.dtype, in_place: bool) -> Callable[..., jax.Array]:
    """Returns the program that merges a stacked kernel [layers, in…, out…] block by block."""

    def merged(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
        def put(index: jax.Array, made: jax.Array) -> jax.Array:
            old = made if in_place else kernel
            return made.at[index].set(merge_layer(old[index], a[index], b[index], scale).astype(dtype))

        return jax.lax.fori_loop(0, len(kernel), put, kernel if in_place else jnp.zeros(kernel.shape, dtype))

    return jax.jit(merged, out_shardings=sharding, donate_argnums=0 if in_place else ())


def merge(base: Params, adapters: Adapters, dtype: jax.typing.DTypeLike) -> Params:
    """Returns parameters equivalent to base and adapters; the base's arrays are deleted.

    Arrays are merged one after the other, stacked kernels block by block: besides the result at most one array of the
    base is in memory, and none if the dtype stays the same.

    Args:
      base: stacked, or layered (`blocks` is a tuple with one pytree per block).
      adapters: stacked.
      dtype: of the result.
    """
    dtype = jnp.dtype(dtype)

    def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        layer, kind = path[-2].key, path[-1].key
        if kind == "kernel" and layer in adapters.layers:
            a, b = (adapters.layers[layer][name] for name in ("lora_a", "lora_b"))
            if isinstance(index := path[1], jax.tree_util.SequenceKey):
                made = merge_layer(leaf, a[index.idx], b[index.idx], adapters.scale).astype(dtype)
                made = jax.device_put(made, leaf.sharding)
            else:
                made = _merging(leaf.sharding, dtype, leaf.dtype == dtype)(leaf, a, b, adapters.scale)
        else:
            made = leaf.astype(dtype)
        if made is not leaf and not leaf.is_deleted():
            jax.block_until_ready(made)
            leaf.delete()
            return_freed_memory()
        return made

    return jax.tree_util.tree_map_with_path(one, base)
