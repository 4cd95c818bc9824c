import json
from pathlib import Path

import pytest

from ecomgpt_jax.training.progress import Progress, read_metrics

METRICS = {"train/loss": 1.5, "train/tokens": 100.0}


def test_lines_hold_metrics_and_throughput(tmp_path: Path) -> None:
    progress = Progress(tmp_path, first_step=0, total_steps=2)
    for step in (1, 2):
        progress.step()
        progress.log(step, METRICS)
    progress.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["train/loss"] == 1.5 for line in lines)
    assert all(line["perf/tokens_per_second"] > 0 for line in lines)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_an_evaluation_joins_its_line_and_its_time_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def evaluate() -> dict[str, float]:
        clock[0] += 1000.0
        return {"eval/t/score": 0.5}

    progress = Progress(tmp_path, first_step=0, total_steps=2)
    for step, evaluation in ((1, evaluate), (2, None)):
        clock[0] += 1.0
        progress.log(step, METRICS, evaluation)
    progress.close()
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["eval/t/score"] == 0.5
    assert first["perf/seconds"] == second["perf/seconds"] == 1.0
    assert "eval/t/score" not in second


def test_a_steps_time_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, now = [], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def gauges(*given: object) -> dict[str, float]:
        seen.append(given)
        return {"perf/mfu": 0.5}

    progress = Progress(tmp_path, first_step=0, total_steps=2, gauges=gauges)
    for what, seconds in (("data", 1), ("step", 3)):
        with progress.waiting(what):
            now[0] += seconds
        progress.step()
    now[0] += 4
    progress.log(2, METRICS)
    progress.close()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert seen == [(METRICS, 2, 8.0)]
    split = [line[f"perf/{name}_seconds"] for name in ("data", "step", "host")]
    assert split == [0.5, 1.5, 2.0]
    assert line["perf/mfu"] == 0.5


def test_a_resumed_run_has_one_line_a_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"st')
    progress = Progress(tmp_path, first_step=2, total_steps=4)
    progress.log(3, METRICS)
    progress.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    progress = Progress(tmp_path, first_step=0, total_steps=1, writer=False)
    progress.log(1, METRICS)
    progress.close()
    assert list(tmp_path.iterdir()) == []


def test_no_bar_where_nobody_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tmp_path, first_step=0, total_steps=1)
    progress.step()
    progress.log(1, METRICS)
    progress.close()
    assert capsys.readouterr().err == ""


def test_a_clock_that_stands_still_does_not_divide_by_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    progress = Progress(tmp_path, first_step=0, total_steps=1)
    progress.log(1, METRICS)
    progress.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["perf/tokens_per_second"] > 0
