"""The layers of the families, as Flax nnx modules, and the sharding of their activations."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ecomgpt_jax.model.product import narrower, product
from ecomgpt_jax.model.table import Params
from ecomgpt_jax.parallel.sharding import constrain

_AXES = "hijkl"  # of a layer's inputs or outputs, in equations
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (q, k, v) -> context
Declare = Callable[[str], nnx.Param | None]  # makes the parameter of a path; None where the table has none


@partial(jax.tree_util.register_dataclass, data_fields=("layers", "keys"), meta_fields=("scale", "dropout"))
@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters as an argument of the forward pass: of all blocks or, inside a scan over blocks, of one.

    Attributes:
      layers: {name of a linear layer: {"lora_a": [layers, in…, rank], "lora_b": [layers, rank, out…]}}.
      keys: [layers] random keys for the dropout of this forward pass; None: no dropout.
      scale: factor of their product, alpha / rank.
      dropout: share of the inputs that is dropped.
    """

    layers: Params
    keys: jax.Array | None
    scale: float
    dropout: float

    def __call__(self, name: str, x: jax.Array, operands: jnp.dtype) -> jax.Array:
        """Maps x [batch, length, in…] to the adapters' term in the output [batch, length, out…] of one layer.

        The inputs of products are rounded to the dtype `operands`.
        """
        a, b = self.layers[name]["lora_a"], self.layers[name]["lora_b"] * self.scale
        if self.keys is not None:
            key = jax.random.fold_in(self.keys, sorted(self.layers).index(name))
            x = jnp.where(jax.random.bernoulli(key, 1 - self.dropout, x.shape), x / (1 - self.dropout), 0)
        return _low_rank(operands, x, a.astype(operands), b.astype(operands))


