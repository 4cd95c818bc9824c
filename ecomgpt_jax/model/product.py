"""Products of arrays: which dtype they are rounded to first, and in which one their sums are kept."""

from functools import partial

import jax
import jax.numpy as jnp

from ecomgpt_jax.parallel.sharding import ambient_platform


def matmul_precision(dtype: jax.typing.DTypeLike) -> jax.lax.Precision | None:
    """Returns what makes float32 products float32 (accelerators round them by default); bfloat16 needs nothing."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def narrower(x: jax.Array, y: jax.Array) -> jnp.dtype:
    """Returns the dtype of x or y that has fewer bytes."""
    return min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)


def stream_dtype(weights: jax.typing.DTypeLike, compute_dtype: str) -> jnp.dtype:
    """Returns the dtype of what flows between layers, of a model with `weights` of this dtype.

    It is the compute dtype, but float32 on a CPU whose weights are bfloat16: there only products are faster in
    bfloat16, with units like AMX, and everything else, which is computed in float32 anyway, would be converted twice.
    """
    narrow = jnp.bfloat16
    wide = ambient_platform() == "cpu" and jnp.dtype(weights) == jnp.dtype(compute_dtype) == narrow
    return jnp.dtype(jnp.float32 if wide else compute_dtype)


def product(
    equation: str, x: jax.Array, y: jax.Array, operands: jax.typing.DTypeLike, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """Returns the einsum of x and y, both rounded to the dtype `operands`, in `dtype`, by default that of x.

    A CPU has no kernel whose operands and results are bfloat16, and multiplies them as float32. With results in float32
    it has one, on AMX several times as fast; so there the gradient is rounded like the operands, before its products.

    Args:
      equation: of `jnp.einsum`, without an ellipsis; each letter occurs in two of the three arrays.
      x: any shape.
      y: any shape.
      operands: what both are rounded to; sums are float32.
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
