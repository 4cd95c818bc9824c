"""Writes GGUF files from Hugging Face directories, tensor by tensor.

Properties that llama.cpp cannot represent are errors that name them, or are folded into a weight if that is exact:
Gemma's query scale into the norm of the queries. Norms and biases are float32 for every type of the kernels.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecomgpt_jax import files
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model import gguf_families as families
from ecomgpt_jax.model.gguf_families import FAMILIES, Family, Shape
from ecomgpt_jax.model.gguf_read import require_gguf
from ecomgpt_jax.model.hf_files import Tensors, bare_name, check_tensors, is_finite

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}  # general.file_type
_ACTIVATIONS = {"bloom": ("gelu",), "gemma3": ("gelu_pytorch_tanh",)}


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """Returns the family of the model that a config.json describes.

    Raises:
      DataError: it is none of the families.
    """
    kind = config.get("model_type")
    found = next((family for family in FAMILIES.values() if kind in family.model_types), None)
    if found is None:
        known = ", ".join(kind for family in FAMILIES.values() for kind in family.model_types)
        raise DataError(f"{where}: model_type {kind!r} is none of {known}")
    return found


def model_keys(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the keys of a GGUF file, without prefix, for a config.json, and notes on what is cut.

    Raises:
      DataError: llama.cpp cannot represent the model.
    """
    family, shape = family_of(config, where), families.shape_of(config)

    def refuse(key: str, value: object) -> None:
        raise DataError(f"{where}: {key} is {value!r}; llama.cpp's {family.name} cannot hold that")

    act = config.get("hidden_activation") or config.get("hidden_act") or _ACTIVATIONS.get(family.name, ("silu",))[0]
    if act not in _ACTIVATIONS.get(family.name, ("silu",)):
        refuse("hidden_act", act)
    for key in ("apply_residual_connection_post_layernorm", "attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key):
            refuse(key, config[key])
    context = config.get("max_position_embeddings") or config.get("seq_length")
    lines = [] if context else ["config.json names no context; 2048 is written"]
    keys = {
        "context_length": context or 2048, "embedding_length": shape.embed, "block_count": shape.layers,
        "feed_forward_length": shape.mlp, "attention.head_count": shape.heads,
    }  # fmt: skip
    if family.name == "bloom":
        return keys | {"attention.layer_norm_epsilon": float(config.get("layer_norm_epsilon", 1e-5))}, lines
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    local = rope.get("sliding_attention", {})
    rope = rope.get("full_attention", rope)
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or (1e6 if family.name == "gemma3" else 1e4))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "linear", *(["llama3"] if family.name == "llama" else [])):
        refuse("rope_type", kind)
    if rope.get("partial_rotary_factor", 1) != 1:
        refuse("partial_rotary_factor", rope["partial_rotary_factor"])
    keys |= {
        "attention.head_count_kv": shape.kv_heads, "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim, "rope.dimension_count": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)), "rope.freq_base": theta,
        "vocab_size": config["vocab_size"],
    }  # fmt: skip
    if kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    window = config.get("sliding_window")
    if family.name == "gemma3":
        return keys | _gemma_keys(config, shape, window, local, refuse), lines
    if config.get("model_type") == "mistral" and "sliding_window" not in config:
        window = 4096  # the class's own default
    if family.name.startswith("qwen") and not config.get("use_sliding_window"):
        window = None
    if window is not None and window < keys["context_length"]:
        lines.append(f"llama.cpp has no window here: context cut from {keys['context_length']} to {window} positions")
        keys["context_length"] = window
    return keys, lines


def _gemma_keys(
    config: Mapping[str, Any], shape: Shape, window: Any, local: Mapping[str, Any], refuse: Any
) -> dict[str, Any]:
    kinds = config.get("layer_types") or families.full_layers(shape.layers, config.get("sliding_window_pattern") or 6)
    if kinds != families.full_layers(shape.layers, 6):
        refuse("layer_types", "full attention elsewhere than in every sixth layer")
    theta = local.get("rope_theta") or config.get("rope_local_base_freq") or 1e4
    if local.get("rope_type", "default") != "default":
        refuse("rope_parameters.sliding_attention", dict(local))
    if type(window) is not int or window <= 0:
        refuse("sliding_window", window)
    return {"attention.sliding_window": window, "rope.freq_base_swa": float(theta)}


def _query_scale(config: Mapping[str, Any], shape: Shape) -> float:
    """Returns the factor of Gemma's query norm that turns llama.cpp's scale of the scores into the model's."""
    engine = families.query_scalar(shape.layers, shape.embed, shape.heads, shape.head_dim)
    return (engine / config.get("query_pre_attn_scalar", 256)) ** 0.5


