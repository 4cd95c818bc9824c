"""Causal attention inside packed segments, with ALiBi or a sliding window if the model has them.

Softmax ignores a constant per query, so ALiBi and a window need only the distance `key - query`: packing and left
padding require `segment_ids` and no positions. Rotations are applied to queries and keys by the caller (`rotation.py`).
Padding (segment 0) attends to the padding before it, which keeps its outputs and gradients finite; no real token
attends to it.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model import fused_attention
from ecomgpt_jax.model.product import product
from ecomgpt_jax.parallel.sharding import ambient_platform

IMPLEMENTATIONS = ("auto", "reference", "xla", "cudnn", "splash")
_HOME = {"cudnn": "gpu", "splash": "tpu"}  # platform of the kernel
_QUERY_BLOCK = 128  # queries whose scores exist at one time in the `xla` implementation
_MASKED = -1e30  # finite, so that no row of scores can turn into nan


def alibi_slopes(heads: int) -> np.ndarray:
    """Returns the float32 slope of each head [heads], as HF's `build_alibi_tensor` (modeling_bloom.py) does.

    2^(-8/n), 2^(-16/n), … for a power of two n; any other count has those of the next lower power of two, then every
    second slope of the next higher one.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = np.float32(2.0 ** (-8 / below)) ** np.arange(1, below + 1, dtype=np.float32)
    between = np.float32(2.0 ** (-4 / below)) ** np.arange(1, 2 * (heads - below), 2, dtype=np.float32)
    return np.concatenate([slopes, between])


def resolve_implementation(
    name: str, dtype: jax.typing.DTypeLike, head_dim: int, platform: str | None = None, *, alibi: bool = True
) -> str:
    """Returns the implementation that runs for a configured name.

    `auto` is `splash` on a TPU and `cudnn` on a GPU that supports it, both in bfloat16 only, and `xla` otherwise.

    Args:
      name: `model.attention`.
      dtype: of queries, keys and values.
      head_dim: their last size.
      platform: `cpu`, `gpu` or `tpu`; None: that of the ambient mesh, or of the default device outside one.
      alibi: whether slopes are folded into queries and keys, which makes them wider.

    Raises:
      ConfigError: an unknown name, or a kernel that this platform or dtype does not have.
    """
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f"model.attention={name!r} is none of {', '.join(IMPLEMENTATIONS)}")
    platform = platform or ambient_platform()
    narrow = jnp.dtype(dtype) == jnp.bfloat16
    if name == "auto":
        if narrow and platform == "tpu":
            return "splash"
        if narrow and platform == "gpu" and _cudnn_takes(fused_attention.folded_width(head_dim) if alibi else head_dim):
            return "cudnn"
        return "xla"
    if name in _HOME:
        if platform != _HOME[name]:
            raise ConfigError(f"model.attention={name} runs on {_HOME[name]}, and this is {platform}; use auto")
        if not narrow:
            raise ConfigError(f"model.attention={name} needs model.compute_dtype=bfloat16, not {dtype}; use auto")
    return name


def _cudnn_takes(width: int) -> bool:
    """Returns whether this GPU has flash attention of this head dimension: from Ampere up to 128, from Hopper 256."""
    capability = float(jax.local_devices(backend="gpu")[0].compute_capability)
    return capability >= 9 or (capability >= 8 and width <= 128)


class _Scores(NamedTuple):
    """Terms of the scores besides the product of query and key; see `attend`."""

    slopes: np.ndarray | None
    window: int
    scale: float
    operands: jnp.dtype  # of the products


def _softmax_context(
    q: jax.Array, k: jax.Array, v: jax.Array, q_segments: jax.Array, k_segments: jax.Array, first: int, rules: _Scores,
    slides: jax.Array | bool,
) -> jax.Array:  # fmt: skip
    """Attends from queries at rows `first`… to keys up to the last query's row; scores are float32.

    q [batch, kv_heads, groups, queries, head_dim], k and v [batch, kv_heads, keys, head_dim]; returns q's shape.
    """
    scores = product("bhgqd,bhkd->bhgqk", q, k, rules.operands, jnp.float32)
    distance = jnp.arange(k.shape[2])[None, :] - (first + jnp.arange(q.shape[3]))[:, None]
    scores = scores * rules.scale
    if rules.slopes is not None:
        scores = scores + rules.slopes.reshape(*q.shape[1:3], 1, 1) * distance.astype(jnp.float32)
    visible = (distance <= 0) & (q_segments[:, :, None] == k_segments[:, None, :])
    if rules.window:
        visible &= (distance > -rules.window) | jnp.logical_not(slides)
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, _MASKED), axis=-1).astype(v.dtype)
    return product("bhgqk,bhkd->bhgqd", weights, v, rules.operands)


