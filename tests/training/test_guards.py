import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import toy_config, toy_rows

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import guards

ROWS = toy_rows(4)


def monitor(tmp_path: Path, patience: int = 2) -> guards.LossMonitor:
    return guards.LossMonitor(ROWS, 4, patience, tmp_path)


def numbers(loss: float = 1.0, norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "grad_norm": norm}


def test_more_in_a_row_than_patience_stop_and_leave_their_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = monitor(tmp_path)
    bad = [numbers(math.nan), numbers(norm=math.inf), numbers(), numbers(math.inf), numbers(norm=math.nan)]
    for step, metrics in enumerate(bad, 1):
        guard.check(step, 4 * step - 4, metrics)
    assert guard.skipped == 4
    assert caplog.records[0].message.startswith("skipped: loss nan, gradient norm 1 (step 1, rows 0 to 3)")
    with pytest.raises(guards.NotFiniteError, match=r"step 6, rows 8 to 11: .* 3 steps in a row"):
        guard.check(6, 8, numbers(math.nan))
    dumped = np.load(tmp_path / "bad_batch-6.npz", allow_pickle=False)
    assert dumped["rows"].tolist() == [8, 9, 10, 11]
    np.testing.assert_array_equal(dumped["inputs"], [ROWS[row]["inputs"] for row in range(8, 12)])
    assert dumped["instances"].tolist() == [i for row in range(8, 12) for i in ROWS.plan.row(row)]


def test_one_process_of_many_leaves_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(guards.NotFiniteError, match=r"bad_batch-1\.npz"):
        monitor(tmp_path, 0).check(1, 0, numbers(math.nan))
    assert not list(tmp_path.iterdir())


def test_patience_of_zero_stops_at_the_first(tmp_path: Path) -> None:
    with pytest.raises(guards.NotFiniteError):
        monitor(tmp_path, 0).check(1, 0, numbers(math.nan))


def test_a_spike_is_seen_at_once_and_a_falling_loss_is_none(tmp_path: Path) -> None:
    guard = monitor(tmp_path)
    random = np.random.default_rng(0)
    for step in range(1, 200):
        guard.check(step, 0, numbers(8 / step**0.3 * random.uniform(0.6, 1.6)))
    assert guard.spikes == 0
    guard.check(200, 0, numbers(200.0))
    assert guard.spikes == 1


@pytest.mark.parametrize(
    "text", ["RESOURCE_EXHAUSTED: Out of memory allocating 12884901888 bytes.", "CUDA out of memory: allocate 12.0GiB"]
)
def test_out_of_memory_names_settings(text: str) -> None:
    config, mesh = toy_config(rows_per_device=4, accumulation=2), make_mesh(MeshConfig())
    error = guards.explain_out_of_memory(RuntimeError(text), config, mesh)
    assert isinstance(error, ConfigError)
    for words in (
        "12",
        "train.rows_per_device=2 with train.accumulation=4",
        "model.remat=full (now none; about 0.0",
        "ecomgpt_jax.plan",
    ):
        assert words in str(error)
    here, fewer, recomputed = map(float, re.findall(r"about ([\d.]+) GiB", str(error)))
    assert here > max(fewer, recomputed) > 0
    assert guards.explain_out_of_memory(RuntimeError("INVALID_ARGUMENT"), config, mesh) is None


@pytest.mark.parametrize(("rows", "accumulation"), [(2, 1), (5, 1), (5, 2), (7, 8), (9, 3)])
def test_fewer_rows_per_device_are_as_many_per_step(rows: int, accumulation: int) -> None:
    config, mesh = toy_config(rows_per_device=rows, accumulation=accumulation), make_mesh(MeshConfig())
    text = str(guards.explain_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED"), config, mesh))
    found = re.search(r"rows_per_device=(\d+) with train\.accumulation=(\d+) \(the same", text)
    fewer, steps = map(int, found.groups())
    assert fewer * steps == rows * accumulation
    assert fewer < rows


def test_out_of_memory_while_evaluating_names_the_batch() -> None:
    config, mesh = toy_config(), make_mesh(MeshConfig())
    config.eval.batch = 64
    text = str(guards.explain_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED"), config, mesh))
    assert re.search(r"by stage: loading [\d.]+, training [\d.]+, evaluation [\d.]+ GiB", text)
    assert "eval.batch=32 (" in text
    config.train.final_evaluation = False
    assert "eval" not in str(guards.explain_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED"), config, mesh))
