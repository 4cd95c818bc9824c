"""Adapters in the files of HF's `peft`: `adapter_config.json` and `adapter_model.safetensors`, written and read."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors.numpy import save_file

from ecomgpt_jax import files
from ecomgpt_jax.config import LAYERS, LoraConfig, ModelConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.hf_files import is_finite, open_safetensors
from ecomgpt_jax.model.layers import Adapters
from ecomgpt_jax.model.lora import adapted_kernels, adapter_table, make_adapters
from ecomgpt_jax.model.parameters import Parameter, Params, leaf_of, to_tree

PREFIX = "base_model.model."  # of tensor names
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BASE_HASH = "base_content_hash"  # in the metadata of the weights, which peft does not read
# Keys of other methods than plain LoRA.
_OTHER_MATHS = (
    "use_rslora", "use_dora", "use_qalora", "alpha_pattern", "rank_pattern", "fan_in_fan_out", "layer_replication",
    "alora_invocation_tokens", "modules_to_save",
)  # fmt: skip
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # others, such as pissa, also change the base


def _keys(parameter: Parameter) -> list[str]:
    """Returns the names of a parameter's tensors, in order of the blocks."""
    return [PREFIX + parameter.hf_prefix + name for name in parameter.hf_names]


def save_peft(
    adapters: Params, model: ModelConfig, lora: LoraConfig, directory: str | os.PathLike[str], base: str,
    dtype: str = "float32", base_hash: str = "",
) -> None:  # fmt: skip
    """Writes adapters in the files of HF `peft`.

    Args:
      adapters: the trained adapters; every shard must be on this host.
      model: the base's shape.
      lora: rank, alpha, targets, dropout.
      directory: an existing folder.
      base: name or path of the base model, which PEFT loads.
      dtype: stored type, `float32` or `bfloat16`; PEFT computes in float32 with both.
      base_hash: `content_hash` of the weights that the adapters were trained on; empty: unknown.

    Raises:
      DataError: an adapter is not finite.
    """
    tensors = {}
    for parameter in adapter_table(model, lora):
        array = np.asarray(leaf_of(adapters, parameter.path), np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{parameter.name}: adapter is not finite; nothing was exported")
        for layer, key in enumerate(_keys(parameter)):
            tensors[key] = np.ascontiguousarray(parameter.to_hf(array[layer]).astype(jnp.dtype(dtype)))
    metadata = {"format": "pt"} | ({_BASE_HASH: base_hash} if base_hash else {})
    save_file(tensors, Path(directory) / _WEIGHTS, metadata=metadata)
    modules = [kernel.hf_name.removesuffix(".weight").split(".")[-1] for kernel in adapted_kernels(model, lora)]
    files.write_json(
        Path(directory) / _CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": modules,
            "bias": "none",
            "use_rslora": False,
            "modules_to_save": None,
            "fan_in_fan_out": False,
            "inference_mode": True,
        },
    )


def is_peft(directory: str | os.PathLike[str]) -> bool:
    """Returns whether a directory contains adapters of `peft`."""
    return (epath.Path(directory).expanduser() / _CONFIG).is_file()


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the content of `adapter_config.json`.

    Raises:
      MissingInputError: it does not exist.
      DataError: it does not describe plain LoRA.
    """
    file = Path(directory).expanduser() / _CONFIG
    config = files.read_json(file)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise DataError(f"{file}: not the adapters of LoRA (peft_type)")
    for key in _OTHER_MATHS:
        if config.get(key):
            raise DataError(f"{file}: {key} is {config[key]!r}; only plain LoRA is read")
    if (start := config.get("init_lora_weights")) not in _PLAIN_STARTS:
        raise DataError(f"{file}: init_lora_weights is {start!r}, which changes the base's weights too")
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise DataError(f"{file}: {key} is {value!r}, not a number above 0")
    return config


def read_tensors(directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the adapters by name, in their stored dtype.

    Raises:
      MissingInputError: their file does not exist.
      DataError: it is damaged.
    """
    file = Path(directory).expanduser() / _WEIGHTS
    if not file.is_file():
        raise MissingInputError(f"{file}: not there; adapters are read from safetensors alone")
    with open_safetensors(file) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118


def is_other_base(directory: str | os.PathLike[str], params: Params) -> bool:
    """Returns whether adapters record a base other than `params` in their dtype or rounded to bfloat16.

    Adapters that `peft` or an earlier version wrote record none.

    Args:
      directory: of files that `read_peft` has read.
      params: the base.
    """
    with open_safetensors(Path(directory).expanduser() / _WEIGHTS) as file:
        recorded = (file.metadata() or {}).get(_BASE_HASH)
    if not recorded or recorded == content_hash(params):
        return False
    # The base of a run in bfloat16.
    return recorded != content_hash(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params))


def read_peft(directory: str | os.PathLike[str], model: ModelConfig) -> Adapters:
    """Reads adapters, float32.

    Args:
      directory: of adapter_config.json and adapter_model.safetensors.
      model: the base's shape.

    Raises:
      MissingInputError: a file does not exist.
      DataError: a file is damaged, or contains anything but plain LoRA on kernels of all blocks of this model.
    """
    config, tensors = read_config(directory), read_tensors(directory)
    lora = LoraConfig(int(config["r"]), float(config["lora_alpha"]), LAYERS[model.family])
    table = adapter_table(model, lora)
    adapted = {parameter.path[1] for parameter in table if not tensors.keys().isdisjoint(_keys(parameter))}
    leaves = {}
    for parameter in table:
        if parameter.path[1] not in adapted:
            continue
        layers = []
        for key in _keys(parameter):
            tensor = tensors.pop(key, None)
            if tensor is None:
                raise DataError(f"{directory}: {key} is missing; a layer is adapted in all blocks or in none")
            if tensor.shape != parameter.hf_shape:
                raise DataError(f"{directory}: {key} has shape {tensor.shape}, and the base needs {parameter.hf_shape}")
            if not is_finite(tensor):
                raise DataError(f"{directory}: {key} holds values that are not finite")
            layers.append(parameter.from_hf(tensor.astype(np.float32)))
        leaves[parameter.path] = jnp.asarray(np.stack(layers))
    if tensors or not leaves:
        left = min(tensors, default="nothing")
        raise DataError(f"{directory}: {left} is no adapter of a kernel of this model's blocks")
    return make_adapters(to_tree(leaves), lora)
