"""Saves checkpoints in the background and atomically, and removes old ones.

orbax writes a step under a name that ends in `.partial`; then its files are hashed into the manifest and it is renamed.
A killed process leaves only partial names, which the next start removes. A failed save is a warning; older steps stay
intact and the run continues, until `MAX_FAILURES` saves in a row have failed.
"""

import concurrent.futures
import contextlib
import logging
import math
import os
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, DataConfig, ModelConfig
from ecomgpt_jax.errors import StorageError
from ecomgpt_jax.model import manifest
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.model.step_files import FOLDER, Meta, list_steps, one_line, read_meta
from ecomgpt_jax.parallel import processes
from ecomgpt_jax.training import faults
from ecomgpt_jax.training.progress import read_metrics
from ecomgpt_jax.training.train_step import TrainState

PARTIAL = ".partial"
UNMEASURED = "unmeasured"  # in the meta of a step whose validation and evaluation were interrupted
MAX_FAILURES = 3  # failed saves in a row that end the run
_HEADROOM = 1.1  # free bytes required per byte to be written
_SLICE_BYTES = 1 << 20  # minimum slice of an array per replica that writes it, since each slicing compiles a program


def _is_partial(name: str) -> bool:
    return name.partition(".")[0].isdecimal() and PARTIAL in name


def free_bytes(folder: epath.Path) -> float:
    """Returns the free bytes on the disk of a folder; infinite for object stores."""
    return float("inf") if "://" in str(folder) else shutil.disk_usage(folder).free


def _handler() -> ocp.CompositeCheckpointHandler:
    """Returns orbax's handler of a step directory, which does not slice small arrays."""
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_SLICE_BYTES)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    tree = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    return ocp.CompositeCheckpointHandler(params=tree, optimizer=tree, meta=ocp.JsonCheckpointHandler())


