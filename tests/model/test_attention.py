from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model import attention


def arrays(
    length: int, heads: int = 4, batch: int = 2, kv_heads: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random q, k, v and segments: two or three examples a row, then padding."""
    random = np.random.RandomState(length)
    q, k, v = random.standard_normal((3, batch, length, heads, 8)).astype(np.float32)
    k, v = (x[:, :, : kv_heads or heads] for x in (k, v))
    segment_ids = np.sort(random.randint(1, 4, (batch, length)), axis=1)
    segment_ids[0, length - length // 5 :] = 0
    return q, k, v, segment_ids.astype(np.int32)


def oracle(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, segment_ids: np.ndarray, window: int = 0, scale: float = 0.0
) -> np.ndarray:
    """One query at a time in float64, with HF's bias slope * (position of the key in its own example), or a window."""
    batch, length, heads, head_dim = q.shape
    slopes = np.zeros(heads) if window else attention.alibi_slopes(heads).astype(np.float64)
    k, v = (x[:, :, np.arange(heads) * x.shape[2] // heads] for x in (k, v))
    out = np.zeros(q.shape)
    for b in range(batch):
        for i in range(length):
            first = max(0, i - window + 1) if window else 0
            keys = [j for j in range(first, i + 1) if segment_ids[b, j] == segment_ids[b, i]]
            scores = np.einsum("hd,khd->hk", q[b, i].astype(np.float64), k[b, keys]) * (scale or head_dim**-0.5)
            scores += slopes[:, None] * np.arange(len(keys))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, i] = np.einsum("hk,khd->hd", weights / weights.sum(-1, keepdims=True), v[b, keys])
    return out


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_equals_the_definition(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_QUERY_BLOCK", 16)
    inputs = arrays(50, heads=6)
    attend = jax.jit(partial(attention.attend, implementation=implementation, slopes=attention.alibi_slopes(6)))
    np.testing.assert_allclose(attend(*inputs), oracle(*inputs), atol=1e-5, equal_nan=False)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize(("window", "known"), [(7, True), (17, False), (50, True)])
def test_windows_and_grouped_heads_equal_the_definition(
    implementation: str, window: int, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query sees `window` keys with its own, whether that is known before or when the program runs."""
    monkeypatch.setattr(attention, "_QUERY_BLOCK", 16)
    inputs = arrays(50, heads=6, kv_heads=2)

    @jax.jit
    def attend(*qkv: jax.Array, slides: jax.Array) -> jax.Array:
        kind = True if known else slides
        return attention.attend(*qkv, implementation=implementation, window=window, slides=kind, scale=0.4)

    found = attend(*inputs, slides=np.True_)
    np.testing.assert_allclose(found, oracle(*inputs, window, 0.4), atol=1e-5, equal_nan=False)
    if not known:
        full = attend(*inputs, slides=np.False_)
        np.testing.assert_allclose(full, oracle(*inputs, 999, 0.4), atol=1e-5, equal_nan=False)
    for wrong in (window - 1, window + 1) if window < 18 else ():  # segments are no longer
        assert np.abs(found - oracle(*inputs, wrong, 0.4)).max() > 1e-3


def test_a_window_reads_no_keys_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_QUERY_BLOCK", 16)
    *qkv, _ = arrays(64)
    jaxpr = str(jax.make_jaxpr(partial(attention.attend, implementation="xla", window=9))(*qkv))
    assert "[2,4,1,16,24]" in jaxpr
    assert "[2,4,1,16,64]" not in jaxpr


@pytest.mark.parametrize("length", [1, 32, 75])
def test_xla_equals_reference(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_QUERY_BLOCK", 32)
    *qkv, segment_ids = arrays(length)
    weights = np.random.RandomState(0).standard_normal(qkv[0].shape).astype(np.float32)

    def run(implementation: str) -> tuple:
        def total(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            context = attention.attend(q, k, v, segment_ids, implementation, slopes=attention.alibi_slopes(4))
            return (context * weights).sum(), context

        gradients, context = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*qkv)
        return (context, *gradients)

    for ours, expected in zip(run("xla"), run("reference"), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5, equal_nan=False)


def test_xla_never_makes_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_QUERY_BLOCK", 32)
    *qkv, segment_ids = arrays(128)

    def largest(implementation: str) -> int:
        def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attention.attend(q, k, v, segment_ids, implementation).sum()

        jaxpr = str(jax.make_jaxpr(jax.grad(total))(*qkv))
        return jaxpr.count("[2,4,1,128,128]")

    assert largest("reference") > 0
    assert largest("xla") == 0


def test_slopes() -> None:
    np.testing.assert_array_equal(attention.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    np.testing.assert_allclose(attention.alibi_slopes(16), 2.0 ** (-np.arange(1, 17) / 2), rtol=1e-6)
    odd = 2.0 ** -np.array([0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(attention.alibi_slopes(12), [*2.0 ** -np.arange(1, 9), *odd], rtol=1e-6)
    assert attention.alibi_slopes(112).dtype == np.float32


def test_slopes_equal_hf() -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    for heads in (*range(1, 25), 32, 40, 112):
        hf = modeling.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1].numpy()
        np.testing.assert_allclose(attention.alibi_slopes(heads), hf, rtol=3e-7)


def test_padding_is_finite_and_unseen() -> None:
    q, k, v, segment_ids = arrays(20)
    attend = jax.jit(attention.attend)
    context = attend(q, k, v, segment_ids)
    changed = [np.where((segment_ids == 0)[..., None, None], 1e4, x) for x in (q, k, v)]
    real = segment_ids > 0
    np.testing.assert_array_equal(attend(*changed, segment_ids)[real], context[real])

    def total(q: jax.Array) -> jax.Array:
        return attention.attend(q, k, v, jnp.zeros_like(segment_ids)).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(q)).all()


def test_without_segments_a_row_is_one() -> None:
    q, k, v, segment_ids = arrays(20)
    attend = jax.jit(attention.attend)
    whole = attend(q, k, v)
    np.testing.assert_array_equal(whole, attend(q, k, v, np.ones_like(segment_ids)))
    assert np.abs(whole - attend(q, k, v, segment_ids)).max() > 0.1


@pytest.mark.parametrize(
    ("name", "dtype", "platform", "expected"),
    [
        ("auto", "float32", "cpu", "xla"),
        ("auto", "bfloat16", "cpu", "xla"),
        ("auto", "bfloat16", "tpu", "splash"),
        ("auto", "float32", "tpu", "xla"),
        ("auto", "float32", "gpu", "xla"),
        ("reference", "bfloat16", "tpu", "reference"),
        ("splash", "bfloat16", "tpu", "splash"),
        ("cudnn", "bfloat16", "gpu", "cudnn"),
    ],
)
def test_resolve_implementation(name: str, dtype: str, platform: str, expected: str) -> None:
    assert attention.resolve_implementation(name, dtype, 64, platform) == expected


@pytest.mark.parametrize(
    ("capability", "head_dim", "expected"),
    [("9.0", 128, "cudnn"), ("8.0", 64, "cudnn"), ("8.0", 128, "xla"), ("7.5", 64, "xla")],
)
def test_auto_on_a_gpu_asks_what_it_can(
    capability: str, head_dim: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda backend: [SimpleNamespace(compute_capability=capability)])
    assert attention.resolve_implementation("auto", "bfloat16", head_dim, "gpu") == expected


def test_without_alibi_a_kernel_sees_narrower_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda backend: [SimpleNamespace(compute_capability="8.0")])
    assert attention.resolve_implementation("auto", "bfloat16", 128, "gpu", alibi=False) == "cudnn"
    assert attention.resolve_implementation("auto", "bfloat16", 256, "gpu", alibi=False) == "xla"


@pytest.mark.parametrize(
    ("name", "dtype", "platform", "message"),
    [
        ("flash", "bfloat16", "cpu", "none of auto, reference"),
        ("cudnn", "bfloat16", "tpu", "runs on gpu, and this is tpu"),
        ("splash", "bfloat16", None, "runs on tpu, and this is cpu"),
        ("splash", "float32", "tpu", "needs model.compute_dtype=bfloat16"),
    ],
)
def test_what_a_platform_lacks_is_refused(name: str, dtype: str, platform: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attention.resolve_implementation(name, dtype, 64, platform)
