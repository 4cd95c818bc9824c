"""The step directories of a run on disk: their list, meta and parameters.

A workdir holds `checkpoints/<step>/`, each step with three items and a manifest of their files: `params`, `optimizer`
(Adam moments and step counter) and `meta` (the run's config, the data's fingerprint and the cursor into its rows). A
directory without a manifest is not a checkpoint. A step directory can be read on its own.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model import manifest
from ecomgpt_jax.model.parameters import Parameter, leaf_of, to_tree

Meta = dict[str, Any]
FOLDER = "checkpoints"


def one_line(error: Exception) -> str:
    """Returns the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def list_steps(workdir: str | os.PathLike[str]) -> list[int]:
    """Returns the steps of a workdir, oldest first, damaged ones included; other entries are skipped."""
    folder = epath.Path(workdir) / FOLDER
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def step_directory(path: str | os.PathLike[str]) -> epath.Path:
    """Returns the step directory of a checkpoint path: itself, or the newest step of a workdir.

    Raises:
      MissingInputError: there is no checkpoint.
    """
    path = epath.Path(path).expanduser().absolute()
    if (path / "params").is_dir():
        return path
    steps = [step for step in list_steps(path) if (path / FOLDER / str(step) / manifest.NAME).exists()]
    if not steps:
        what = "no such directory" if not path.exists() else "no checkpoint in it"
        raise MissingInputError(f"{path}: {what}; give a workdir, a step directory or a Hugging Face directory")
    return path / FOLDER / str(steps[-1])


def read_items(directory: epath.Path, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
    """Restores items of a step directory.

    Raises:
      DataError: a file is missing or does not fit.
    """
    try:
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler()).restore(directory, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax and tensorstore raise many types
        raise DataError(f"{directory}: unreadable checkpoint ({one_line(error)})") from error


def read_meta(directory: epath.Path) -> Meta:
    """Returns the `meta` item of a step directory.

    It reads orbax's file directly: a restore would wait for every process, and only process 0 calls this for pruning.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return json.loads((directory / "meta" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{directory}: unreadable checkpoint ({one_line(error)})") from error


def read_params(
    directory: epath.Path, places: dict[Parameter, Sharding], dtype: jax.typing.DTypeLike
) -> Iterator[tuple[Parameter, jax.Array]]:
    """Yields the parameters of a step directory, the largest first, each read on request.

    Args:
      directory: a step directory; its files are compared with its manifest before the first read.
      places: sharding of each parameter.
      dtype: of the returned arrays; the file's values are cast while they are read.

    Raises:
      DataError: the files do not match the manifest, or a parameter is missing or has another shape.
    """
    if problem := manifest.find_damage(directory, ("params", "meta")):
        raise DataError(f"{directory}: {problem}; use another step of the run")
    for parameter in sorted(places, key=lambda parameter: -parameter.size):
        wanted = ocp.ArrayRestoreArgs(dtype=dtype, sharding=places[parameter], global_shape=parameter.shape)
        target = jax.ShapeDtypeStruct(parameter.shape, dtype, sharding=places[parameter])
        args = ocp.args.PyTreeRestore(
            item=to_tree({parameter.path: target}), restore_args=to_tree({parameter.path: wanted}), partial_restore=True
        )
        yield parameter, leaf_of(read_items(directory, params=args).params, parameter.path)