class Checkpoints:
    """Writes the checkpoints of a run; as a context manager it waits for the last one.

    Every process of a run creates an instance and calls `save` at the same steps. Process 0 writes manifests, renames
    and removes.
    """

    def __init__(self, workdir: str | os.PathLike[str], keep: int, best_metric: str = "") -> None:
        """Creates the folder and removes incomplete steps of a killed run.

        Args:
          workdir: the run's folder; `gs://` paths work as far as epath supports them.
          keep: number of newest steps to keep.
          best_metric: the step with the best value of this metric is kept too: the lowest of a loss, else the highest;
            empty: none.
        """
        self._folder = epath.Path(workdir).absolute() / FOLDER
        self._keep, self._metric, self._writer = keep, best_metric, jax.process_index() == 0
        self._orbax = ocp.AsyncCheckpointer(_handler())
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: concurrent.futures.Future | None = None
        self._failures = 0
        if self._writer:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_partial()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True)
        with contextlib.suppress(Exception):  # a failed save was reported before
            self._orbax.close()

    def save(self, state: TrainState, meta: Meta) -> None:
        """Starts saving a state, after the previous save has ended; `best_metric` is looked up in `meta["metrics"]`.

        Of a step with `UNMEASURED` in its meta it is also looked up in its line of `metrics.jsonl`.

        Raises:
          StorageError: it is the last of `MAX_FAILURES` saves in a row that failed.
        """
        self._collect()
        step = int(state.step)
        if processes.from_first((self._folder / str(step) / manifest.NAME).exists):
            return
        try:
            self._check_room(state)
            moments = {"step": state.step, "optimizer": state.optimizer}
            self._orbax.save(
                self._folder / f"{step}{PARTIAL}",
                args=ocp.args.Composite(
                    params=ocp.args.PyTreeSave(state.params),
                    optimizer=ocp.args.PyTreeSave(moments),
                    meta=ocp.args.JsonSave(meta),
                ),
                force=True,
            )
        except Exception as error:  # orbax and tensorstore raise many types
            self._running = concurrent.futures.Future()
            self._running.set_exception(error)
            return
        self._running = self._thread.submit(self._commit, step)

    def wait(self) -> None:
        """Waits for the last save.

        Raises:
          StorageError: it failed.
        """
        self._collect(last=True)

    def _commit(self, step: int) -> None:
        self._orbax.wait_until_finished()
        if self._writer:
            partial = self._folder / f"{step}{PARTIAL}"
            faults.inject_fault("save", step)
            manifest.seal(partial)
            partial.rename(self._folder / str(step))
            self._prune()

    def _collect(self, last: bool = False) -> None:
        running, self._running = self._running, None
        if running is not None:
            error = running.exception()
            if processes.any_process(error is not None):  # all count the failure; otherwise one process would end alone
                self._failed(error or OSError("another process failed to save"), last)
            else:
                self._failures = 0
        elif last and self._failures:
            raise StorageError(f"{self._folder}: {self._reason}")

    def _failed(self, error: Exception, last: bool = False) -> None:
        if self._writer:
            self._remove_partial()
        self._failures += 1
        full = "No space left" in str(error)  # in a long message of tensorstore
        why = "no space left on the disk" if full else one_line(error)
        self._reason = f"checkpoint not saved ({why}); older steps are intact; fix the cause and start again"
        if last or self._failures >= MAX_FAILURES:
            raise StorageError(f"{self._folder}: {self._reason}") from error
        logging.warning("%s: checkpoint not saved (%s); the run continues", self._folder, why)

    def _check_room(self, state: TrainState) -> None:
        """Raises OSError, in all processes, if the disk has too little space for the state."""
        need = int(_HEADROOM * sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.optimizer))))
        free = processes.from_first(lambda: free_bytes(self._folder))
        if free < need:
            raise OSError(f"no space: {need / 2**20:,.1f} MiB needed, {free / 2**20:,.1f} MiB free")

    def _remove_partial(self) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and _is_partial(path.name):
                path.rmtree()

    def _prune(self) -> None:
        steps = [
            step for step in list_steps(self._folder.parent) if (self._folder / str(step) / manifest.NAME).exists()
        ]
        kept = {*steps[-self._keep :], *self._best(steps)}
        for step in set(steps) - kept:
            doomed = self._folder / f"{step}{PARTIAL}"  # renamed first: a kill leaves no incomplete step
            (self._folder / str(step)).rename(doomed)
            doomed.rmtree()

    def _best(self, steps: list[int]) -> list[int]:
        if not self._metric:
            return []
        values = {step: self._metrics(step) for step in steps}
        scores = {step: metrics[self._metric] for step, metrics in values.items() if self._metric in metrics}
        scores = {step: score for step, score in scores.items() if math.isfinite(score)}
        choose = min if "loss" in self._metric.split("/")[:2] else max  # a task's name may contain the word
        return [choose(scores, key=scores.get)] if scores else []

    def _metrics(self, step: int) -> dict[str, Any]:
        meta = read_meta(self._folder / str(step))
        metrics = meta.get("metrics", {})
        if meta.get(UNMEASURED):  # the next start measured it
            lines = read_metrics(self._folder.parent / "metrics.jsonl")
            metrics = metrics | next((line for line in lines if line["step"] == step), {})
        return metrics


def save_orbax_params(
    params: Params, model: ModelConfig, directory: str | os.PathLike[str], trained_length: int = 0
) -> None:
    """Writes a step directory with parameters only; replaces an existing one."""
    directory = epath.Path(directory).absolute()
    data = DataConfig(length=trained_length)
    meta = {"config": config_lib.to_dict(Config(name="converted", model=model, data=data))}
    ocp.Checkpointer(_handler()).save(
        directory,
        args=ocp.args.Composite(params=ocp.args.PyTreeSave(params), meta=ocp.args.JsonSave(meta)),
        force=True,
    )
    manifest.seal(directory)
