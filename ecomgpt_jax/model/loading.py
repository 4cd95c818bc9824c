"""Loads checkpoints for use: every command loads weights here, except the state of its own run.

A checkpoint is a training workdir (its newest step), a step directory, a Hugging Face directory, or
`owner/name@revision` on the Hub. Weights are read parameter by parameter (from a Hugging Face directory tensor by
tensor) directly into the requested dtype and sharding, so there is no wider and no second copy of the model.
The adapters of a LoRA run are merged into the weights under them.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, ModelConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model import hf_files, hf_weights, hub, lora
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.decoder import init_sharded_params
from ecomgpt_jax.model.hf_files import own_dtype
from ecomgpt_jax.model.parameters import (
    Params,
    leaf_of,
    param_shardings,
    parameter_count,
    parameter_table,
    split_layers,
    to_layers,
    to_tree,
    unstack,
)
from ecomgpt_jax.model.peft_files import is_peft
from ecomgpt_jax.model.step_files import Meta, one_line, read_meta, read_params, step_directory

BASE = "base_weights"  # in the meta of a LoRA run: `content_hash` of the weights under the adapters


class Checkpoint(NamedTuple):
    """Weights that were found and are not loaded yet.

    Attributes:
      name: as given; a branch of the Hub is pinned to its commit.
      directory: the step directory or Hugging Face directory.
      model: shape of the network; `compute_dtype` is the dtype in which the weights are used.
      reason: origin of that dtype, as text.
      config: of the run that saved it; None for a Hugging Face directory.
    """

    name: str
    directory: epath.Path
    model: ModelConfig
    reason: str
    config: Config | None


def find_checkpoint(name: str | os.PathLike[str], dtype: str = "") -> Checkpoint:
    """Finds a checkpoint and returns its description.

    Args:
      name: one of the four kinds in the module's docstring.
      dtype: `float32` or `bfloat16`; empty: the checkpoint's own, which is that of its config.json or else of its
        tensors, or the compute dtype of a run. float16 is used as float32, which holds every value of it.

    Raises:
      MissingInputError: there is no checkpoint.
      DataError: its files do not describe its model.
      ConfigError: no such dtype.
    """
    pinned, path = hub.find_weights(str(name))
    config = None
    if _is_hugging_face(path):
        directory, model = path, hf_weights.model_config_from_hf(path)
        reason = "the checkpoint's own" if own_dtype(path) == model.compute_dtype else "it holds float16"
    elif is_peft(path):
        raise MissingInputError(f"{path}: adapters alone; `convert --from {path} --to DIR --format hf` merges them")
    else:
        directory = step_directory(path)
        try:
            config = config_lib.from_dict(read_meta(directory)["config"])
        except (KeyError, TypeError, ConfigError) as error:
            raise DataError(f"{directory}: its meta names no model ({one_line(error)})") from error
        model, reason = config.model, "compute dtype of the run"
    if dtype not in ("", "float32", "bfloat16"):
        raise ConfigError(f"dtype {dtype!r} is none of float32, bfloat16")
    return Checkpoint(pinned, directory, for_use(model, dtype), "as asked for" if dtype else reason, config)


def trained_length(checkpoint: Checkpoint) -> int:
    """Returns the positions that weights were trained on, here or before (`hf_files.trained_length`); 0: unknown."""
    if checkpoint.config is None:
        return hf_files.trained_length(checkpoint.directory)
    before, start = 0, checkpoint.config.model.init_from
    if start:
        with contextlib.suppress(MissingInputError):  # moved or deleted since
            before = trained_length(find_checkpoint(start))
    return max(before, checkpoint.config.data.length)


def for_use(model: ModelConfig, dtype: str = "") -> ModelConfig:
    """Returns the model for use in `dtype` (empty: its compute dtype) on the devices of this machine."""
    kernel = model.attention in ("cudnn", "splash")  # not available on other platforms or in float32
    return dataclasses.replace(
        model, compute_dtype=dtype or model.compute_dtype, attention="auto" if kernel else model.attention
    )


def describe(checkpoint: Checkpoint, mesh: Mesh) -> str:
    """Returns a line with the weights in use, their dtype and their devices."""
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    return (
        f"weights: {checkpoint.directory}, {parameter_count(checkpoint.model):,} parameters in "
        f"{checkpoint.model.compute_dtype} ({checkpoint.reason}); {mesh.size} x {mesh.devices.flat[0].device_kind}, "
        f"mesh {axes}"
    )


def load_params(checkpoint: Checkpoint, mesh: Mesh, *, layered: bool = True) -> Params:
    """Loads the weights in `checkpoint.model.compute_dtype`, sharded over `mesh`.

    Args:
      checkpoint: from `find_checkpoint`.
      mesh: devices of the weights, sharded by parallel/sharding.py.
      layered: `blocks` is a tuple of one pytree per block, as decoding reads them; False: stacked, as training does.

    Raises:
      ConfigError: the mesh does not divide a parameter; raised before reading.
      MissingInputError: a file, or the base of a LoRA run, does not exist.
      DataError: a file is damaged, or the base is not the one that the adapters were trained on.
    """
    model, config = checkpoint.model, checkpoint.config
    shardings = param_shardings(model, mesh)
    if config is None:
        return hf_weights.load_hf(checkpoint.directory, model, mesh, model.compute_dtype, layered=layered)
    if config.lora.rank:
        return lora.merge(*load_unmerged(checkpoint, mesh, layered=layered), model.compute_dtype)
    leaves = {}
    places = {parameter: leaf_of(shardings, parameter.path) for parameter in parameter_table(model)}
    for parameter, array in read_params(checkpoint.directory, places, model.compute_dtype):
        leaves[parameter.path] = unstack(array, model.compute_dtype) if layered and parameter.stacked else array
    return to_layers(leaves) if layered else to_tree(leaves)


def load_unmerged(checkpoint: Checkpoint, mesh: Mesh, *, layered: bool = False) -> tuple[Params, lora.Adapters | None]:
    """Loads (parameters, None), or (base, adapters) of a LoRA run.

    A base has the run's compute dtype and not that of `checkpoint.model`, since the adapters were trained on it.
    """
    directory, config = checkpoint.directory, checkpoint.config
    if config is None or not config.lora.rank:
        return load_params(checkpoint, mesh, layered=layered), None
    base, trained = _base(config, mesh, layered), _adapters(directory, config, mesh)
    check_base(directory, read_meta(directory), content_hash(base))
    return base, lora.make_adapters(trained, config.lora)


def load_adapters(name: str | os.PathLike[str], mesh: Mesh) -> tuple[Params, Config]:
    """Loads (adapters, config) of a LoRA run from its workdir or one of its step directories.

    Raises:
      MissingInputError: there is no checkpoint.
      ConfigError: it is not a checkpoint of a LoRA run.
      DataError: it cannot be read.
    """
    found = find_checkpoint(name)
    if found.config is None:
        raise ConfigError(f"{name}: a Hugging Face directory; adapters come from the workdir of a LoRA run")
    if not found.config.lora.rank:
        raise ConfigError(f"{found.directory}: all weights were trained (lora.rank=0), so there are no adapters")
    return _adapters(found.directory, found.config, mesh), found.config


def _adapters(directory: epath.Path, config: Config, mesh: Mesh) -> Params:
    shardings = lora.adapter_shardings(config.model, config.lora, mesh)
    table = lora.adapter_table(config.model, config.lora)
    places = {parameter: leaf_of(shardings, parameter.path) for parameter in table}
    return to_tree({parameter.path: array for parameter, array in read_params(directory, places, "float32")})


def _base(config: Config, mesh: Mesh, layered: bool) -> Params:
    """Returns the weights under a run's adapters, its initial weights, in its compute dtype."""
    if not config.model.init_from:
        fresh = init_sharded_params(config.model, mesh, jax.random.key(config.train.seed), config.model.compute_dtype)
        return split_layers(fresh, config.model, consume=True) if layered else fresh
    try:
        found = find_checkpoint(config.model.init_from, config.model.compute_dtype)
    except MissingInputError as error:
        raise MissingInputError(f"the weights under the adapters (model.init_from): {error}") from error
    for name in config_lib.SHAPE:
        if getattr(found.model, name) != getattr(config.model, name):
            raise DataError(f"{config.model.init_from}: not the weights that the adapters were trained on ({name})")
    return load_params(found, mesh, layered=layered)


