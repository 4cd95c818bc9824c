"""Causal attention with ALiBi inside packed segments.

Softmax ignores a constant per query, so ALiBi needs only the distance `key - query`, and neither packing nor left
padding needs positions: `segment_ids` is enough. Padding (segment 0) attends to the padding before it, which keeps its
outputs and gradients finite; no real token sees it.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model import fused_attention
from ecomgpt_jax.parallel.sharding import ambient_mesh

IMPLEMENTATIONS = ("auto", "reference", "xla", "cudnn", "splash")
_HOME = {"cudnn": "gpu", "splash": "tpu"}  # the platform that has the kernel
_QUERY_BLOCK = 128  # queries whose scores exist at one time in the `xla` implementation
_MASKED = -1e30  # finite, so that no row of scores can turn into nan


def alibi_slopes(heads: int) -> np.ndarray:
    """Returns the float32 slope of each head [heads], as HF's `build_alibi_tensor` (modeling_bloom.py) has them.

    2^(-8/n), 2^(-16/n), … for a power of two n; any other count takes those of the power of two below, then every
    second slope of the power of two above.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = np.float32(2.0 ** (-8 / below)) ** np.arange(1, below + 1, dtype=np.float32)
    between = np.float32(2.0 ** (-4 / below)) ** np.arange(1, 2 * (heads - below), 2, dtype=np.float32)
    return np.concatenate([slopes, between])


def resolve_implementation(name: str, dtype: jax.typing.DTypeLike, head_dim: int, platform: str | None = None) -> str:
    """Returns the implementation that runs for a configured name.

    `auto` is `splash` on a TPU and `cudnn` on a GPU that can, both in bfloat16 only, and `xla` everywhere else.

    Args:
      name: `model.attention`.
      dtype: of queries, keys and values.
      head_dim: their last size.
      platform: `cpu`, `gpu` or `tpu`; None: that of the ambient mesh, or of the default device outside one.

    Raises:
      ConfigError: an unknown name, or a kernel that this platform or dtype does not have.
    """
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f"model.attention={name!r} is none of {', '.join(IMPLEMENTATIONS)}")
    if platform is None:
        mesh = ambient_mesh()
        platform = mesh.abstract_device.platform if mesh and mesh.abstract_device else jax.default_backend()
    narrow = jnp.dtype(dtype) == jnp.bfloat16
    if name == "auto":
        if narrow and platform == "tpu":
            return "splash"
        if narrow and platform == "gpu" and _cudnn_takes(fused_attention.folded_width(head_dim)):
            return "cudnn"
        return "xla"
    if name in _HOME:
        if platform != _HOME[name]:
            raise ConfigError(f"model.attention={name} runs on {_HOME[name]}, and this is {platform}; use auto")
        if not narrow:
            raise ConfigError(f"model.attention={name} needs model.compute_dtype=bfloat16, not {dtype}; use auto")
    return name


def _cudnn_takes(width: int) -> bool:
    """Whether this machine's GPU has flash attention of this head dimension: up to 128 from Ampere, 256 from Hopper."""
    capability = float(jax.local_devices(backend="gpu")[0].compute_capability)
    return capability >= 9 or (capability >= 8 and width <= 128)


def matmul_precision(dtype: jax.typing.DTypeLike) -> jax.lax.Precision | None:
    """Returns what makes float32 products float32 (accelerators round them by default); bfloat16 needs nothing."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _softmax_context(
    q: jax.Array, k: jax.Array, v: jax.Array, q_segments: jax.Array, k_segments: jax.Array, first: int
) -> jax.Array:
    """Attends from queries at rows `first`… to keys at rows 0…; scores, bias and softmax are float32."""
    precision = matmul_precision(q.dtype)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=precision, preferred_element_type=jnp.float32)
    distance = jnp.arange(k.shape[1])[None, :] - (first + jnp.arange(q.shape[1]))[:, None]
    slopes = jnp.asarray(alibi_slopes(q.shape[2]))[:, None, None]
    scores = scores * (1 / math.sqrt(q.shape[-1])) + slopes * distance.astype(jnp.float32)
    visible = (distance <= 0) & (q_segments[:, :, None] == k_segments[:, None, :])
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, _MASKED), axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=precision)


def _xla(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Blocks of queries, each against the keys up to its end; the backward pass recomputes a block's scores."""
    length = q.shape[1]
    contexts = []
    for first in range(0, length, _QUERY_BLOCK):
        end = min(first + _QUERY_BLOCK, length)
        block = jax.checkpoint(partial(_softmax_context, first=first), prevent_cse=False)
        contexts.append(block(q[:, first:end], k[:, :end], v[:, :end], segment_ids[:, first:end], segment_ids[:, :end]))
    return contexts[0] if len(contexts) == 1 else jnp.concatenate(contexts, axis=1)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None = None, implementation: str = "auto"
) -> jax.Array:
    """Attends causally within segments.

    Args:
      q: queries [batch, length, heads, head_dim] in the compute dtype.
      k: keys, same shape.
      v: values, same shape.
      segment_ids: int [batch, length], 0 is padding; None: each row is one segment.
      implementation: `reference` (all scores at once), `xla` (blocks of queries, less memory and half the work),
        `cudnn`, `splash` (fused kernels, `fused_attention.py`; segments must be runs) or `auto`.

    Returns:
      [batch, length, heads, head_dim] in the dtype of `v`.

    Raises:
      ConfigError: an unknown implementation, or one that this platform or dtype does not have.
    """
    if segment_ids is None:
        segment_ids = jnp.ones(q.shape[:2], jnp.int32)
    implementation = resolve_implementation(implementation, q.dtype, q.shape[-1])
    if implementation in _HOME:
        kernel = fused_attention.cudnn if implementation == "cudnn" else fused_attention.splash
        return kernel(q, k, v, segment_ids, alibi_slopes(q.shape[2]))
    if implementation == "reference":
        context = _softmax_context(q, k, v, segment_ids, segment_ids, first=0)
    else:
        context = _xla(q, k, v, segment_ids)
    return jax.ad_checkpoint.checkpoint_name(context, fused_attention.CONTEXT)
