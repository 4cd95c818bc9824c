"""Fused kernels (cuDNN on GPU, splash on TPU), which accept grouped heads, windows and segments, but no bias.

ALiBi goes into extra columns of queries and keys. The bias `slope * position` of a key is a product, so four columns
carry it: the slope as the sum of two bfloat16 numbers, times the position as `256 * (p // 256)` and `p % 256`, each
exact in bfloat16 up to 65,535. Products are accumulated in float32, so the result is as exact as a float32 bias. With
the position in one bfloat16 column the error would be above 1, with a bfloat16 bias 1e-2.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ecomgpt_jax.parallel.sharding import RULES, ambient_mesh, replicates, spec

CONTEXT = "context"  # name under which remat policies find the result of attention
_COLUMNS = 8  # four for ALiBi, then zeros: cuDNN needs head dimensions in multiples of 8
_CUDNN_LENGTH = 64  # lengths are padded to a multiple of this
_SPLASH_BLOCK = 512  # maximum of queries and keys of one tile
_SPLASH_LENGTH = 128  # a TPU vector's lanes; lengths are padded to a multiple of this

Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def folded_width(head_dim: int) -> int:
    """Returns the head dimension of the kernel's inputs."""
    return head_dim + _COLUMNS


def segment_positions(segment_ids: jax.Array) -> jax.Array:
    """Returns the position of each token in its run of equal ids, from 0, int32 [batch, length]."""
    places = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None, :]
    begins = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return places - jax.lax.cummax(jnp.where(begins, places, 0), axis=1)


