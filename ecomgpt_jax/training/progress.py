"""Progress of a run: `metrics.jsonl`, TensorBoard, and a progress bar, or lines if the output is not a terminal."""

import collections
import contextlib
import json
import logging
import math
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import tqdm

from ecomgpt_jax.files import write_text
from ecomgpt_jax.training.step_clock import PARTS
from ecomgpt_jax.training.throughput import Throughput

LINE_EVERY = 30.0  # seconds between the lines that replace the bar if the output is not a terminal


def _read_lines(path: Path) -> list[tuple[str, dict]]:
    """Returns (text, value) of the lines of a `metrics.jsonl`, without an incomplete last line of a killed run."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").split("\n"):
            try:
                lines.append((text, json.loads(text)))
            except ValueError:
                break
    return lines


def read_metrics(path: Path) -> list[dict]:
    """Returns the whole lines of a `metrics.jsonl`, without values that were not finite."""
    return [
        {name: value for name, value in line.items() if value is not None and math.isfinite(value)}
        for _, line in _read_lines(path)
    ]


def _import_tensorboard() -> ModuleType:
    """Imports tensorboardX without torch, unless torch is imported already; only tensors would need it.

    If torch is installed, tensorboardX imports it, which takes seconds and loads its CUDA libraries in addition to
    those of jax.
    """
    hidden = sys.modules.setdefault("torch", None) is None
    try:
        import tensorboardX

        return tensorboardX
    finally:
        if hidden:
            del sys.modules["torch"]


tensorboardX = _import_tensorboard()


class _Appended:
    """A file for appending. Bytes that cannot be written to a full disk are kept and written before the next ones."""

    def __init__(self, path: Path) -> None:
        self._path, self._left, self._warned = path, b"", False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def add(self, data: bytes) -> None:
        """Writes the bytes; if that fails, warns once until writing works again."""
        self._left += data
        try:
            while self._left:
                self._left = self._left[self._file.write(self._left) :]
            self._warned = False
        except OSError as error:
            if not self._warned:
                logging.warning("%s: not written (%s); kept until writing works again", self._path, error.strerror)
            self._warned = True

    def close(self) -> None:
        """Writes the kept bytes, if possible, and closes the file."""
        self.add(b"")
        with contextlib.suppress(OSError):
            self._file.close()


def _event(**fields: Any) -> bytes:
    """Returns the bytes of a TensorBoard event.

    `SummaryWriter` is not used for this: a full disk ends its thread, and then its caller waits forever.
    """
    data = tensorboardX.proto.event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
    size = struct.pack("<Q", len(data))
    return b"".join(part + struct.pack("<I", tensorboardX.record_writer.masked_crc32c(part)) for part in (size, data))


class Progress:
    """Writes the metrics of a run and shows its progress; only process 0 writes.

    A resumed run first drops the lines of steps that will be repeated, so each step has one line.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        first_step: int,
        total_steps: int,
        writer: bool = True,
        throughput: Throughput | None = None,
    ) -> None:
        """Opens the files; the metrics of `throughput(metrics, steps, seconds)` are added to each line of `log`.

        Afterwards `has_line`, of process 0, is whether an earlier start has written the line of `first_step`.
        """
        self.has_line = False
        self._throughput, self._steps, self._spent = throughput, 0, collections.Counter()
        self._file = self._board = None
        self._bar = tqdm.tqdm(
            total=total_steps, initial=first_step, desc="train", unit="step", disable=None if writer else True,
            dynamic_ncols=True,
        )  # fmt: skip
        self._total, self._lines, self._last_line = total_steps, writer and self._bar.disable, -math.inf
        if not writer:
            return
        path = workdir / "metrics.jsonl"
        lines = _read_lines(path)
        self.has_line = any(line["step"] == first_step for _, line in lines)
        write_text(path, "".join(f"{text}\n" for text, line in lines if line["step"] <= first_step))
        self._file = _Appended(path)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._board = _Appended(workdir / "tensorboard" / name)
        self._board.add(_event(file_version="brain.Event:2"))
        start = tensorboardX.proto.event_pb2.SessionLog(status="START")  # TensorBoard then hides these steps
        self._board.add(_event(step=first_step + 1, session_log=start))

    def step(self, spent: Mapping[str, float]) -> None:
        """Counts one optimizer step and its seconds, see `StepClock.read`."""
        self._steps += 1
        self._spent.update(spent)
        self._bar.update()

    def log(
        self, step: int, metrics: Mapping[str, float], evaluate: Callable[[], Mapping[str, float]] | None = None
    ) -> None:
        """Writes one line: `metrics` of the steps since the last one, and their speed.

        `perf/seconds` is the time of all these steps, `perf/tokens_per_second` counts useful tokens. The mean seconds
        per step are split into `perf/data_seconds`, `perf/step_seconds` and `perf/host_seconds` (`StepClock.read`);
        `perf/checkpoint_seconds` is the part of the last that checkpoints took, if any. The result of `evaluate` is
        added to the line, and its time is not counted. Without any measured time none of these is written. Values that
        are not finite are written as null.
        """
        line, rate, seconds = {"step": step, **metrics}, "", self._spent["seconds"]
        if seconds > 0:
            line |= {"perf/tokens_per_second": metrics["train/tokens"] / seconds, "perf/seconds": seconds}
            rate = f", {line['perf/tokens_per_second']:,.0f} tokens/s"
            parts = [*PARTS, *(["checkpoint"] if self._spent["checkpoint"] else [])]
            line |= {f"perf/{name}_seconds": self._spent[name] / self._steps for name in parts}
            line |= self._throughput(metrics, self._steps, seconds) if self._throughput else {}
        self._spent, self._steps = collections.Counter(), 0
        if evaluate is not None:
            line |= evaluate()
        state = f"loss {metrics.get('train/loss', math.nan):.4f}{rate}"
        self._bar.set_postfix_str(state)
        if self._lines and (step == self._total or time.monotonic() - self._last_line >= LINE_EVERY):
            self._last_line = time.monotonic()
            print(f"train: step {step:,} of {self._total:,}, {state}", file=sys.stderr, flush=True)
        if self._file is not None:
            finite = {name: value if math.isfinite(value) else None for name, value in line.items()}
            self._file.add(json.dumps(finite, allow_nan=False).encode() + b"\n")
            summary = tensorboardX.proto.summary_pb2.Summary()
            for name, value in line.items():
                if name != "step":
                    summary.MergeFrom(tensorboardX.summary.scalar(name, value))
            self._board.add(_event(step=step, summary=summary))

    def close(self) -> None:
        """Closes the files and the bar."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
            self._board.close()
