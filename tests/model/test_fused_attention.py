import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.model import attention, fused_attention
from ecomgpt_jax.model.attention import alibi_slopes
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.sharding import spec

BF16 = ml_dtypes.bfloat16


def arrays(length: int, heads: int, head_dim: int, batch: int = 1, dtype: type = np.float32) -> tuple[np.ndarray, ...]:
    """Random q, k, v of this dtype and segments: some examples a row, then padding."""
    random = np.random.RandomState(length)
    q, k, v = random.standard_normal((3, batch, length, heads, head_dim)).astype(dtype)
    segment_ids = np.sort(random.randint(1, 4, (batch, length)), axis=1).astype(np.int32)
    segment_ids[0, length - length // 8 :] = 0
    return q, k, v, segment_ids


def softmax_context(scores: np.ndarray, v: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
    """[batch, length, heads, head_dim] in float64 for scores [batch, heads, length, length] with the bias in them."""
    visible = np.tri(scores.shape[-1], dtype=bool) & (segment_ids[:, :, None] == segment_ids[:, None, :])
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v.astype(np.float64))


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
    """ALiBi attention in float64."""
    scores = np.einsum("bqhd,bkhd->bhqk", q.astype(np.float64), k.astype(np.float64)) / math.sqrt(q.shape[-1])
    distance = np.arange(q.shape[1])[None, :] - np.arange(q.shape[1])[:, None]
    return softmax_context(scores + alibi_slopes(q.shape[2])[:, None, None] * distance, v, segment_ids)


def fold_error(fold: Callable[..., tuple[jax.Array, jax.Array]], head_dim: int, heads: int) -> float:
    """Largest error of attention on folded bfloat16 q and k; products are summed in float32, as kernels sum them."""
    q, k, v, segment_ids = arrays(1024, heads, head_dim, dtype=BF16)
    scale = 1 / math.sqrt(head_dim)
    folded = fold(jnp.asarray(q), jnp.asarray(k), jnp.asarray(segment_ids), alibi_slopes(heads), scale)
    wide = [np.asarray(x).astype(np.float32) for x in folded]
    scores = scale * np.einsum("bqhd,bkhd->bhqk", *wide)
    return float(np.abs(softmax_context(scores.astype(np.float64), v, segment_ids) - exact(q, k, v, segment_ids)).max())


@pytest.mark.parametrize(("head_dim", "heads"), [(64, 3), (80, 3), (128, 3)])
def test_the_fold_is_as_exact_as_a_float32_bias(head_dim: int, heads: int) -> None:
    assert fold_error(fused_attention.fold_alibi, head_dim, heads) < 2e-4


def with_columns(q_columns: np.ndarray, k_columns: np.ndarray, q: jax.Array, k: jax.Array) -> tuple:
    shape = (*q.shape[:-1], q_columns.shape[-1])
    return (
        jnp.concatenate([q, jnp.broadcast_to(q_columns.astype(BF16), shape)], -1),
        jnp.concatenate([k, jnp.broadcast_to(k_columns[None, :, None].astype(BF16), shape)], -1),
    )


def one_column(q: jax.Array, k: jax.Array, segment_ids: jax.Array, slopes: np.ndarray, scale: float) -> tuple:
    """Naive: slope in one bfloat16, position in another."""
    return with_columns((slopes / scale)[:, None], np.arange(q.shape[1], dtype=np.float64)[:, None], q, k)


def one_slope(q: jax.Array, k: jax.Array, segment_ids: jax.Array, slopes: np.ndarray, scale: float) -> tuple:
    """Less naive: the position is exact, the slope is not."""
    places = np.arange(q.shape[1])
    positions = np.stack([places // 256 * 256, places % 256], -1)
    return with_columns((slopes / scale)[:, None].repeat(2, 1), positions, q, k)


def test_naive_folds_are_seen() -> None:
    assert fold_error(one_column, 80, 3) > 0.5
    assert fold_error(one_slope, 80, 3) > 5e-4


def test_positions() -> None:
    ids = jnp.array([[1, 1, 1, 2, 2, 5, 0, 0], [0, 0, 1, 1, 1, 1, 2, 0]])
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 0, 1, 2, 3, 0, 0]]
    np.testing.assert_array_equal(fused_attention.segment_positions(ids), expected)


def cudnn_call(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """The very call of the cuDNN path, computed by XLA: cuDNN itself needs a GPU."""
    return fused_attention.cudnn(q, k, v, segment_ids, alibi_slopes(q.shape[2]), implementation="xla")


def interpreted_splash(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    return fused_attention.splash(q, k, v, segment_ids, alibi_slopes(q.shape[2]), interpret=True)


def reference(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    return attention.attend(q, k, v, segment_ids, "reference", slopes=alibi_slopes(q.shape[2]))


def outputs(attend: Callable[..., jax.Array], inputs: tuple[np.ndarray, ...]) -> tuple[jax.Array, ...]:
    """(context, gradients of q, k and v) for a random cotangent."""
    *qkv, segment_ids = inputs
    cotangent = np.random.RandomState(0).standard_normal(qkv[0].shape).astype(np.float32)

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        context = attend(q, k, v, segment_ids)
        return (context * cotangent).sum(), context

    gradients, context = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*qkv)
    return (context, *gradients)


@pytest.mark.parametrize(
    ("attend", "length"), [(cudnn_call, 75), (cudnn_call, 64), (interpreted_splash, 100)], ids=lambda x: str(x)[:16]
)
def test_each_path_equals_the_reference(attend: Callable[..., jax.Array], length: int) -> None:
    """In float32, at lengths that are padded and one that is not."""
    inputs = arrays(length, heads=2, head_dim=8)
    for ours, expected in zip(outputs(attend, inputs), outputs(reference, inputs), strict=True):
        np.testing.assert_allclose(ours, expected, atol=5e-5, equal_nan=False)


def windowed(kernel: Callable[..., jax.Array], window: int, slides: bool | None, **options: Any) -> Callable:
    """A kernel without slopes, as `attend` calls it; None: the program learns when it runs that the layer slides."""

    def attend(*arrays: jax.Array) -> jax.Array:
        kind = jnp.bool_(True) if slides is None else slides
        call = fused_attention.by_kind(partial(kernel, **options), window, kind)
        return call(*arrays, None, scale=0.4)

    return attend


@pytest.mark.parametrize(
    ("kernel", "options", "length", "window", "slides"),
    [
        (fused_attention.cudnn, {"implementation": "xla"}, 64, 0, True),
        (fused_attention.cudnn, {"implementation": "xla"}, 41, 40, True),
        (fused_attention.cudnn, {"implementation": "xla"}, 75, 9, None),
        (fused_attention.splash, {"interpret": True}, 100, 0, True),
        (fused_attention.splash, {"interpret": True}, 100, 9, True),
        pytest.param(fused_attention.splash, {"interpret": True}, 160, 33, None, marks=pytest.mark.slow),
    ],
)
def test_grouped_heads_and_windows_equal_the_reference(
    kernel: Callable, options: dict[str, Any], length: int, window: int, slides: bool | None
) -> None:
    """Heads of keys are shared and windows kept without a folded column, at lengths up to one past the window."""
    q, k, v, segment_ids = arrays(length, heads=4, head_dim=8)
    if window == length - 1:
        segment_ids[:] = 1  # an example as long as the row
    inputs = (q, k[:, :, :2], v[:, :, :2], segment_ids)
    assert fused_attention.folded_width(8) == 16

    def expected(*arrays: jax.Array, off: int = 0) -> jax.Array:
        return attention.attend(*arrays, "reference", window=window and window + off, scale=0.4)

    found = outputs(windowed(kernel, window, slides, **options), inputs)
    for ours, theirs in zip(found, outputs(expected, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5, equal_nan=False)
    if window:
        assert np.abs(found[0] - expected(*inputs, off=1)).max() > 1e-3


@pytest.mark.parametrize(
    ("kernel", "options", "window", "dtype"),
    [
        (fused_attention.cudnn, {"implementation": "xla"}, 0, np.float32),
        (fused_attention.cudnn, {"implementation": "xla"}, 9, BF16),
        pytest.param(fused_attention.splash, {"interpret": True}, 0, BF16, marks=pytest.mark.slow),
        (fused_attention.splash, {"interpret": True}, 9, np.float32),
    ],
)
def test_padding_is_finite_under_remat_and_no_target_has_a_gradient_from_it(
    kernel: Callable, options: dict[str, Any], window: int, dtype: type
) -> None:
    """A row of padding alone, one that begins and one that ends in it; their lengths are padded once more."""
    q, k, v, segment_ids = arrays(100, heads=2, head_dim=8, batch=3, dtype=dtype)
    segment_ids[:] = 1
    segment_ids[0], segment_ids[1, :50], segment_ids[2, 50:] = 0, 0, 0
    attend, real = windowed(kernel, window, True, **options), (segment_ids > 0)[..., None, None]

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def total(*qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
        context = jax.checkpoint(attend)(*qkv, segment_ids)
        return jnp.where(real, context, 0).astype(jnp.float32).sum(), context

    gradients, context = total(q, k, v)
    for array in (context, *gradients):
        assert np.isfinite(np.asarray(array, np.float32)).all()
    for gradient in gradients:
        assert not np.where(real, 0, np.asarray(gradient, np.float32)).any()
    assert np.abs(np.asarray(gradients[2], np.float32)).max() > 0.1


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_devices_that_share_a_head_of_keys(kv_heads: int) -> None:
    """Four devices along `tensor`: each finds the keys of its own query heads, and gradients of shared ones add up."""
    q, k, v, segment_ids = arrays(32, heads=4, head_dim=8, batch=2)
    inputs = (q, k[:, :, :kv_heads], v[:, :, :kv_heads], segment_ids)
    attend = windowed(fused_attention.cudnn, 5, True, implementation="xla")
    alone = outputs(attend, inputs)
    with jax.set_mesh(make_mesh(MeshConfig(2, 1, 4))):
        for ours, expected in zip(outputs(attend, inputs), alone, strict=True):
            np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_a_segment_gives_the_same_at_any_offset_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folded bias at 0 and at 1,500 of a row; a position in one bfloat16 column would be another number there."""
    q, k, v, _ = arrays(2048, heads=2, head_dim=8, dtype=BF16)
    for x in (q, k, v):
        x[:, 1500:1900] = x[:, :400]
    segment_ids = np.repeat([1, 2, 3, 4], [400, 1100, 400, 148])[None].astype(np.int32)

    def difference() -> float:
        attend = jax.jit(lambda *inputs: cudnn_call(*inputs))  # traced anew
        context = np.asarray(attend(q, k, v, segment_ids), np.float32)
        return np.abs(context[:, :400] - context[:, 1500:1900]).max()

    def padded(*inputs: Any) -> tuple[jax.Array, ...]:
        return tuple(jnp.pad(x, [(0, 0)] * 3 + [(0, 7)]) for x in one_column(*inputs))

    assert difference() < 1e-2
    monkeypatch.setattr(fused_attention, "fold_alibi", padded)
    assert difference() > 0.1


def test_a_lost_segment_mask_or_bias_would_be_seen() -> None:
    q, k, v, segment_ids = arrays(64, heads=2, head_dim=8)
    expected = reference(q, k, v, segment_ids)
    real = segment_ids > 0
    assert np.abs(cudnn_call(q, k, v, np.minimum(segment_ids, 1)) - expected)[real].max() > 0.1
    flat = fused_attention.cudnn(q, k, v, segment_ids, np.zeros(2), implementation="xla")
    assert np.abs(flat - expected)[real].max() > 0.1


@pytest.mark.parametrize("batch", [4, 1])
def test_on_a_mesh(batch: int) -> None:
    """Each device attends for its own rows and heads; one row is read by all."""
    inputs = arrays(32, heads=4, head_dim=8, batch=batch)
    alone = cudnn_call(*inputs)
    with jax.set_mesh(make_mesh(MeshConfig(2, 2, 2))):
        np.testing.assert_allclose(jax.jit(cudnn_call)(*inputs), alone, atol=1e-6)


def test_bfloat16_stays_near_float32() -> None:
    inputs = arrays(256, heads=4, head_dim=64, dtype=BF16)
    for attend in (cudnn_call, reference):
        error = np.abs(np.asarray(jax.jit(attend)(*inputs)).astype(np.float64) - exact(*inputs)).max()
        assert 1e-4 < error < 3e-2


@pytest.mark.parametrize(("heads", "head_dim"), [(16, 64), (16, 96), (16, 128), (32, 80)])
def test_splash_lowers_for_a_tpu(heads: int, head_dim: int) -> None:
    """At the heads of every released size, forward and backward, on a mesh; no TPU compiler is needed for this much."""
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def gradients(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> tuple[jax.Array, ...]:
        def total(*qkv: jax.Array) -> jax.Array:
            return fused_attention.splash(*qkv, ids, alibi_slopes(heads)).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(q, k, v)

    with jax.set_mesh(mesh):
        of_heads = NamedSharding(mesh, spec("batch", None, "heads", None))
        x = jax.ShapeDtypeStruct((4, 1024, heads, head_dim), jnp.bfloat16, sharding=of_heads)
        ids = jax.ShapeDtypeStruct((4, 1024), jnp.int32, sharding=NamedSharding(mesh, spec("batch")))
        text = jax.jit(gradients).trace(x, x, x, ids).lower(lowering_platforms=("tpu",)).as_text()
    assert {name for name in ("fwd", "dq", "dkv") if f"splash_mha_{name}" in text} == {"fwd", "dq", "dkv"}


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "window"), [(16, 8, 128, 0), (4, 1, 256, 512)])
def test_splash_lowers_for_a_tpu_without_folds(heads: int, kv_heads: int, head_dim: int, window: int) -> None:
    """Qwen3's heads, and Gemma 3's with a window that a scan over layers turns on and off."""

    def gradients(slides: jax.Array, ids: jax.Array, *qkv: jax.Array) -> tuple[jax.Array, ...]:
        def total(*qkv: jax.Array) -> jax.Array:
            return fused_attention.by_kind(fused_attention.splash, window, slides)(*qkv, ids, None, scale=0.1).sum()

        return jax.grad(total, argnums=(0, 1, 2))(*qkv)

    with jax.set_mesh(make_mesh(MeshConfig(2, 2, 2))):
        q, *kv = (jax.ShapeDtypeStruct((4, 1024, n, head_dim), jnp.bfloat16) for n in (heads, kv_heads, kv_heads))
        ids, slides = jax.ShapeDtypeStruct((4, 1024), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)
        text = jax.jit(gradients).trace(slides, ids, q, *kv).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("splash_mha_fwd") >= (2 if window else 1)
    assert f"x{head_dim}xbf16" in text
    assert f"x{fused_attention.folded_width(head_dim)}xbf16" not in text
