"""Checkpoints: the one module that talks to orbax.

A workdir holds `checkpoints/<step>/`, each step with three items: `params`, `optimizer` (Adam moments and step counter)
and `meta` (the run's config, the data's fingerprint and the cursor into its rows). A step directory is readable on its
own. `load_checkpoint` also takes a Hugging Face directory, so every command accepts any of the three.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, MeshConfig, ModelConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model import hf_weights
from ecomgpt_jax.model.parameters import Params, param_shapes, param_shardings
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.train_step import TrainState

Meta = dict[str, Any]
FOLDER = "checkpoints"


def open_checkpoints(workdir: str | os.PathLike[str], keep: int) -> ocp.CheckpointManager:
    """Opens (and creates) a workdir's checkpoints; half-written steps of a killed run are removed."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(epath.Path(workdir).absolute() / FOLDER, options=options)


def save(checkpoints: ocp.CheckpointManager, state: TrainState, meta: Meta) -> None:
    """Saves a state in the background; `checkpoints.wait_until_finished()` waits for the disk."""
    moments = {"step": state.step, "optimizer": state.optimizer}
    checkpoints.save(
        int(state.step),
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(moments),
            meta=ocp.args.JsonSave(meta),
        ),
    )


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def restore(directory: epath.Path, target: TrainState) -> TrainState:
    """Restores a whole state from a step directory onto the shapes and shardings of `target` (any mesh).

    Raises:
      DataError: a file is missing or does not fit.
    """
    moments = {"step": target.step, "optimizer": target.optimizer}
    items = _read(
        directory, params=ocp.args.StandardRestore(target.params), optimizer=ocp.args.StandardRestore(moments)
    )
    return TrainState(items.optimizer["step"], items.params, items.optimizer["optimizer"])


def _read(directory: epath.Path, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
    try:
        return _orbax().restore(directory, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax and tensorstore raise many types
        raise DataError(f"{directory}: unreadable checkpoint ({_one_line(error)})") from error


def _orbax() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler())


def read_meta(directory: epath.Path) -> Meta:
    """Returns the `meta` item of a step directory.

    Raises:
      DataError: it cannot be read.
    """
    return _read(directory, meta=ocp.args.JsonRestore()).meta


def _is_hugging_face(path: epath.Path) -> bool:
    file = path / "config.json"
    if not file.exists():
        return False
    try:
        return "model_type" in json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({_one_line(error)})") from error


def step_directory(path: str | os.PathLike[str]) -> epath.Path:
    """Returns the step directory that a checkpoint path stands for: itself, or the newest step of a workdir.

    Raises:
      MissingInputError: there is no checkpoint.
    """
    path = epath.Path(path).expanduser().absolute()
    if (path / "params").is_dir():
        return path
    steps = [child for child in (path / FOLDER).iterdir() if child.name.isdigit()] if (path / FOLDER).is_dir() else []
    steps = [child for child in steps if (child / "params").is_dir()]
    if not steps:
        what = "no such directory" if not path.exists() else "no checkpoint in it"
        raise MissingInputError(f"{path}: {what}; give a workdir, a step directory or a Hugging Face directory")
    return max(steps, key=lambda child: int(child.name))


def load_checkpoint(path: str | os.PathLike[str], mesh: Mesh | None = None) -> tuple[Params, ModelConfig]:
    """Loads (parameters, model) from a workdir's newest step, a step directory, or a Hugging Face directory.

    Args:
      path: one of the three.
      mesh: where the parameters go; None spreads the batch over all devices and replicates the parameters.

    Raises:
      MissingInputError: there is no checkpoint at `path`.
      DataError: it cannot be read.
    """
    mesh = make_mesh(MeshConfig()) if mesh is None else mesh
    path, model = epath.Path(path).expanduser(), load_model_config(path)
    if _is_hugging_face(path):
        return hf_weights.load_hf(path, model, mesh), model
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        param_shapes(model),
        param_shardings(model, mesh),
    )
    return _read(step_directory(path), params=ocp.args.StandardRestore(target)).params, model


def load_model_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Returns the model of a checkpoint (the same three kinds of path) without its weights.

    Raises:
      MissingInputError: there is no checkpoint at `path`.
      DataError: it does not say what model it holds.
    """
    path = epath.Path(path).expanduser()
    if _is_hugging_face(path):
        return hf_weights.model_config_from_hf(path)
    directory = step_directory(path)
    try:
        return config_lib.from_dict(read_meta(directory)["config"]).model
    except (KeyError, TypeError, ConfigError) as error:
        raise DataError(f"{directory}: its meta names no model ({_one_line(error)})") from error


def save_orbax_params(params: Params, model: ModelConfig, directory: str | os.PathLike[str]) -> None:
    """Writes parameters alone as a step directory that `load_checkpoint` accepts; an existing one is replaced."""
    config = Config(name="converted", model=model)
    _orbax().save(
        epath.Path(directory).absolute(),
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(params), meta=ocp.args.JsonSave({"config": config_lib.to_dict(config)})
        ),
        force=True,
    )


def tokenizer_directory(path: str | os.PathLike[str]) -> Path:
    """Returns the directory of the tokenizer that belongs to a checkpoint.

    Raises:
      MissingInputError: none is found beside it.
    """
    start = Path(path).expanduser().absolute()
    for candidate in (start, start / "tokenizer", start.parent.parent / "tokenizer"):
        if (candidate / "tokenizer.json").is_file():
            return candidate
    raise MissingInputError(f"{start}: no tokenizer.json in it, in its tokenizer folder, or in its run's")


def weights_fingerprint(path: str | os.PathLike[str]) -> str:
    """Returns a hash of the names, sizes and times of a checkpoint's files; empty where they are not on this disk."""
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        return ""
    folder = root if _is_hugging_face(epath.Path(root)) else Path(step_directory(root))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((str(root), stats)).encode()).hexdigest()
