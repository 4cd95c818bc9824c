import errno
import io
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ecomgpt_jax.evaluation.report import write_run_report
from ecomgpt_jax.training import progress as progress_module
from ecomgpt_jax.training.progress import Progress, read_metrics

tensorboardX = progress_module.tensorboardX  # imported without torch
event_pb2 = tensorboardX.proto.event_pb2
SPENT = {"seconds": 2.0, "data": 0.5, "step": 1.0, "host": 0.5, "checkpoint": 0.0}
METRICS = {"train/loss": 1.5, "train/tokens": 100.0}


def test_lines_hold_metrics_and_throughput(tmp_path: Path) -> None:
    progress = Progress(tmp_path, first_step=0, total_steps=2)
    for step in (1, 2):
        progress.step(SPENT)
        progress.log(step, METRICS)
    progress.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["train/loss"] == 1.5 for line in lines)
    assert all(line["perf/tokens_per_second"] == 50.0 for line in lines)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_lines_stand_for_the_bar_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(every: float, *, writer: bool = True) -> list[str]:
        monkeypatch.setattr(progress_module, "LINE_EVERY", every)
        progress = Progress(tmp_path, first_step=0, total_steps=3, writer=writer)
        for step in (1, 2, 3):
            progress.step(SPENT)
            progress.log(step, METRICS)
        progress.close()
        return capsys.readouterr().err.splitlines()

    every = printed(0.0)
    assert all("\r" not in line for line in every)
    assert [line.split(",")[0] for line in every] == [f"train: step {step} of 3" for step in (1, 2, 3)]
    first, last = printed(1e9)
    assert (first, last) == (
        "train: step 1 of 3, loss 1.5000, 50 tokens/s",
        "train: step 3 of 3, loss 1.5000, 50 tokens/s",
    )
    assert printed(0.0, writer=False) == []


def test_tensorboard_does_not_import_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = (
        "import pathlib, sys\n"
        "from ecomgpt_jax.training.progress import Progress\n"
        "Progress(pathlib.Path(sys.argv[1]), first_step=0, total_steps=1).close()\n"
        "print('torch' in sys.modules, 'tensorboardX' in sys.modules)\n"
        "import torch, tensorboardX"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_an_evaluation_joins_its_line_alone(tmp_path: Path) -> None:
    progress = Progress(tmp_path, first_step=0, total_steps=2)
    for step, evaluate in ((1, lambda: {"eval/t/score": 0.5}), (2, None)):
        progress.step(SPENT)
        progress.log(step, METRICS, evaluate)
    progress.close()
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["eval/t/score"] == 0.5
    assert first["perf/seconds"] == second["perf/seconds"] == 2.0
    assert "eval/t/score" not in second


def test_a_line_has_the_mean_of_its_steps(tmp_path: Path) -> None:
    seen = []

    def throughput(*given: object) -> dict[str, float]:
        seen.append(given)
        return {"perf/mfu": 0.5}

    progress = Progress(tmp_path, first_step=0, total_steps=3, throughput=throughput)
    progress.step(SPENT)
    progress.step({"seconds": 6.0, "data": 0.0, "step": 1.5, "host": 4.5, "checkpoint": 4.0})
    progress.log(2, METRICS)
    progress.step(SPENT)
    progress.log(3, METRICS)
    progress.close()
    line, last = read_metrics(tmp_path / "metrics.jsonl")
    assert seen == [(METRICS, 2, 8.0), (METRICS, 1, 2.0)]
    assert [line[f"perf/{name}_seconds"] for name in ("data", "step", "host", "checkpoint")] == [0.25, 1.25, 2.5, 2.0]
    assert (line["perf/seconds"], line["perf/tokens_per_second"], line["perf/mfu"]) == (8.0, 12.5, 0.5)
    assert "perf/checkpoint_seconds" not in last


def test_a_resumed_run_has_one_line_a_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"st')
    progress = Progress(tmp_path, first_step=2, total_steps=4)
    progress.log(3, METRICS)
    progress.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_value_that_is_not_finite_is_null_and_no_reader_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = '{"step": 1, "train/loss": 1.0, "val/loss": NaN}\n'  # of an earlier version
    path.write_text(old)
    progress = Progress(tmp_path, first_step=1, total_steps=2)
    progress.log(2, METRICS, lambda: {"val/loss": math.nan, "val/loss/en": math.inf})
    progress.close()
    first, second = path.read_text().splitlines(keepends=True)
    assert first == old, "kept lines keep their text"
    assert json.loads(second) == {"step": 2, **METRICS, "val/loss": None, "val/loss/en": None}
    assert read_metrics(path) == [{"step": 1, "train/loss": 1.0}, {"step": 2, **METRICS}]
    write_run_report(tmp_path, config={}, metrics=read_metrics(path))
    assert "1.5000 at step 2" in (tmp_path / "report.md").read_text()


def test_lines_that_a_full_disk_refuses_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = [1 << 20]  # bytes left on the disk

    def open_limited(path: Path, mode: str, buffering: int) -> io.FileIO:
        class Limited(io.FileIO):
            def write(self, data: bytes) -> int:
                if not room[0]:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written = super().write(data[: room[0]])
                room[0] -= written
                return written

        return Limited(path, mode)

    monkeypatch.setattr(progress_module, "open", open_limited, raising=False)
    progress = Progress(tmp_path, first_step=0, total_steps=20)
    for step in range(1, 21):
        room[0] = {3: 10, 15: 1 << 20, 17: 0}.get(step, room[0])  # full from step 3 to 14, and from 17
        progress.log(step, METRICS)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 17))
    room[0] = 1 << 20
    progress.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": step, **METRICS} for step in range(1, 21)]
    warned = [line for line in caplog.messages if "metrics.jsonl: not written (No space left on device)" in line]
    assert len(warned) == 2, "once each time"
    assert [event.step for event in events(tmp_path)] == [0, 1, *range(1, 21)]


def events(workdir: Path) -> list:
    """The events of a workdir's one TensorBoard file, checked to be what tensorboardX itself writes."""
    (path,) = (workdir / "tensorboard").glob("events.out.tfevents.*")
    data, found, start = path.read_bytes(), [], 0
    again = tensorboardX.RecordWriter(str(workdir / "again"))
    while start < len(data):
        end = start + 12 + struct.unpack_from("<Q", data, start)[0]
        found.append(event_pb2.Event.FromString(data[start + 12 : end]))
        again.write(data[start + 12 : end])
        start = end + 4
    again.close()
    assert (workdir / "again").read_bytes() == data
    return found


def test_tensorboard_gets_the_scalars_and_forgets_steps_that_are_repeated(tmp_path: Path) -> None:
    progress = Progress(tmp_path, first_step=4, total_steps=5)
    progress.log(5, METRICS)
    progress.close()
    version, start, line = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, event_pb2.SessionLog.START)
    assert (line.step, line.wall_time > 1e9) == (5, True)
    assert {value.tag: value.simple_value for value in line.summary.value} == METRICS


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    progress = Progress(tmp_path, first_step=0, total_steps=1, writer=False)
    progress.log(1, METRICS)
    progress.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spent", [None, dict.fromkeys(SPENT, 0.0)])
def test_no_figure_where_no_time_is_known(tmp_path: Path, spent: dict[str, float] | None) -> None:
    progress = Progress(tmp_path, first_step=0, total_steps=1)
    if spent:
        progress.step(spent)
    progress.log(1, METRICS)
    progress.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, **METRICS}]