def _low_rank_forward(
    operands: jnp.dtype, x: jax.Array, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    ins, outs = _AXES[: a.ndim - 1], _AXES[: b.ndim - 1]
    narrow = product(f"bt{ins},{ins}r->btr", x, a, operands)
    return product(f"btr,r{outs}->bt{outs}", narrow, b, operands), (x, narrow, a, b)


def _low_rank_backward(operands: jnp.dtype, kept: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    x, narrow, a, b = kept
    ins, outs = _AXES[: a.ndim - 1], _AXES[: b.ndim - 1]
    d_narrow = product(f"bt{outs},r{outs}->btr", gradient, b, operands)
    d_b = product(f"btr,bt{outs}->r{outs}", narrow, gradient, operands, b.dtype)
    d_a = product(f"btr,bt{ins}->r{ins}", d_narrow, x, operands, a.dtype)
    d_x = product(f"btr,{ins}r->bt{ins}", d_narrow, a, operands)
    return d_x, jnp.moveaxis(d_a, 0, -1), d_b


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _low_rank(operands: jnp.dtype, x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns x [batch, length, in…] times a [in…, rank] times b [rank, out…].

    For the transposed product that jax derives for b, XLA copies the gradient of the output into another layout on a
    CPU, which took a sixth of a training step; here only the narrow arrays are transposed.
    """
    return _low_rank_forward(operands, x, a, b)[0]


_low_rank.defvjp(_low_rank_forward, _low_rank_backward)


@partial(jax.checkpoint, prevent_cse=False)  # saves the input in the compute dtype, not the float32 intermediates
def _normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon) * scale + bias).astype(x.dtype)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=3)
def _normalise_rms(x: jax.Array, scale: jax.Array, epsilon: float, rounded: bool) -> jax.Array:
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return wide.astype(x.dtype) * scale.astype(x.dtype) if rounded else (wide * scale).astype(x.dtype)


@partial(jax.checkpoint, prevent_cse=False)
def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation with the constants of HF's BloomGelu; computed in float32, returned in x's dtype."""
    wide = x.astype(jnp.float32)
    return (wide * 0.5 * (1 + jnp.tanh(0.79788456 * wide * (1 + 0.044715 * wide * wide)))).astype(x.dtype)


class LayerNorm(nnx.Module):
    """LayerNorm with float32 statistics over the last axis."""

    def __init__(self, declare: Declare, path: str, epsilon: float) -> None:
        self.scale = declare(f"{path}/scale")
        self.bias = declare(f"{path}/bias")
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [..., width]; same shape and dtype out."""
        return _normalise(x, self.scale[...], self.bias[...], self.epsilon)


class RMSNorm(nnx.Module):
    """Division by the root of the mean square of the last axis, in float32, and a factor w, or 1 + w if `centred`.

    Rounding is as in HF: Llama multiplies the rounded quotient by the rounded w, Gemma (`centred`) rounds the product.
    """

    def __init__(self, declare: Declare, path: str, epsilon: float, *, centred: bool = False) -> None:
        self.scale = declare(f"{path}/scale")
        self.epsilon, self.centred = epsilon, centred

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [..., width]; same shape and dtype out."""
        scale = 1 + self.scale[...].astype(jnp.float32) if self.centred else self.scale[...]
        return _normalise_rms(x, scale, self.epsilon, not self.centred)


class Linear(nnx.Module):
    """Product over the last `inputs` axes of the input and the first ones of the kernel, plus any bias and adapters."""

    def __init__(self, declare: Declare, path: str, inputs: int = 1) -> None:
        self.name, self.inputs = path.split("/")[-1], inputs
        self.kernel = declare(f"{path}/kernel")
        self.bias = declare(f"{path}/bias")

    def __call__(self, x: jax.Array, adapters: Adapters | None = None) -> jax.Array:
        """Maps x [batch, length, in…] to [batch, length, out…] in x's dtype; `adapters` are those of this block."""
        kernel = self.kernel[...]
        operands = narrower(x, kernel)
        bias = None if self.bias is None else self.bias[...].astype(x.dtype)
        ins, outs = _AXES[: self.inputs], _AXES[self.inputs : kernel.ndim]
        y = product(f"bt{ins},{ins}{outs}->bt{outs}", x, kernel, operands)
        y = y if bias is None else y + bias
        return y if adapters is None or self.name not in adapters.layers else y + adapters(self.name, x, operands)


def in_decoding_step(x: jax.Array) -> bool:
    """Returns whether x [batch, length, ...] holds one token per row, as in a decoding step.

    In that case the weights are not gathered: each device multiplies its share of `embed` for the rows of its whole
    FSDP group and the results are summed. Gathering would leave the weights of all blocks on every device, since the
    compiler hoists it out of the loop over steps.
    """
    return x.ndim == 3 and x.shape[1] == 1


def residual(x: jax.Array) -> jax.Array:
    """Constrains the sharding of the residual stream, x [batch, length, embed]."""
    step = in_decoding_step(x)
    return constrain(x, "group_batch", "length", "embed") if step else constrain(x, "batch", "length", None)


class GroupedAttention(nnx.Module):
    """Base of blocks with separate q, k and v, of which groups of query heads share k and v, and a gated MLP.

    `query_norm` and `key_norm`, if the model has them, are applied to each head before the rotation.
    """

    def __init__(
        self, declare: Declare, query_norm: nnx.Module | None = None, key_norm: nnx.Module | None = None
    ) -> None:
        self.query = Linear(declare, "blocks/query")
        self.key = Linear(declare, "blocks/key")
        self.value = Linear(declare, "blocks/value")
        self.attention_out = Linear(declare, "blocks/attention_out", inputs=2)
        self.mlp_gate = Linear(declare, "blocks/mlp_gate")
        self.mlp_up = Linear(declare, "blocks/mlp_up")
        self.mlp_down = Linear(declare, "blocks/mlp_down")
        self.query_norm, self.key_norm = query_norm, key_norm

    def attention(self, x: jax.Array, attend: Attend, adapters: Adapters | None) -> jax.Array:
        """Maps the normalised x [batch, length, embed] to the term that attention adds to the residual stream."""
        rows = "group_batch" if in_decoding_step(x) else "batch"
        q = constrain(self.query(x, adapters), "batch", "length", "heads", "head_dim")
        k, v = (
            constrain(layer(x, adapters), "batch", "length", "kv_heads", "head_dim") for layer in (self.key, self.value)
        )
        q, k = q if self.query_norm is None else self.query_norm(q), k if self.key_norm is None else self.key_norm(k)
        context = attend(*(checkpoint_name(part, "qkv") for part in (q, k, v)))
        return self.attention_out(constrain(context, rows, "length", "heads", "head_dim"), adapters)

    def mlp(self, x: jax.Array, activate: Callable[[jax.Array], jax.Array], adapters: Adapters | None) -> jax.Array:
        """Maps the normalised x [batch, length, embed] to the term that the MLP adds to the residual stream."""
        rows = "group_batch" if in_decoding_step(x) else "batch"
        gate, up = (
            constrain(layer(x, adapters), rows, "length", "mlp") for layer in (self.mlp_gate, self.mlp_up)
        )  # fmt: skip
        return self.mlp_down(_gated(gate, up, activate), adapters)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _gated(gate: jax.Array, up: jax.Array, activate: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return (activate(gate.astype(jnp.float32)) * up.astype(jnp.float32)).astype(gate.dtype)
