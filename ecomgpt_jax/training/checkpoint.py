"""A run's own checkpoints: finds the newest valid step of a workdir and restores the whole training state.

`model/step_files.py` defines a step directory. `model/loading.py` loads weights for use (evaluation, conversion, the
start of another run).
"""

import logging
import os
import re
from pathlib import Path

import orbax.checkpoint as ocp
from etils import epath

from ecomgpt_jax.model import manifest
from ecomgpt_jax.model.step_files import FOLDER, list_steps, read_items
from ecomgpt_jax.parallel import processes
from ecomgpt_jax.training.train_step import TrainState

QUARANTINE = "quarantine"


def newest_valid(workdir: str | os.PathLike[str]) -> epath.Path | None:
    """Returns the newest undamaged step directory; damaged newer ones are moved to `QUARANTINE`.

    Process 0 searches and sends the result to the others.
    """
    found = processes.from_first(lambda: _newest_whole(workdir))
    return None if found is None else epath.Path(workdir).absolute() / FOLDER / str(found)


def _newest_whole(workdir: str | os.PathLike[str]) -> int | None:
    for step in reversed(list_steps(workdir)):
        directory = epath.Path(workdir) / FOLDER / str(step)
        problem = manifest.find_damage(directory)
        if not problem:
            return step
        aside = _quarantine(directory)
        logging.warning("%s: %s; moved to %s, trying the step before it", directory, problem, aside)
    return None


def _quarantine(directory: epath.Path) -> epath.Path:
    folder = directory.parent.parent / QUARANTINE
    folder.mkdir(parents=True, exist_ok=True)
    number = next_number(folder, directory.name)
    return directory.rename(folder / (f"{directory.name}-{number}" if number else directory.name))


def next_number(folder: epath.Path | Path, stem: str) -> int:
    """Returns 1 + the largest N of the names `stem-N` in a folder, where `stem` itself counts as 0; 0 without any."""
    found = (re.fullmatch(rf"{re.escape(stem)}(?:-(\d+))?", path.name) for path in folder.iterdir())
    return 1 + max((int(name[1] or 0) for name in found if name), default=-1)


def restore(directory: epath.Path, target: TrainState) -> TrainState:
    """Restores a whole state from a step directory onto the shapes and shardings of `target` (any mesh).

    Raises:
      DataError: a file is missing or does not fit.
    """
    moments = {"step": target.step, "optimizer": target.optimizer}
    items = read_items(
        directory, params=ocp.args.StandardRestore(target.params), optimizer=ocp.args.StandardRestore(moments)
    )
    return TrainState(items.optimizer["step"], items.params, items.optimizer["optimizer"])