def fold_alibi(
    q: jax.Array, k: jax.Array, segment_ids: jax.Array, slopes: np.ndarray, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Appends columns so that `scale * (q . k)` holds ALiBi's `slope * position of the key`.

    The position counts from the beginning of the key's segment; it differs from the distance by a constant per query,
    which softmax ignores.

    Args:
      q: queries [batch, length, heads, head_dim].
      k: keys, same shape.
      segment_ids: int [batch, length]; every segment is one run.
      slopes: float [heads].
      scale: factor of the scores in the kernel.

    Returns:
      (q, k) [batch, length, heads, folded_width(head_dim)] in the dtypes given.
    """
    wanted = np.asarray(slopes, np.float64) / scale
    high = wanted.astype(ml_dtypes.bfloat16).astype(np.float64)
    low = (wanted - high).astype(ml_dtypes.bfloat16).astype(np.float64)
    slope_columns = np.zeros((len(wanted), _COLUMNS))
    slope_columns[:, :4] = np.stack([high, high, low, low], axis=-1)
    positions = segment_positions(segment_ids)
    coarse, fine = positions // 256 * 256, positions % 256
    zero = jnp.zeros_like(positions)
    position_columns = jnp.stack([coarse, fine, coarse, fine, *[zero] * (_COLUMNS - 4)], axis=-1)[:, :, None]
    widen = (*q.shape[:-1], _COLUMNS)
    return (
        jnp.concatenate([q, jnp.broadcast_to(jnp.asarray(slope_columns, q.dtype), widen)], axis=-1),
        jnp.concatenate([k, jnp.broadcast_to(position_columns.astype(k.dtype), widen)], axis=-1),
    )


def _pad_length(multiple: int, *arrays: jax.Array) -> list[jax.Array]:
    """Pads axis 1 with zeros, which mean padding in `segment_ids` and are masked in the other arrays."""
    extra = -arrays[0].shape[1] % multiple
    return [jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)) if extra else x for x in arrays]


def by_kind(kernel: Callable[..., jax.Array], window: int, slides: jax.Array | bool) -> Callable[..., jax.Array]:
    """Returns a kernel for a layer whose window is chosen at run time; see `attention.attend` for the arguments.

    The window of a kernel is fixed at compile time, so a scan over layers of both kinds contains two kernels.
    """
    if not window or slides is True:
        return partial(kernel, window=window)

    def attend(*arrays: jax.Array, scale: float) -> jax.Array:
        q, k, v, segment_ids, slopes = arrays
        both = (partial(kernel, slopes=slopes, scale=scale, window=size) for size in (window, 0))
        return jax.lax.cond(slides, *both, q, k, v, segment_ids)

    return attend


def _on_each_device(kernel: Kernel, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Runs a kernel on the rows and heads that each device of the ambient mesh holds."""
    mesh = ambient_mesh()
    if mesh is None:
        return kernel(q, k, v, segment_ids)
    ways = math.prod(mesh.shape[axis] for axis in spec("batch")[0])
    rows = None if q.shape[0] % ways else "batch"  # few prompts on many devices: each device computes all of them
    heads_spec = spec(rows, "length", "heads", "head_dim")
    whole = replicates(k.shape, (rows, "length", "kv_heads", "head_dim"), mesh)
    kv_heads_spec = spec(rows, "length", None if whole else "kv_heads", "head_dim")

    def part(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        if whole:  # the query heads of a device share one key head, and every device holds all key heads
            axis = RULES["heads"]
            mine = jax.lax.axis_index(axis) * k.shape[2] // mesh.shape[axis]
            k, v = (jax.lax.dynamic_slice_in_dim(x, mine, 1, axis=2) for x in (k, v))
        return kernel(q, k, v, segment_ids)

    return jax.shard_map(
        part,
        in_specs=(heads_spec, kv_heads_spec, kv_heads_spec, spec(rows, "length")),
        out_specs=heads_spec,
        check_vma=False,  # jax cannot infer the replication of a kernel's result
    )(q, k, v, segment_ids)


def cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    slopes: np.ndarray | None,
    implementation: str = "cudnn",
    *,
    window: int = 0,
    scale: float | None = None,
) -> jax.Array:
    """Attends with cuDNN's flash attention: causal, with the segments as one boolean mask for all heads.

    Args:
      q: queries [batch, length, heads, head_dim], bfloat16.
      k: keys [batch, length, kv_heads, head_dim].
      v: values, of the keys' shape.
      segment_ids: int [batch, length], 0 is padding.
      slopes: ALiBi's, float [heads]; None: none.
      implementation: of `jax.nn.dot_product_attention`; "xla" checks the call on any platform.
      window: keys that a query attends to, its own included; 0: all.
      scale: of the scores; None: 1 / sqrt(head_dim).

    Returns:
      [batch, length, heads, head_dim] in the dtype of `v`.
    """
    length, head_dim = q.shape[1], q.shape[-1]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    band = (window - 1, 0) if window else None  # keys to the left of the query's own

    def kernel(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        mask = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=True, scale=scale, local_window_size=band, implementation=implementation
        )

    if slopes is not None:
        q, k = fold_alibi(q, k, segment_ids, slopes, scale)
        v = jnp.pad(v, [(0, 0)] * 3 + [(0, _COLUMNS)])  # q, k and v must have the same width
    context = _on_each_device(kernel, *_pad_length(_CUDNN_LENGTH, q, k, v, segment_ids))
    return jax.ad_checkpoint.checkpoint_name(context[:, :length, :, :head_dim], CONTEXT)


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    slopes: np.ndarray | None,
    interpret: bool = False,
    *,
    window: int = 0,
    scale: float | None = None,
) -> jax.Array:
    """Attends with the TPU's splash attention, which skips tiles above the diagonal and left of the window.

    Args:
      q: queries [batch, length, heads, head_dim], bfloat16. The kernel has no scale, so they are scaled before; a
        scale that is not a power of two rounds `q` again.
      k: keys [batch, length, kv_heads, head_dim].
      v: values, of the keys' shape.
      segment_ids: int [batch, length], 0 is padding.
      slopes: ALiBi's, float [heads]; None: none.
      interpret: run the kernel step by step on any platform (slow; for tests).
      window: keys that a query attends to, its own included; 0: all.
      scale: of the scores; None: 1 / sqrt(head_dim).

    Returns:
      [batch, length, heads, head_dim] in the dtype of `v`.
    """
    # Imported here, since importing Pallas takes a quarter of a second.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    length, head_dim = q.shape[1], q.shape[-1]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale

    def kernel(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        heads, rows = q.shape[2], q.shape[1]
        block, shape = math.gcd(rows, _SPLASH_BLOCK), (rows, rows)
        # The kernel does not count the query's own key on the left side.
        mask = splash_mask.LocalMask(shape, (window - 1, 0), 0) if window else splash_mask.CausalMask(shape)
        attend = splash_kernel.make_splash_mha_single_device(
            splash_mask.MultiHeadMask([mask] * heads),
            block_sizes=splash_kernel.BlockSizes(*[block] * 8),
            residual_checkpoint_name=CONTEXT,
            interpret=interpret,
        )
        one_row = jax.vmap(lambda q, k, v, ids: attend(q, k, v, splash_kernel.SegmentIds(q=ids, kv=ids)))
        heads_first = (x.swapaxes(1, 2) for x in (q, k, v))
        return one_row(*heads_first, segment_ids).swapaxes(1, 2)

    q = (q * scale).astype(q.dtype)
    if slopes is not None:
        q, k = fold_alibi(q, k, segment_ids, slopes, scale=1.0)
    return _on_each_device(kernel, *_pad_length(_SPLASH_LENGTH, q, k, v, segment_ids))[:, :length]
