"""Measures when each step ended on the devices, and why they were idle before it.

The host runs one step ahead of the devices and reads metrics one step late, so its read times are not the times of a
step. A thread therefore waits for the outputs of each step and records the time.
"""

import collections
import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

PARTS = ("data", "step", "host")  # add up to the seconds of a step


class StepClock:
    """Times each step from the end of the previous one to its own end; the first from the creation of the clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic, ended: Callable[[Any], float] | None = None) -> None:
        """Starts the first step's time; `ended(outputs)` blocks and returns the time at which they were computed."""
        self._now, self._ended, self._last = now, ended or self._wait, now()
        self._spans: list[tuple[str, float, float]] = []
        self._called: collections.deque[tuple[float, float, concurrent.futures.Future[float]]] = collections.deque()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="step clock")
        self._compiles = True

    def _wait(self, outputs: Any) -> float:
        jax.block_until_ready(outputs)
        return self._now()

    @contextlib.contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Adds the duration of the block to an activity of the host: `data`, `checkpoint` or `evaluation`."""
        begin = self._now()
        try:
            yield
        finally:
            self._spans.append((what, begin, self._now()))

    def call(self, step: Callable[..., tuple[Any, Any]], *arguments: Any) -> tuple[Any, Any]:
        """Starts a step; returns its (state, metrics), which may not be computed yet."""
        begin = self._now()
        state, metrics = step(*arguments)
        # The metrics alone, because the state is donated to the next step.
        self._called.append((begin, self._now(), self._thread.submit(self._ended, metrics)))
        return state, metrics

    def read(self) -> dict[str, float]:
        """Waits for the oldest unread step and returns its seconds.

        Returns:
          {"seconds": from end to end without evaluations, "data": devices idle for lack of rows, "step": devices busy,
          "host": devices idle for other reasons, "checkpoint": the part of "host" in which a checkpoint was copied}.
          "data", "step" and "host" add up to "seconds".
        """
        called, returned, ended = self._called.popleft()
        last, self._last = self._last, ended.result()
        # A small program may run inside its call; the first call mainly compiles.
        inside = self._last <= returned and not self._compiles
        begun = min(max(called if inside else returned, last), self._last)
        self._compiles = False
        waited = {
            what: sum(max(0.0, min(end, begun) - max(begin, last)) for name, begin, end in self._spans if name == what)
            for what in ("data", "checkpoint", "evaluation")
        }
        self._spans = [span for span in self._spans if span[2] > self._last]
        seconds = self._last - last - waited["evaluation"]
        work = self._last - begun
        return {
            "seconds": seconds, "data": waited["data"], "step": work, "host": seconds - work - waited["data"],
            "checkpoint": waited["checkpoint"],
        }  # fmt: skip

    def close(self) -> None:
        """Ends the thread and discards unread steps."""
        self._thread.shutdown(wait=False, cancel_futures=True)