def _tensors(checkpoint: Tensors, config: Mapping[str, Any], family: Family, shape: Shape) -> dict[str, str]:
    """Returns {GGUF name: name in the checkpoint} of the tensors to write, after comparing them with the model."""
    names = families.tensor_names(family, shape.layers)
    stored = {name: bare_name(name) for name in names.values()}  # as `Tensors` names them
    tied = config.get("tie_word_embeddings", family.name in ("bloom", "gemma3"))
    here = {ours for ours, theirs in names.items() if stored[theirs] in checkpoint.shapes}
    here -= {"output.weight"} if tied else set()
    biased = families.biased_stems(here)
    families.check_biases(family, biased, str(checkpoint.directory))
    if family.name in ("qwen3", "gemma3") and biased - {"output"}:
        raise DataError(f"{checkpoint.directory}: biases of {', '.join(sorted(biased))}; llama.cpp has none there")
    expected = families.expected_shapes(family, shape, config["vocab_size"], biased | (set() if tied else {"output"}))
    allowed = {"lm_head.weight"} if tied else set()
    if extra := checkpoint.shapes.keys() - {stored[names[name]] for name in expected} - allowed:
        raise DataError(f"{checkpoint.directory}: has unknown tensors: {', '.join(sorted(extra)[:5])}")
    needed = {names[name]: of for name, of in expected.items()}
    found = {theirs: checkpoint.shapes[bare] for theirs, bare in stored.items() if bare in checkpoint.shapes}
    check_tensors(checkpoint.directory, needed, found, allowed)
    return {name: stored[names[name]] for name in expected}


def _encoded(array: np.ndarray, kind: str, name: str) -> np.ndarray:
    import gguf

    data = gguf.quantize(array.astype(np.float32), gguf.GGMLQuantizationType[kind])
    if kind in ("F16", "Q8_0") and not is_finite(
        data if kind == "F16" else data.reshape(-1, 34)[:, :2].view(np.float16)
    ):
        raise DataError(f"{name}: values are too large for {kind}; use bfloat16 or float32")
    return data


def write_file(
    path: Path, arch: str, keys: Mapping[str, Any], tensors: Mapping[str, tuple[tuple[int, ...], str]],
    arrays: Iterator[np.ndarray],
) -> None:  # fmt: skip
    """Writes the keys and the tensors {name: (shape, type)}; `arrays` yields their values in order, one at a time."""
    import gguf

    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            kind = {bool: "bool", int: "uint32", float: "float32", str: "string"}[type(value)]
            getattr(writer, f"add_{kind}")(key, value)
    for name, (shape, kind) in tensors.items():
        of = gguf.GGMLQuantizationType[kind]
        size, width = gguf.GGML_QUANT_SIZES[of]
        dims = (*shape[:-1], shape[-1] // size * width)
        writer.add_tensor_info(name, dims, np.dtype(np.uint8), int(np.prod(dims)), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (name, (_, kind)), array in zip(tensors.items(), arrays, strict=True):
        writer.write_tensor_data(np.ascontiguousarray(_encoded(array, kind, name)).view(np.uint8))
    writer.close()


def write_gguf(
    directory: str | os.PathLike[str], path: Path, dtype: str, vocabulary: Mapping[str, Any], name: str
) -> list[str]:
    """Writes the model of a Hugging Face directory as one GGUF file; returns notes on what was changed.

    Args:
      directory: config.json and weights of a family of `gguf_families`.
      path: the file.
      dtype: of the kernels, a key of `TYPES`.
      vocabulary: the keys `tokenizer.…`.
      name: of the model, `general.name`.

    Raises:
      MissingInputError: no `gguf` package.
      DataError: tensors are missing or unknown, or llama.cpp cannot represent the model; no file is left.
    """
    require_gguf(str(path))
    directory = Path(directory)
    config, checkpoint = files.read_json(directory / "config.json"), Tensors(directory)
    of_model, lines = model_keys(config, str(directory))
    family, shape, kind = family_of(config, str(directory)), families.shape_of(config), TYPES[dtype]
    sources, plan = _tensors(checkpoint, config, family, shape), {}
    for ours, theirs in sources.items():
        of = checkpoint.shapes[theirs]
        stored = "F32" if len(of) == 1 else "F16" if kind == "Q8_0" and of[-1] % 32 else kind
        plan[ours] = (of, stored)
    if narrow := [ours for ours, (of, stored) in plan.items() if stored == "F16" and kind == "Q8_0"]:
        lines.append(f"{len(narrow)} tensors stay float16, their rows are no multiples of 32: {narrow[0]}, …")

    def arrays() -> Iterator[np.ndarray]:
        for ours, theirs in sources.items():
            array = families.to_gguf(family, shape, ours, checkpoint.read(theirs))
            if family.name == "gemma3" and "attn_q_norm" in ours:
                array = array * np.float32(_query_scale(config, shape))
            yield array

    values = arrays()
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if family.name == "llama" and (rope.get("rope_type") or rope.get("type")) == "llama3":
        divisors = families.rope_divisors(of_model["rope.freq_base"], shape.head_dim, rope)
        plan = {"rope_freqs.weight": (divisors.shape, "F32"), **plan}
        values = itertools.chain([divisors], values)
    keys = {
        "general.type": "model", "general.name": name, "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2, **{f"{family.name}.{key}": value for key, value in of_model.items()},
        **vocabulary,
    }  # fmt: skip
    write_file(path, family.name, keys, plan, values)
    return lines
