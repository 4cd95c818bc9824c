from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecomgpt_jax.config import MODEL_SHAPES, MeshConfig, ModelConfig
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import throughput
from ecomgpt_jax.training.throughput import Tracer, make_throughput_metrics, peak_flops

MODEL = ModelConfig(**MODEL_SHAPES["560m"])
METRICS = {"train/tokens": 61_440.0, "train/targets": 9_830.4}  # 64 rows of 1024, 15 % targets


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v5", 459e12), ("TPU v6 lite", 918e12),
        ("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("cpu", None),
    ],
)  # fmt: skip
def test_peaks(kind: str, peak: float | None) -> None:
    assert peak_flops(kind) == peak


def test_utilisation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """560m: 2.194 GFLOP per token at 15 % targets and 3.504 with a full head from the model's shape by hand."""
    monkeypatch.setattr(throughput, "peak_flops", lambda kind: 1e12)
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    values = make_throughput_metrics(MODEL, 1024, 32, mesh)(METRICS, 2, 10.0)
    assert values["perf/packing_fill"] == pytest.approx(61_440 / 65_536)
    assert values["perf/mfu"] == pytest.approx(65_536 * 2.194e9 / (10 * 2e12), rel=1e-3)
    assert values["perf/mfu_full_head"] == pytest.approx(65_536 * 3.504e9 / (10 * 2e12), rel=1e-3)
    everywhere = {**METRICS, "train/targets": 2 * 32 * 1024}
    values = make_throughput_metrics(MODEL, 1024, 32, mesh)(everywhere, 2, 10.0)
    assert values["perf/mfu"] == values["perf/mfu_full_head"]


def test_an_unknown_device_has_no_utilisation() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert list(make_throughput_metrics(MODEL, 1024, 64, mesh)(METRICS, 1, 1.0)) == ["perf/packing_fill"]


@pytest.mark.parametrize("steps", [0, 2])
def test_a_trace_of_the_steps_asked_for(tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started, stopped = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: started.append(step))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: stopped.append(step))
    tracer, state = Tracer(tmp_path, 10, steps), jnp.zeros(())
    for step in range(10, 20):
        tracer.before(step, state)
    tracer.close()
    assert (started, stopped) == (([12], [14]) if steps else ([], []))


def test_a_trace_is_written_even_if_the_run_ends_early(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, 0, 100)
    tracer.before(2, None)
    np.asarray(jax.jit(lambda x: x + 1)(jnp.zeros(3)))
    tracer.close()
    assert list(tmp_path.glob("**/*.xplane.pb"))
