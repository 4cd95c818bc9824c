"""What a run says while it runs: `metrics.jsonl`, TensorBoard, and a progress bar."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tensorboardX
import tqdm

from ecomgpt_jax.files import write_json_lines
from ecomgpt_jax.training.gauges import Gauges


def read_metrics(path: Path) -> list[dict]:
    """Returns the lines of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


class Progress:
    """Writes the metrics of a run and shows where it is; only process 0 writes.

    A resumed run first drops the lines of steps that will be done again, so each step has one line.
    """

    def __init__(
        self, workdir: Path, *, first_step: int, total_steps: int, writer: bool = True, gauges: Gauges | None = None
    ) -> None:
        """Opens the files; `gauges(metrics, steps, seconds)` adds to what `log` writes."""
        self._gauges, self._steps = gauges, 0
        self._waited = {"data": 0.0, "step": 0.0}
        self._file = self._board = None
        self._bar = tqdm.tqdm(
            total=total_steps, initial=first_step, desc="train", unit="step", disable=None if writer else True,
            dynamic_ncols=True,
        )  # fmt: skip
        self._clock = time.monotonic()
        if not writer:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        write_json_lines(path, kept)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def step(self) -> None:
        """Counts one optimizer step."""
        self._steps += 1
        self._bar.update()

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Counts the time inside as waiting for `data`, or for the devices to end a `step`."""
        begin = time.monotonic()
        yield
        self._waited[what] += time.monotonic() - begin

    def log(
        self, step: int, metrics: Mapping[str, float], evaluate: Callable[[], Mapping[str, float]] | None = None
    ) -> None:
        """Writes one line: `metrics` of the steps since the last one, and how fast they were.

        `perf/tokens_per_second` counts useful tokens. A step's seconds are split into `perf/data_seconds` (waiting for
        rows), `perf/step_seconds` (waiting for the devices) and `perf/host_seconds` (all else the host did). What
        `evaluate` returns goes into the same line; the time it takes does not count.
        """
        now = time.monotonic()
        elapsed, self._clock = max(now - self._clock, 1e-9), now
        rate = metrics["train/tokens"] / elapsed
        line = {"step": step, **metrics, "perf/tokens_per_second": rate, "perf/seconds": elapsed}
        if self._steps:
            split = {**self._waited, "host": max(0.0, elapsed - sum(self._waited.values()))}
            line |= {f"perf/{name}_seconds": seconds / self._steps for name, seconds in split.items()}
            line |= self._gauges(metrics, self._steps, elapsed) if self._gauges else {}
        self._waited, self._steps = dict.fromkeys(self._waited, 0.0), 0
        if evaluate is not None:
            line |= evaluate()
            self._clock = time.monotonic()
        self._bar.set_postfix_str(f"loss {metrics.get('train/loss', math.nan):.4f}, {rate:,.0f} tokens/s")
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in line.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files and the bar."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
            self._board.close()
