"""LoRA adapters in GGUF from PEFT directories, and the Modelfile with which Ollama loads a model or an adapter."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model import gguf_families as families
from ecomgpt_jax.model.gguf_read import require_gguf
from ecomgpt_jax.model.gguf_write import family_of, write_file
from ecomgpt_jax.model.peft_files import PREFIX, read_config, read_tensors


def write_adapter(directory: str | os.PathLike[str], config: Mapping[str, Any], path: Path) -> None:
    """Writes the adapters of a PEFT directory as a GGUF LoRA file, float32; the engine divides alpha by the rank.

    Args:
      directory: adapter_config.json and adapter_model.safetensors, for kernels of the blocks only.
      config: config.json of the base.
      path: the file.

    Raises:
      MissingInputError: no `gguf` package.
      DataError: other layers than the blocks' kernels are adapted, or not by plain LoRA.
    """
    require_gguf(str(path))
    lora = read_config(directory)
    family, shape = family_of(config, str(directory)), families.shape_of(config)
    ours = {theirs: name for name, theirs in families.tensor_names(family, shape.layers).items()}
    found: dict[str, np.ndarray] = {}
    for key, array in read_tensors(directory).items():
        stem, part = key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".", 1)
        name = ours.get(f"{stem}.weight", "")
        if not name.startswith("blk.") or part not in ("lora_A", "lora_B"):
            raise DataError(f"{directory}: {key} adapts no kernel of a block; merge it instead")
        rows = array if part == "lora_A" else families.to_gguf(family, shape, name, array)
        found[f"{name}.{part.lower()}"] = rows
    keys = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(lora["lora_alpha"])}
    tensors = {name: (array.shape, "F32") for name, array in found.items()}
    write_file(path, family.name, keys, tensors, iter(found.values()))


def modelfile(source: str, adapter: str, stops: Sequence[str], context: int, has_template: bool) -> str:
    """Returns an Ollama Modelfile.

    Args:
      source: the GGUF file, or name of the base model.
      adapter: the GGUF LoRA file; "" for none.
      stops: texts that end an answer.
      context: positions.
      has_template: whether there is a chat template; without one prompts, in the released layout, are sent unchanged.
    """
    lines = [f"FROM {source}"] + ([f"ADAPTER {adapter}"] if adapter else [])
    if not has_template:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0"]
    return "\n".join(lines + [f'PARAMETER stop "{stop}"' for stop in stops]) + "\n"
