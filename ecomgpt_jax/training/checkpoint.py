"""Checkpoints as they lie on disk, and loading them. Only this module and `saving.py` talk to orbax.

A workdir holds `checkpoints/<step>/`, each step with three items and a manifest of their files: `params`, `optimizer`
(Adam moments and step counter) and `meta` (the run's config, the data's fingerprint and the cursor into its rows). A
directory without a manifest is no checkpoint. A step directory is readable on its own. `load_checkpoint` also takes a
Hugging Face directory, so every command accepts any of the three.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, MeshConfig, ModelConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model import hf_weights, hub, lora
from ecomgpt_jax.model.bloom import init_sharded_params
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.parameters import Params, param_shapes, param_shardings
from ecomgpt_jax.parallel import processes
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import manifest
from ecomgpt_jax.training.train_step import TrainState

Meta = dict[str, Any]
FOLDER = "checkpoints"
QUARANTINE = "quarantine"
BASE = "base_weights"  # in the meta of a LoRA run: `content_hash` of the weights under the adapters


def one_line(error: Exception) -> str:
    """Returns the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def list_steps(workdir: str | os.PathLike[str]) -> list[int]:
    """Returns the steps of a workdir, oldest first, whole or not; anything else that lies there is passed over."""
    folder = epath.Path(workdir) / FOLDER
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def newest_valid(workdir: str | os.PathLike[str]) -> epath.Path | None:
    """Returns the newest step directory whose files are those that were written; damaged newer ones are moved aside.

    Process 0 looks and tells the others.
    """
    found = -1
    if jax.process_index() == 0:
        for step in reversed(list_steps(workdir)):
            directory = epath.Path(workdir) / FOLDER / str(step)
            problem = manifest.find_damage(directory)
            if not problem:
                found = step
                break
            aside = _quarantine(directory)
            logging.warning("%s: %s; moved to %s, trying the step before it", directory, problem, aside)
    found = processes.broadcast_json(found)
    return None if found < 0 else epath.Path(workdir).absolute() / FOLDER / str(found)