def _xla(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, rules: _Scores, slides: jax.Array | bool
) -> jax.Array:
    """Attends in blocks of queries, each to the keys it needs; the backward pass recomputes the scores of a block."""
    length = q.shape[3]
    contexts = []
    for first in range(0, length, _QUERY_BLOCK):
        end = min(first + _QUERY_BLOCK, length)
        # If all layers slide, keys before the first query's window are never read.
        begin = max(0, first - rules.window + 1) if rules.window and slides is True else 0
        attend_block = partial(_softmax_context, first=first - begin, rules=rules, slides=slides)
        block, keys = jax.checkpoint(attend_block, prevent_cse=False), slice(begin, end)
        segments = segment_ids[:, first:end], segment_ids[:, keys]
        contexts.append(block(q[:, :, :, first:end], k[:, :, keys], v[:, :, keys], *segments))
    return contexts[0] if len(contexts) == 1 else jnp.concatenate(contexts, axis=3)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None = None, implementation: str = "auto", *,
    slopes: np.ndarray | None = None, window: int = 0, slides: jax.Array | bool = True, scale: float | None = None,
    operands: jax.typing.DTypeLike | None = None,
) -> jax.Array:  # fmt: skip
    """Attends causally within segments.

    Args:
      q: queries [batch, length, heads, head_dim] in the compute dtype.
      k: keys [batch, length, kv_heads, head_dim]; heads / kv_heads consecutive query heads share one.
      v: values, of the keys' shape.
      segment_ids: int [batch, length], 0 is padding; None: each row is one segment.
      implementation: `reference` (all scores at once), `xla` (blocks of queries, less memory and half the work),
        `cudnn`, `splash` (fused kernels, `fused_attention.py`; segments must be runs) or `auto`.
      slopes: ALiBi's, float [heads]; None: none.
      window: keys that a query attends to if the layer slides, its own included; 0: all.
      slides: whether it slides, bool [], which may be traced in a scan over layers.
      scale: of the scores; None: 1 / sqrt(head_dim).
      operands: dtype that products round their inputs to, in `reference` and `xla`; None: that of `q`.

    Returns:
      [batch, length, heads, head_dim] in the dtype of `v`.

    Raises:
      ConfigError: an unknown implementation, or one that this platform or dtype does not have.
    """
    if segment_ids is None:
        segment_ids = jnp.ones(q.shape[:2], jnp.int32)
    if slides is False or window >= q.shape[1]:
        window = 0  # it covers all keys
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    implementation = resolve_implementation(implementation, q.dtype, q.shape[-1], alibi=slopes is not None)
    if implementation in _HOME:
        kernel = fused_attention.cudnn if implementation == "cudnn" else fused_attention.splash
        return fused_attention.by_kind(kernel, window, slides)(q, k, v, segment_ids, slopes, scale=scale)
    rules, shape = _Scores(slopes, window, scale, jnp.dtype(operands or q.dtype)), q.shape
    # Heads before positions, transposed once and not per block; heads that share keys are one product with them.
    q = q.reshape(*shape[:2], k.shape[2], -1, shape[3]).transpose(0, 2, 3, 1, 4)
    k, v = (x.swapaxes(1, 2) for x in (k, v))
    if implementation == "reference":
        context = _softmax_context(q, k, v, segment_ids, segment_ids, first=0, rules=rules, slides=slides)
    else:
        context = _xla(q, k, v, segment_ids, rules, slides)
    context = context.transpose(0, 3, 1, 2, 4).reshape(shape)
    return jax.ad_checkpoint.checkpoint_name(context, fused_attention.CONTEXT)
