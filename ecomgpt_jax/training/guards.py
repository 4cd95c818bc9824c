"""Checks during a run: losses and gradients that are not finite, loss spikes, devices out of memory.

The train step itself leaves parameters and Adam state unchanged when its loss or gradient is not finite. This module
counts such steps, reports their rows, and stops a run after too many in a row.
"""

import collections
import dataclasses
import logging
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from ecomgpt_jax.config import Config
from ecomgpt_jax.data.pipeline import PackedRows
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.training import memory

SPIKE = 3.0  # a loss of this many times the median of the previous ones is a spike
_WINDOW, _WARM = 64, 8  # maximum and minimum number of losses for the median


class NotFiniteError(DataError):
    """Too many steps in a row had a loss or gradient that was not finite."""


def is_finite(metrics: Mapping[str, float]) -> bool:
    """Returns whether a step's loss and gradient were finite, so that it was applied."""
    return math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])


class LossMonitor:
    """Checks the metrics of each step.

    Attributes:
      skipped: steps that were not applied.
      spikes: losses far above the previous ones.
    """

    def __init__(self, rows: PackedRows, rows_per_step: int, patience: int, workdir: Path) -> None:
        self._rows, self._per_step, self._patience, self._workdir = rows, rows_per_step, patience, workdir
        self._losses: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._in_a_row = self.skipped = self.spikes = 0

    def check(self, step: int, first_row: int, metrics: Mapping[str, float]) -> None:
        """Counts a step that was not applied or a loss spike, and warns.

        Args:
          step: number of the step, from 1.
          first_row: the first of its rows.
          metrics: its metrics, on the host.

        Raises:
          NotFiniteError: more than `patience` steps in a row were not finite; a file has the rows of the last one.
        """
        where = f"step {step}, rows {first_row} to {first_row + self._per_step - 1}"
        if is_finite(metrics):
            self._in_a_row = 0
            loss = metrics["loss"]
            usual = statistics.median(self._losses) if len(self._losses) >= _WARM else math.inf
            if loss > SPIKE * usual:
                self.spikes += 1
                logging.warning("loss spike: %.4g after a median of %.4g (%s)", loss, usual, where)
            self._losses.append(loss)
            return
        self.skipped += 1
        self._in_a_row += 1
        logging.warning(
            "skipped: loss %.4g, gradient norm %.4g (%s); %d skipped so far",
            metrics["loss"], metrics["grad_norm"], where, self.skipped,
        )  # fmt: skip
        if self._in_a_row > self._patience:
            path = self._dump(step, first_row)
            raise NotFiniteError(
                f"{where}: loss or gradient not finite, {self._in_a_row} steps in a row; parameters are saved as they "
                f"were before, the rows are in {path}; look at them, or lower optimizer.learning_rate"
            )

    def _dump(self, step: int, first_row: int) -> Path:
        path = self._workdir / f"bad_batch-{step}.npz"
        if jax.process_index() != 0:  # every process runs this; one writes
            return path
        numbers = range(first_row, first_row + self._per_step)
        rows = [self._rows[number] for number in numbers]
        plan = self._rows.plan
        instances = [plan.row(number) for number in numbers if number < len(plan)]
        np.savez(
            path, rows=np.array(numbers), instances=np.concatenate([*instances, np.zeros(0, np.int64)]),
            **{name: np.stack([row[name] for row in rows]) for name in rows[0]},
        )  # fmt: skip
        return path


def explain_out_of_memory(error: Exception, config: Config, mesh: Mesh) -> ConfigError | None:
    """Returns an error with settings that reduce memory, or None if `error` is not about memory."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "Out of memory" not in text and "out of memory" not in text:
        return None
    asked = re.search(r"allocat\w*\D{0,20}([\d.]+ ?(?:[KMGT]i?B|bytes))", text)
    train, model, tips = config.train, config.model, []

    stages = memory.stage_bytes(config, mesh)

    def need(config: Config) -> str:
        return f"about {memory.estimated_bytes(config, mesh) / 2**30:.3g} GiB"

    if config.eval.batch > 1 and stages.get("evaluation", 0) > stages["training"]:
        fewer = dataclasses.replace(config.eval, batch=config.eval.batch // 2)
        less = memory.evaluation_bytes(dataclasses.replace(config, eval=fewer), mesh) / 2**30
        tips.append(f"eval.batch={fewer.batch} ({less:.3g} GiB while evaluating)")
    if train.rows_per_device > 1:
        rows = train.accumulation * train.rows_per_device
        half = max(fewer for fewer in range(1, train.rows_per_device // 2 + 1) if rows % fewer == 0)
        steps = rows // half
        fewer = dataclasses.replace(train, rows_per_device=half, accumulation=steps)
        less = need(dataclasses.replace(config, train=fewer))
        tips.append(f"train.rows_per_device={half} with train.accumulation={steps} (the same rows per step; {less})")
    if model.remat != "full":
        recomputed = dataclasses.replace(config, model=dataclasses.replace(model, remat="full"))
        tips.append(f"model.remat=full (now {model.remat}; {need(recomputed)})")
    tips.append(f"mesh.fsdp above {mesh.shape['fsdp']}")
    if not config.lora.rank:
        tips.append("lora.rank=16")
    allocation = f"; it asked for {asked[1]} more" if asked else ""
    most = max(stages.values()) / 2**30
    return ConfigError(
        f"a device is out of memory (this run takes about {most:.3g} GiB per device by arithmetic, by stage: "
        f"{memory.describe(stages)}{allocation}); try "
        + ", then ".join(tips) + "; `python -m ecomgpt_jax.plan --config ...` estimates it without a run"
    )  # fmt: skip
