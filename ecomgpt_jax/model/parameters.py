"""The one parameter table of BLOOM: initialisation, sharding, counting and the HF layout all read it."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.parallel.sharding import array_sharding, check_split

# Nested dictionaries of arrays, shaped as the table's paths say. Under "blocks" arrays are stacked; layered params, as
# decoding reads them, have a tuple there, one pytree per block.
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One array of the model.

    Attributes:
      path: keys in the params pytree.
      shape: its shape; the arrays of all blocks are stacked on a leading `layers` axis.
      axes: logical names of its axes (parallel/sharding.py gives them mesh axes).
      initializer: `(key, shape, dtype) -> array` of a fresh model.
      hf_name: name in an HF checkpoint, with `{layer}` where there is one tensor a block.
      inputs: how many axes after `layers` a matrix product sums over; 0 for what is no kernel.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    initializer: Callable[..., jax.Array]
    hf_name: str
    inputs: int = 0

    @property
    def name(self) -> str:
        """The path as one word, for messages."""
        return "/".join(self.path)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def stacked(self) -> bool:
        """Whether the first axis counts blocks."""
        return self.axes[0] == "layers"

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of one block's part (of the whole, where nothing is stacked)."""
        return self.shape[1:] if self.stacked else self.shape

    @property
    def hf_names(self) -> tuple[str, ...]:
        """Names of its HF tensors, in order of the blocks."""
        return tuple(self.hf_name.format(layer=i) for i in range(self.shape[0])) if self.stacked else (self.hf_name,)

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of one HF tensor: torch's `Linear` keeps [out, in], and fused axes are flat."""
        if not self.inputs:
            return (math.prod(self.layer_shape),) if self.stacked else self.shape
        return math.prod(self.layer_shape[self.inputs :]), math.prod(self.layer_shape[: self.inputs])

    def from_hf(self, tensor: np.ndarray) -> np.ndarray:
        """Lays one HF tensor out as `layer_shape`."""
        return (tensor.T if self.inputs else tensor).reshape(self.layer_shape)

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """Lays one block's part out as `hf_shape`; the inverse of `from_hf`."""
        return array.reshape(self.hf_shape[::-1]).T if self.inputs else array.reshape(self.hf_shape)


def parameter_table(model: ModelConfig) -> tuple[Parameter, ...]:
    """Returns every parameter of the model; all are float32. The HF names are BloomForCausalLM's, without prefix.

    Raises:
      ConfigError: the model's shape is not filled in (`resolve` and, for `vocab_size=0`, the tokenizer do that).
    """
    for field in ("embed", "layers", "heads", "vocab_size"):
        if getattr(model, field) <= 0:
            raise ConfigError(
                f"config: model.{field} is {getattr(model, field)}; resolve the config before building a model"
            )
    layers, embed, heads, mlp = model.layers, model.embed, model.heads, 4 * model.embed
    head_dim = embed // heads
    normal = jax.nn.initializers.normal(model.initializer_range)
    zeros, ones = jax.nn.initializers.zeros, jax.nn.initializers.ones

    def norm(path: str, hf: str) -> list[Parameter]:
        keys = path.split("/")
        shape, axes = ((layers, embed), ("layers", "embed_vector")) if len(keys) > 1 else ((embed,), ("embed_vector",))
        return [
            Parameter((*keys, "scale"), shape, axes, ones, f"{hf}.weight"),
            Parameter((*keys, "bias"), shape, axes, zeros, f"{hf}.bias"),
        ]

    def linear(name: str, hf: str, ins: dict[str, int], outs: dict[str, int]) -> list[Parameter]:
        bias_axes = ("embed_vector",) if tuple(outs) == ("embed",) else tuple(outs)
        hf = f"h.{{layer}}.{hf}"
        kernel_shape, kernel_axes = (*ins.values(), *outs.values()), (*ins, *outs)
        return [
            Parameter(
                ("blocks", name, "kernel"), (layers, *kernel_shape), ("layers", *kernel_axes), normal,
                f"{hf}.weight", len(ins),
            ),
            Parameter(("blocks", name, "bias"), (layers, *outs.values()), ("layers", *bias_axes), zeros, f"{hf}.bias"),
        ]  # fmt: skip

    head_axes = {"heads": heads, "head_dim": head_dim}
    return (
        Parameter(
            ("embedding", "table"), (model.vocab_size, embed), ("vocab", "embed"), normal, "word_embeddings.weight"
        ),
        *norm("embedding_norm", "word_embeddings_layernorm"),
        *norm("blocks/input_norm", "h.{layer}.input_layernorm"),
        *linear(
            "qkv", "self_attention.query_key_value", {"embed": embed},
            {"heads": heads, "qkv": 3, "head_dim": head_dim},
        ),
        *linear("attention_out", "self_attention.dense", head_axes, {"embed": embed}),
        *norm("blocks/post_norm", "h.{layer}.post_attention_layernorm"),
        *linear("mlp_up", "mlp.dense_h_to_4h", {"embed": embed}, {"mlp": mlp}),
        *linear("mlp_down", "mlp.dense_4h_to_h", {"mlp": mlp}, {"embed": embed}),
        *norm("final_norm", "ln_f"),
    )  # fmt: skip


