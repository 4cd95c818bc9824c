"""Adapters in the files of HF's `peft`: `adapter_config.json` and `adapter_model.safetensors`, written and read."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ecomgpt_jax import files
from ecomgpt_jax.config import LoraConfig, ModelConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.layers import Adapters
from ecomgpt_jax.model.lora import adapted_kernels, adapter_table, block_kernels, make_adapters
from ecomgpt_jax.model.parameters import Params, leaf_of, to_tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BASE_HASH = "base_content_hash"  # in the metadata of WEIGHTS, which peft does not read
_PREFIX = "base_model.model."
# Keys that change what the tensors mean and leave no tensor of their own.
_OTHER_MATHS = (
    "use_rslora", "use_dora", "use_qalora", "alpha_pattern", "rank_pattern", "fan_in_fan_out", "layer_replication",
    "alora_invocation_tokens",
)  # fmt: skip
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # the others, such as pissa, change the base too


def save_peft(
    adapters: Params, model: ModelConfig, lora: LoraConfig, directory: str | os.PathLike[str], base: str,
    dtype: str = "float32", base_hash: str = "",
) -> None:  # fmt: skip
    """Writes adapters as HF `peft` reads them.

    Args:
      adapters: the trained adapters; every shard must be on this host.
      model: the base's shape.
      lora: rank, alpha, targets, dropout.
      directory: an existing folder.
      base: name or path of the base model, which PEFT loads.
      dtype: stored type, `float32` or `bfloat16`; PEFT computes with float32 adapters from either.
      base_hash: `content_hash` of the weights that the adapters were trained on; empty: not known.

    Raises:
      DataError: an adapter is not finite.
    """
    tensors = {}
    for parameter in adapter_table(model, lora):
        array = np.asarray(leaf_of(adapters, parameter.path), np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{parameter.name}: adapter is not finite; nothing was exported")
        for layer, name in enumerate(parameter.hf_names):
            tensor = parameter.to_hf(array[layer]).astype(jnp.dtype(dtype))
            tensors[_PREFIX + parameter.hf_prefix + name] = np.ascontiguousarray(tensor)
    metadata = {"format": "pt"} | ({_BASE_HASH: base_hash} if base_hash else {})
    save_file(tensors, Path(directory) / WEIGHTS, metadata=metadata)
    modules = [kernel.hf_name.removesuffix(".weight").split(".")[-1] for kernel in adapted_kernels(model, lora)]
    files.write_json(
        Path(directory) / CONFIG,
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
    """Whether a directory holds adapters of `peft`."""
    return (Path(directory).expanduser() / CONFIG).is_file()


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the content of `adapter_config.json`.

    Raises:
      MissingInputError: it is not there.
      DataError: it is not the JSON of plain LoRA.
    """
    file = Path(directory).expanduser() / CONFIG
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


def is_other_base(directory: str | os.PathLike[str], params: Params) -> bool:
    """Whether adapters record other weights than `params`, in their dtype or rounded to bfloat16, as their base.

    Those that `peft` or an earlier version wrote record none.

    Args:
      directory: of files that `read_peft` has read.
      params: the base.
    """
    with safe_open(Path(directory).expanduser() / WEIGHTS, "np") as file:
        recorded = (file.metadata() or {}).get(_BASE_HASH)
    if not recorded or recorded == content_hash(params):
        return False
    # What a run in bfloat16 was trained on.
    return recorded != content_hash(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params))


def read_peft(directory: str | os.PathLike[str], model: ModelConfig) -> Adapters:
    """Reads adapters, float32.

    Args:
      directory: of adapter_config.json and adapter_model.safetensors.
      model: the base's shape.

    Raises:
      MissingInputError: a file is not there.
      DataError: a file is damaged, or holds something else than plain LoRA on kernels of all of this model's blocks.
    """
    config, file = read_config(directory), Path(directory).expanduser() / WEIGHTS
    if not file.is_file():
        raise MissingInputError(f"{file}: not there; adapters are read from safetensors alone")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    adapted = {name.removesuffix(".lora_A.weight").removeprefix(_PREFIX) + ".weight" for name in tensors}
    targets = tuple(
        kernel.path[1]
        for kernel in block_kernels(model)
        if any(kernel.hf_prefix + name in adapted for name in kernel.hf_names)
    )
    lora = LoraConfig(rank=int(config["r"]), alpha=float(config["lora_alpha"]), targets=targets)
    leaves = {}
    for parameter in adapter_table(model, lora):
        layers = []
        for name in parameter.hf_names:
            key = _PREFIX + parameter.hf_prefix + name
            tensor = tensors.pop(key, None)
            if tensor is None:
                raise DataError(f"{file}: {key} is missing; a layer is adapted in all blocks or in none")
            if tensor.shape != parameter.hf_shape:
                raise DataError(f"{file}: {key} has shape {tensor.shape}, and the base needs {parameter.hf_shape}")
            if not np.isfinite(tensor.astype(np.float32)).all():
                raise DataError(f"{file}: {key} holds values that are not finite")
            layers.append(parameter.from_hf(tensor.astype(np.float32)))
        leaves[parameter.path] = jnp.asarray(np.stack(layers))
    if tensors or not leaves:
        raise DataError(f"{file}: {min(tensors, default='nothing')} is no adapter of a kernel of this model's blocks")
    return make_adapters(to_tree(leaves), lora)
