"""Rotary positions (RoPE, Su et al., arXiv 2104.09864): inverse frequencies and the rotation of queries and keys.

Scores depend on nothing but the distance of two tokens only in exact arithmetic. Therefore positions count from the
beginning of each segment, and angles, sines and products are float32 in any compute dtype: packed examples are rotated
exactly like separate ones.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Rotation = tuple[jax.Array, jax.Array]  # cosines and sines, float32 [..., batch, length, head_dim / 2]


def inverse_frequencies(head_dim: int, theta: float, scaling: str = "") -> np.ndarray:
    """Returns the angle per position of each pair of a head, float32 [head_dim / 2].

    Args:
      head_dim: even width of a head.
      theta: base of the frequencies.
      scaling: `model.rope_scaling`; `linear:F` divides all by F, `llama3:F:LOW:HIGH:ORIGINAL` those with a wavelength
        above ORIGINAL / LOW, and those between that and ORIGINAL / HIGH by a factor between 1 and F (HF's
        `_compute_llama3_parameters`).
    """
    frequencies = 1 / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if not scaling:
        return frequencies
    kind, *numbers = scaling.split(":")
    factor, *rest = map(float, numbers)
    if kind == "linear":
        return (frequencies / factor).astype(np.float32)
    low, high, original = rest
    smooth = np.clip((original * frequencies / (2 * math.pi) - low) / (high - low), 0, 1)
    return (frequencies * ((1 - smooth) / factor + smooth)).astype(np.float32)


def angles(frequencies: np.ndarray, positions: jax.Array) -> Rotation:
    """Returns cosines and sines, float32 [kinds, batch, length, head_dim / 2].

    Args:
      frequencies: float32 [kinds, head_dim / 2], of each kind of layer.
      positions: int [batch, length].
    """
    turned = positions.astype(jnp.float32)[None, :, :, None] * jnp.asarray(frequencies)[:, None, None, :]
    return jnp.cos(turned), jnp.sin(turned)


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotates the pairs (i, i + head_dim / 2) of x [batch, length, heads, head_dim]; same shape and dtype out."""
    cosines, sines = (part[:, :, None] for part in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
