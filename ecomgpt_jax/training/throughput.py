"""Hardware utilisation: model FLOPs utilisation, packing fill, and a trace for a profiler."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model.parameters import flops_per_token
from ecomgpt_jax.parallel.topology import CHIPS

# Nominal dense bfloat16 FLOP/s of one jax device, by a part of its `device_kind`; the first match is used.
PEAK_FLOPS = {
    "TPU v3": 61.5e12,  # one core is half a chip
    "TPU v4": CHIPS["v4"].peak_flops,
    "TPU v5 lite": CHIPS["v5e"].peak_flops,
    "TPU v5e": CHIPS["v5e"].peak_flops,
    "TPU v5": CHIPS["v5p"].peak_flops,
    "TPU v6 lite": CHIPS["v6e"].peak_flops,
    "TPU v6e": CHIPS["v6e"].peak_flops,
    "A100": 312e12,
    "H100": CHIPS["h100"].peak_flops,
    "H200": CHIPS["h200"].peak_flops,
}
TRACED_FROM = 3  # first step of a trace: step 1 compiles, and in step 2 the host gets ahead of the devices

Throughput = Callable[[Mapping[str, float], int, float], dict[str, float]]


def peak_flops(device_kind: str) -> float | None:
    """Returns a device's nominal FLOP/s in bfloat16; None for an unknown device."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_kind), None)


def make_throughput_metrics(model: ModelConfig, length: int, rows_per_step: int, mesh: Mesh) -> Throughput:
    """Returns `throughput(metrics, steps, seconds)`, which returns the metrics of that many steps.

    `perf/packing_fill` is the share of positions that hold a token. `perf/mfu` divides the executed FLOPs of the model
    (the head at targets only, attention once) by the device's peak; `perf/mfu_full_head` counts the head at every
    position, as other projects do. Both are omitted on unknown devices.
    """
    peak = peak_flops(mesh.devices.flat[0].device_kind)

    def throughput(metrics: Mapping[str, float], steps: int, seconds: float) -> dict[str, float]:
        positions = steps * rows_per_step * length
        values = {"perf/packing_fill": metrics["train/tokens"] / positions}
        if peak is not None:
            share = metrics["train/targets"] / positions
            for name, targets in (("perf/mfu", share), ("perf/mfu_full_head", 1.0)):
                used = positions * flops_per_token(model, length, targets)
                values[name] = used / (seconds * peak * mesh.size)
        return values

    return throughput


class Tracer:
    """Writes a trace of `steps` steps, from the third of this start on, for TensorBoard's or Perfetto's profiler."""

    def __init__(self, folder: Path, first_step: int, steps: int) -> None:
        """Takes the steps done before this start; with `steps` 0 nothing is traced."""
        self._folder, self._running = folder, False
        self._first = first_step + TRACED_FROM - 1
        self._last = self._first + steps

    def before(self, step: int, state: Any) -> None:
        """Call with the steps done so far and the newest state, before the next step is started."""
        if step == self._first < self._last:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self._last:
            self.close(state)

    def close(self, state: Any = None) -> None:
        """Ends the trace if one is running, once `state` is computed."""
        if self._running:
            self._running = False
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