def to_tree(leaves: dict[tuple[str, ...], Any]) -> Params:
    """Nests {path: leaf} into the shape of the params pytree."""
    tree: Params = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def to_layers(leaves: dict[tuple[str, ...], Any]) -> Params:
    """Nests {path: leaf} into layered params; the leaf of a stacked parameter is a sequence with an array per block."""
    stacked = {path[1:]: arrays for path, arrays in leaves.items() if path[0] == "blocks"}
    layers = range(len(next(iter(stacked.values()))))
    blocks = tuple(to_tree({path: arrays[layer] for path, arrays in stacked.items()}) for layer in layers)
    return to_tree({path: leaf for path, leaf in leaves.items() if path[0] != "blocks"}) | {"blocks": blocks}


def of_layer(sharding: Sharding) -> Sharding:
    """Returns the sharding of one block's part of a stacked array."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


@partial(jax.jit, static_argnames="dtype")
def unstack(stacked: jax.Array, dtype: str) -> tuple[jax.Array, ...]:
    """Returns the array of each block [...] of a stacked parameter [layers, ...], in `dtype`."""
    return tuple(layer.astype(dtype) for layer in jnp.unstack(stacked))


def split_layers(params: Params, model: ModelConfig, mesh: Mesh | None = None, *, consume: bool = False) -> Params:
    """Returns layered params in the compute dtype; arrays that are right already are returned as they are.

    From stacked params it makes one copy, a parameter at a time. Decoding reads layered ones because a slice of a
    stacked array is copied every time it is read, and a cast reads the wider array again.

    Args:
      params: the model's parameters, stacked or layered.
      model: their shape and compute dtype.
      mesh: where the copy goes; None: where `params` are.
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
            new = jax.device_put(new, of_layer(place) if parameter.stacked else place)
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
      ConfigError: a parameter that the mesh does not divide, an axis without a rule, or too much left whole.
    """
    table = parameter_table(model)
    shardings = [array_sharding(p.name, p.shape, p.axes, mesh) for p in table]
    check_split([(p.shape, sharding) for p, sharding in zip(table, shardings, strict=True)], mesh)
    return to_tree({p.path: sharding for p, sharding in zip(table, shardings, strict=True)})


def param_shapes(model: ModelConfig, dtype: Any = np.float32) -> Params:
    """Returns the params pytree with a `jax.ShapeDtypeStruct` at every leaf."""
    return to_tree({p.path: jax.ShapeDtypeStruct(p.shape, dtype) for p in parameter_table(model)})


def parameter_count(model: ModelConfig) -> int:
    """Returns the number of weights; the tied head counts once."""
    return sum(math.prod(parameter.shape) for parameter in parameter_table(model))


def flops_per_token(model: ModelConfig, length: int, target_fraction: float = 1.0) -> float:
    """Returns the training FLOPs of one token of a row: forward, and twice that for the backward.

    Counts two per multiply-add of every kernel, of the tied head at the share of positions that have a target, and of
    causal attention once over the (length + 1) / 2 keys that a query sees on average (scores and context); norms,
    softmax and rematerialisation do not count.
    """
    table = parameter_table(model)
    kernels = sum(math.prod(parameter.shape) for parameter in table if parameter.inputs)
    head = target_fraction * model.vocab_size * model.embed
    attention = model.layers * model.embed * (length + 1)
    return 3 * 2 * (kernels + head + attention)
