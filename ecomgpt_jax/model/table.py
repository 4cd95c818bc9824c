"""Entries of a parameter table: for one array, and for norms and linear layers.

A family (`model/families/`) declares its network as a tuple of `Parameter`, from which initialisation, sharding,
counting and the HF layout are derived (`model/parameters.py`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ecomgpt_jax.config import ModelConfig

# Nested dictionaries of arrays by the table's paths. The arrays in "blocks" are stacked; in layered params, for
# decoding, "blocks" is a tuple with one pytree per block.
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One array of the model.

    Attributes:
      path: keys in the params pytree.
      shape: its shape; the arrays of all blocks are stacked on a leading `layers` axis.
      axes: logical names of its axes (parallel/sharding.py maps them to mesh axes).
      initializer: `(key, shape, dtype) -> array` of a fresh model.
      hf_name: name in an HF checkpoint without prefix; contains `{layer}` if there is one tensor per block.
      inputs: number of axes after `layers` that a matrix product sums over; 0 for arrays that are not kernels.
      hf_prefix: HF's prefix of the name.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    initializer: Callable[..., jax.Array]
    hf_name: str
    inputs: int = 0
    hf_prefix: str = "transformer."

    @property
    def name(self) -> str:
        """The path as text, for messages."""
        return "/".join(self.path)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def stacked(self) -> bool:
        """Whether the first axis is that of the blocks."""
        return self.axes[0] == "layers"

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of one block's part, or of the whole parameter if it is not stacked."""
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
        """Reshapes and transposes one HF tensor to `layer_shape`."""
        return (tensor.T if self.inputs else tensor).reshape(self.layer_shape)

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """Transposes and reshapes one block's part to `hf_shape`; the inverse of `from_hf`."""
        return array.reshape(self.hf_shape[::-1]).T if self.inputs else array.reshape(self.hf_shape)


Initializer = Callable[..., jax.Array]
Sizes = dict[str, int]  # {logical name of an axis: its size}
ZEROS, ONES = jax.nn.initializers.zeros, jax.nn.initializers.ones


def norm_entries(
    path: str, hf: str, layers: int, width: Sizes, prefix: str, *, biased: bool = False, scale: Initializer = ONES
) -> list[Parameter]:
    """Returns a norm's `scale` and `bias`, if it has one; `layers` is used only if `path` is in the blocks."""
    keys = path.split("/")
    stacked = {"layers": layers} if keys[0] == "blocks" else {}
    shape, axes = (*stacked.values(), *width.values()), (*stacked, *width)
    entries = [Parameter((*keys, "scale"), shape, axes, scale, f"{hf}.weight", hf_prefix=prefix)]
    if biased:
        entries.append(Parameter((*keys, "bias"), shape, axes, ZEROS, f"{hf}.bias", hf_prefix=prefix))
    return entries


def linear_entries(
    name: str, hf: str, layers: int, ins: Sizes, outs: Sizes, kernel: Initializer, prefix: str, *, biased: bool
) -> list[Parameter]:
    """Returns the kernel of a layer of the blocks and its bias, if it has one."""
    entries = [
        Parameter(
            ("blocks", name, "kernel"), (layers, *ins.values(), *outs.values()), ("layers", *ins, *outs), kernel,
            f"{hf}.weight", len(ins), prefix,
        )
    ]  # fmt: skip
    if biased:
        axes = ("embed_vector",) if tuple(outs) == ("embed",) else tuple(outs)
        entries.append(
            Parameter(
                ("blocks", name, "bias"), (layers, *outs.values()), ("layers", *axes), ZEROS, f"{hf}.bias",
                hf_prefix=prefix,
            )
        )  # fmt: skip
    return entries


def gated_entries(
    model: ModelConfig, kernel: Initializer, prefix: str, *, qkv_bias: bool, out_bias: bool
) -> list[Parameter]:
    """Returns the parameters that the blocks of Llama and Gemma share: q, k, v, o with grouped heads, gated MLP.

    Args:
      model: its shape.
      kernel: initializer of the kernels.
      prefix: of the HF names.
      qkv_bias: whether q, k and v have a bias.
      out_bias: whether o has one.
    """
    embed, mlp = {"embed": model.embed}, {"mlp": model.mlp_width}
    heads = {"heads": model.heads, "head_dim": model.head_width}
    kv_heads = {"kv_heads": model.key_heads, "head_dim": model.head_width}
    layers = (
        ("query", "self_attn.q_proj", embed, heads, qkv_bias),
        ("key", "self_attn.k_proj", embed, kv_heads, qkv_bias),
        ("value", "self_attn.v_proj", embed, kv_heads, qkv_bias),
        ("attention_out", "self_attn.o_proj", heads, embed, out_bias),
        ("mlp_gate", "mlp.gate_proj", embed, mlp, False),
        ("mlp_up", "mlp.up_proj", embed, mlp, False),
        ("mlp_down", "mlp.down_proj", mlp, embed, False),
    )
    return [
        entry
        for name, hf, ins, outs, biased in layers
        for entry in linear_entries(
            name, f"layers.{{layer}}.{hf}", model.layers, ins, outs, kernel, prefix, biased=biased
        )
    ]
