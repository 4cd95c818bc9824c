"""Products of arrays: the dtype to which inputs are rounded, and the dtype of sums and results."""

from functools import partial

import jax
import jax.numpy as jnp

from ecomgpt_jax.parallel.sharding import ambient_platform


def matmul_precision(dtype: jax.typing.DTypeLike) -> jax.lax.Precision | None:
    """Returns the precision that keeps products in float32 (accelerators round by default); None for bfloat16."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def narrower(x: jax.Array, y: jax.Array) -> jnp.dtype:
    """Returns the dtype of x or y that has fewer bytes."""
    return min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)


def stream_dtype(weights: jax.typing.DTypeLike, compute_dtype: str) -> jnp.dtype:
    """Returns the dtype of activations between layers, for a model with `weights` of this dtype.

    It is the compute dtype, except float32 on a CPU if the weights are bfloat16: there only products are faster in
    bfloat16, with units like AMX; other operations compute in float32 and would convert their inputs and results.
    """
    narrow = jnp.bfloat16
    wide = ambient_platform() == "cpu" and jnp.dtype(weights) == jnp.dtype(compute_dtype) == narrow
    return jnp.dtype(jnp.float32 if wide else compute_dtype)


def product(
    equation: str, x: jax.Array, y: jax.Array, operands: jax.typing.DTypeLike, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """Returns the einsum of x and y, both rounded to the dtype `operands`, in `dtype`, by default that of x.

    On a CPU bfloat16 products with bfloat16 results are computed as float32. With float32 results there is a kernel,
    which is several times as fast with AMX; so on a CPU gradients are rounded like the operands before their products.

    Args:
      equation: of `jnp.einsum`, without an ellipsis; each letter occurs in two of the three arrays.
      x: any shape.
      y: any shape.
      operands: dtype to which both are rounded; sums are float32.
      dtype: of the result.
    """
    operands, dtype = jnp.dtype(operands), jnp.dtype(dtype or x.dtype)
    if operands == jnp.bfloat16 and ambient_platform() == "cpu":
        return _rounded(equation, operands, dtype, x, y)
    x, y = x.astype(operands), y.astype(operands)
    return jnp.einsum(equation, x, y, precision=matmul_precision(operands), preferred_element_type=dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _rounded(equation: str, operands: jnp.dtype, dtype: jnp.dtype, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = x.astype(operands), y.astype(operands)
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32).astype(dtype)


def _rounded_forward(
    equation: str, operands: jnp.dtype, dtype: jnp.dtype, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _rounded(equation, operands, dtype, x, y), (x, y)


def _rounded_backward(
    equation: str, operands: jnp.dtype, dtype: jnp.dtype, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del dtype
    (x, y), (inputs, out) = kept, equation.split("->")
    first, second = inputs.split(",")
    d_x = _rounded(f"{out},{second}->{first}", operands, x.dtype, gradient, y)
    return d_x, _rounded(f"{first},{out}->{second}", operands, y.dtype, x, gradient)


_rounded.defvjp(_rounded_forward, _rounded_backward)
