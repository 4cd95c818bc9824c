"""The training loop: restore or start, step, log, save. One page, read from top to bottom."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, ModelConfig
from ecomgpt_jax.data.pipeline import PackedRows, batches
from ecomgpt_jax.errors import ConfigError, MissingInputError
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.sharding import RULES
from ecomgpt_jax.training import checkpoint
from ecomgpt_jax.training.optimizer import make_optimizer, make_schedule
from ecomgpt_jax.training.progress import Progress
from ecomgpt_jax.training.train_step import TrainState, abstract_state, global_batch, init_state, make_train_step


def rows_per_step(config: Config, mesh: Mesh) -> int:
    """Returns the rows of one optimizer step over all devices."""
    shards = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    return config.train.rows_per_device * shards * config.train.accumulation


def count_steps(config: Config, rows: PackedRows, mesh: Mesh) -> int:
    """Returns the optimizer steps of the run: all epochs, or `train.max_steps` where that is fewer."""
    steps = len(rows) // rows_per_step(config, mesh)
    return min(steps, config.train.max_steps) if config.train.max_steps else steps


def prepare_workdir(workdir: Path, resume: str) -> None:
    """Creates the workdir and settles `--resume`.

    auto goes on from the newest checkpoint if there is one; require insists on one; never moves an earlier run's
    checkpoints and metrics aside into `previous-<n>` and starts afresh.

    Raises:
      ConfigError: `resume` is none of the three.
      MissingInputError: `resume` is require and there is no checkpoint.
    """
    if resume not in ("auto", "never", "require"):
        raise ConfigError(f"--resume={resume!r} is none of auto, never, require")
    steps = [path for path in (workdir / checkpoint.FOLDER).glob("*") if path.name.isdigit()]
    if resume == "require" and not steps:
        raise MissingInputError(f"{workdir}: --resume=require, but it holds no checkpoint")
    workdir.mkdir(parents=True, exist_ok=True)
    if resume != "never":
        return
    old = [workdir / name for name in (checkpoint.FOLDER, "metrics.jsonl", "tensorboard", "evaluation", "report")]
    old = [path for path in old if path.exists()]
    if old:
        number = 1 + sum(1 for _ in workdir.glob("previous-*"))
        (workdir / f"previous-{number}").mkdir()
        for path in old:
            shutil.move(path, workdir / f"previous-{number}" / path.name)


def train(
    config: Config,
    rows: PackedRows,
    mesh: Mesh,
    workdir: str | os.PathLike[str],
    initial_params: Callable[[], Params] | None = None,
) -> Params:
    """Trains to the end and returns the parameters.

    Where weights come from, in order: the newest checkpoint of the workdir; `initial_params()`; fresh ones from
    `train.seed`. Data resumes at the row after the last one trained on, whatever the number of hosts.

    Args:
      config: resolved, with the vocabulary's real size.
      rows: all rows of the run.
      mesh: devices.
      workdir: gets checkpoints, `metrics.jsonl` and TensorBoard files.
      initial_params: loads pretrained weights; called only when there is no checkpoint.

    Raises:
      ConfigError: a checkpoint was made from other data, or by a run of another shape.
    """
    workdir, model = Path(workdir), config.model
    per_step, total_steps = rows_per_step(config, mesh), count_steps(config, rows, mesh)
    optimizer = make_optimizer(config.optimizer, total_steps)
    schedule = make_schedule(config.optimizer, total_steps)
    run = {"data": rows.store.fingerprint, "total_steps": total_steps, "rows_per_step": per_step}
    with jax.set_mesh(mesh):
        train_step = make_train_step(model, optimizer, mesh)
        checkpoints = checkpoint.open_checkpoints(workdir, config.train.keep)
        newest = checkpoints.latest_step()
        if newest is None:
            state = init_state(model, optimizer, mesh, config.train.seed, initial_params and initial_params())
        else:
            state = _resume(workdir, newest, config, run, optimizer, mesh)
        step = int(state.step)
        progress = Progress(
            workdir, first_step=step, total_steps=total_steps, writer=jax.process_index() == 0
        )  # fmt: skip
        source = batches(rows, per_step, step, jax.process_index(), jax.process_count())
        pending: list[dict[str, jax.Array]] = []
        try:
            while step < total_steps:
                state, metrics = train_step(state, global_batch(next(source), config.train.accumulation, mesh))
                step += 1
                pending.append(metrics)
                progress.step()
                if step % config.train.log_every == 0 or step == total_steps:
                    progress.log(step, _summary(jax.device_get(pending), float(schedule(step - 1))))
                    pending.clear()
                if step % config.train.save_every == 0 or step == total_steps:
                    meta = {"config": config_lib.to_dict(config), "run": run, "next_row": step * per_step}
                    checkpoint.save(checkpoints, state, meta)
            checkpoints.wait_until_finished()
        finally:
            progress.close()
            checkpoints.close()
    return state.params


def _summary(steps: list[dict[str, np.ndarray]], learning_rate: float) -> dict[str, float]:
    """Returns the metrics of the steps since the last line: losses weighted by targets, tokens summed."""
    targets = sum(float(step["targets"]) for step in steps)
    loss = sum(float(step["loss"]) * float(step["targets"]) for step in steps)
    return {
        # One step's loss is kept to the last bit, for those who compare runs step by step.
        "train/loss": float(steps[0]["loss"]) if len(steps) == 1 else loss / max(targets, 1.0),
        "train/learning_rate": learning_rate,
        "train/grad_norm": float(steps[-1]["grad_norm"]),
        "train/targets": targets,
        "train/tokens": sum(float(step["tokens"]) for step in steps),
    }


def _shape(model: ModelConfig) -> dict[str, int]:
    return {name: getattr(model, name) for name in ("vocab_size", "embed", "layers", "heads")}


def _resume(workdir: Path, step: int, config: Config, run: dict, optimizer: Any, mesh: Mesh) -> TrainState:
    directory = checkpoint.step_directory(workdir / checkpoint.FOLDER / str(step))
    meta = checkpoint.read_meta(directory)
    saved = {**meta.get("run", {}), **_shape(checkpoint.load_model_config(directory))}
    for name, value in {**run, **_shape(config.model)}.items():
        if saved.get(name) != value:
            raise ConfigError(
                f"{directory}: was saved with {name}={saved.get(name)}, this run has {value}; "
                "restore the old setting, or use another --workdir"
            )
    return checkpoint.restore(directory, abstract_state(config.model, optimizer, mesh))