def _quarantine(directory: epath.Path) -> epath.Path:
    folder = directory.parent.parent / QUARANTINE
    folder.mkdir(parents=True, exist_ok=True)
    number = sum(1 for path in folder.iterdir() if path.name.split("-")[0] == directory.name)
    return directory.rename(folder / (f"{directory.name}-{number}" if number else directory.name))


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
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler()).restore(directory, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax and tensorstore raise many types
        raise DataError(f"{directory}: unreadable checkpoint ({one_line(error)})") from error


def read_meta(directory: epath.Path) -> Meta:
    """Returns the `meta` item of a step directory.

    It reads orbax's file itself: a restore waits for every process, and process 0 alone calls this when it prunes.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return json.loads((directory / "meta" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{directory}: unreadable checkpoint ({one_line(error)})") from error


def _is_hugging_face(path: epath.Path) -> bool:
    file = path / "config.json"
    if not file.exists():
        return False
    try:
        return "model_type" in json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({one_line(error)})") from error


def step_directory(path: str | os.PathLike[str]) -> epath.Path:
    """Returns the step directory that a checkpoint path stands for: itself, or the newest step of a workdir.

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


def load_checkpoint(
    path: str | os.PathLike[str], mesh: Mesh | None = None, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[Params, ModelConfig]:
    """Loads (parameters, model) from a workdir's newest step, a step directory, or a Hugging Face directory.

    Args:
      path: one of the three.
      mesh: where the parameters go; None spreads the batch over all devices and replicates the parameters.
      dtype: of the parameters; those of a LoRA run are merged into it.

    Raises:
      MissingInputError: there is no checkpoint at `path`.
      DataError: it cannot be read, its files are not those that were written, or the base under its adapters is not the
        one that they were trained on.
    """
    params, model, adapters = load_unmerged(path, make_mesh(MeshConfig()) if mesh is None else mesh, dtype)
    return params if adapters is None else lora.merge(params, adapters, dtype), model


def load_unmerged(
    path: str | os.PathLike[str], mesh: Mesh, dtype: jax.typing.DTypeLike
) -> tuple[Params, ModelConfig, lora.Adapters | None]:
    """Loads (parameters, model, None) as `load_checkpoint` does; of a LoRA run (base, model, adapters).

    The base is in the run's compute dtype, whatever `dtype` says, since that is what the adapters were trained on.
    """
    path, model = epath.Path(path).expanduser(), load_model_config(path)
    if _is_hugging_face(path):
        return hf_weights.load_hf(path, model, mesh, dtype), model, None
    directory = step_directory(path)
    config = config_lib.from_dict(read_meta(directory)["config"])
    if config.lora.rank:
        base, trained = _base(config, mesh), load_adapters(directory, mesh)[0]
        check_base(directory, read_meta(directory), content_hash(base))
        return base, model, lora.make_adapters(trained, config.lora)
    return _read_params(directory, param_shapes(model, dtype), param_shardings(model, mesh)), model, None


def load_adapters(path: str | os.PathLike[str], mesh: Mesh) -> tuple[Params, Config]:
    """Loads (adapters, config) of a LoRA run from its workdir or one of its step directories.

    Raises:
      MissingInputError: there is no checkpoint at `path`.
      ConfigError: it is no checkpoint of a LoRA run.
      DataError: it cannot be read.
    """
    if _is_hugging_face(epath.Path(path).expanduser()):
        raise ConfigError(f"{path}: a Hugging Face directory; adapters come from the workdir of a LoRA run")
    directory = step_directory(path)
    load_model_config(directory)  # says it if there is no config in it
    config = config_lib.from_dict(read_meta(directory)["config"])
    if not config.lora.rank:
        raise ConfigError(f"{directory}: all weights were trained (lora.rank=0), so there are no adapters")
    shapes = lora.adapter_shapes(config.model, config.lora)
    return _read_params(directory, shapes, lora.adapter_shardings(config.model, config.lora, mesh)), config


def check_base(directory: epath.Path | Path, meta: Meta, found: str) -> None:
    """Refuses weights that are not those under which a LoRA checkpoint was saved.

    Args:
      directory: the checkpoint.
      meta: its meta.
      found: `content_hash` of the weights, in the run's compute dtype.

    Raises:
      DataError: they are others, or an earlier version saved the checkpoint, which did not look at all of them.
    """
    if BASE not in meta:
        raise DataError(
            f"{directory}: saved by a version that did not record all weights under the adapters, so nothing tells "
            "whether model.init_from holds them; `convert --format peft` writes the adapters alone"
        )
    if meta[BASE] != found:
        raise DataError(
            f"{directory}: its adapters were trained on other weights ({meta[BASE][:16]}) than "
            f"model.init_from={meta['config']['model']['init_from']!r} holds now ({found[:16]}); name the checkpoint "
            "they were trained on, step directory and all"
        )


def _base(config: Config, mesh: Mesh) -> Params:
    """Returns the weights under a run's adapters, those it started from, in its compute dtype."""
    if not config.model.init_from:
        return init_sharded_params(config.model, mesh, jax.random.key(config.train.seed), config.model.compute_dtype)
    try:
        weights = hub.find_weights(config.model.init_from)[1]
        params, found = load_checkpoint(weights, mesh, config.model.compute_dtype)
    except MissingInputError as error:
        raise MissingInputError(f"the weights under the adapters (model.init_from): {error}") from error
    for name in ("vocab_size", "embed", "layers", "heads"):
        if getattr(found, name) != getattr(config.model, name):
            raise DataError(f"{config.model.init_from}: not the weights that the adapters were trained on ({name})")
    return params


def _read_params(directory: epath.Path, shapes: Params, shardings: Params) -> Params:
    if problem := manifest.find_damage(directory, ("params", "meta")):
        raise DataError(f"{directory}: {problem}; use another step of the run")
    target = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, shardings)
    return _read(directory, params=ocp.args.StandardRestore(target)).params


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
        raise DataError(f"{directory}: its meta names no model ({one_line(error)})") from error


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
    """Returns a hash of the names, sizes and times of a checkpoint's files; empty where they are not on this disk.

    Other files beside them, such as the answers that a run writes there, do not count.
    """
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        return ""
    if _is_hugging_face(epath.Path(root)):
        found = [file for pattern in ("config.json", "*.safetensors", "*.bin") for file in root.glob(pattern)]
    else:
        found = [file for name in ("params", "meta") for file in (Path(step_directory(root)) / name).rglob("*")]
    files = sorted(file for file in found if file.is_file())
    stats = [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((str(root), stats)).encode()).hexdigest()