def check_base(directory: epath.Path | Path, meta: Meta, found: str) -> None:
    """Checks that weights are those on which the adapters of a LoRA checkpoint were trained.

    Args:
      directory: the checkpoint.
      meta: its meta.
      found: `content_hash` of the weights, in the run's compute dtype.

    Raises:
      DataError: they are not, or the checkpoint is of an earlier version, which did not hash all weights.
    """
    if BASE not in meta:
        raise DataError(
            f"{directory}: saved by a version that did not hash all weights under the adapters, so it is unknown "
            "whether model.init_from holds them; `convert --format peft` writes the adapters alone"
        )
    if meta[BASE] != found:
        raise DataError(
            f"{directory}: its adapters were trained on other weights ({meta[BASE][:16]}) than "
            f"model.init_from={meta['config']['model']['init_from']!r} holds now ({found[:16]}); name the checkpoint "
            "they were trained on, step directory and all"
        )


def _is_hugging_face(path: epath.Path) -> bool:
    file = path / "config.json"
    if not file.exists():
        return False
    try:
        return "model_type" in json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({one_line(error)})") from error


def tokenizer_directory(path: str | os.PathLike[str]) -> Path:
    """Returns the directory of the tokenizer that belongs to a checkpoint.

    Raises:
      MissingInputError: none is found next to it.
    """
    start = Path(path).expanduser().absolute()
    for candidate in (start, start / "tokenizer", start.parent.parent / "tokenizer"):
        if (candidate / "tokenizer.json").is_file():
            return candidate
    raise MissingInputError(f"{start}: no tokenizer.json in it, in its tokenizer folder, or in its run's")
