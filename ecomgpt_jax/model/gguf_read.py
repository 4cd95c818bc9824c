"""Converts GGUF files to Hugging Face directories: configuration and weights, dequantised tensor by tensor.

The file is memory-mapped; blocks are decoded by the `gguf` package (extra `gguf`). Values that the Hugging Face class
of the architecture cannot represent, and missing values, are errors that name them.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ecomgpt_jax import files
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model import gguf_families as families
from ecomgpt_jax.model.gguf_families import FAMILIES, Family, Shape
from ecomgpt_jax.model.hf_config import rope_scaling
from ecomgpt_jax.model.hf_files import check_tensors
from ecomgpt_jax.model.tensor_stream import ROWS, Tensor, write_weights

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
_REQUIRED = object()


def require_gguf(what: str) -> None:
    """Checks that the `gguf` package is installed.

    Raises:
      MissingInputError: it is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingInputError(f"{what}: GGUF files need the gguf package; install ecomgpt_jax[gguf]")


class GgufFile:
    """A GGUF file of one model.

    Attributes:
      path: where it is.
      family: its architecture.
      values: {key: value} of its metadata.
      tensors: {name: `gguf.ReaderTensor`}, data still on disk.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a file.

        Raises:
          MissingInputError: no such file, or no `gguf` package.
          DataError: it is damaged, in several parts, not a model, or of an unknown architecture or tensor type.
        """
        self.path = Path(path)
        require_gguf(str(path))
        import gguf

        if not self.path.is_file():
            raise MissingInputError(f"{path}: no such file")
        try:
            reader = gguf.GGUFReader(self.path)
            self.values = {key: field.contents() for key, field in reader.fields.items()}
            self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        except (ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise DataError(f"{path}: damaged or not a GGUF file ({reason})") from None
        if reader.byte_order == "S":
            raise DataError(f"{path}: of the other byte order; convert it with gguf-convert-endian first")
        if self.values.get("split.count", 0) > 1:
            raise DataError(
                f"{path}: one of {self.values['split.count']} parts; join them with llama-gguf-split --merge"
            )
        if (kind := self.values.get("general.type", "model")) != "model":
            raise DataError(f"{path}: general.type is {kind!r}, not a model")
        name = self.key("general.architecture", str)
        if name not in FAMILIES:
            raise DataError(f"{path}: architecture {name!r} is none of {', '.join(FAMILIES)}")
        self.family = FAMILIES[name]
        for tensor in self.tensors.values():
            if tensor.tensor_type.name not in TYPES:
                raise DataError(
                    f"{path}: tensor {tensor.name} is {tensor.tensor_type.name}; only {', '.join(TYPES)} are read"
                )

    def key(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """Returns a value of the metadata; `{arch}` in `name` is replaced by the architecture.

        Raises:
          DataError: it is missing and there is no default, or it has another type.
        """
        name = name.replace("{arch}", self.values.get("general.architecture", "")) if "{arch}" in name else name
        value = self.values.get(name, default)
        if value is _REQUIRED:
            raise DataError(f"{self.path}: no key {name}")
        if value is default:
            return value
        if kind is float and type(value) is float:
            return float(str(np.float32(value)))  # 1e-06 is stored as 9.999999974752427e-07
        if type(value) is not kind:
            raise DataError(f"{self.path}: {name} is {value!r:.100}; it must be of type {kind.__name__}")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape in torch's order; the file lists the innermost axis first."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Returns a range of rows of a tensor in float32."""
        import gguf

        tensor = self.tensors[name]
        return gguf.dequantize(tensor.data[rows], tensor.tensor_type)


def hf_config(file: GgufFile, token_ids: Mapping[str, Any], dtype: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the config.json of a file's model, and notes on values that the file does not define.

    Args:
      file: the file.
      token_ids: {"eos_token_id": id or ids, ...} of its tokenizer.
      dtype: of the weights that are written.

    Raises:
      DataError: a key is missing, or the HF class cannot represent its value.
    """
    family, number = file.family, file.key
    if "token_embd.weight" not in file.tensors:
        raise DataError(f"{file.path}: no tensor token_embd.weight")
    vocab, embed = file.shape("token_embd.weight")
    common = {
        "architectures": [family.causal_lm], "model_type": family.model_types[0], "vocab_size": vocab,
        "hidden_size": embed, "torch_dtype": dtype, "dtype": dtype, "use_cache": True,
        **{f"{role}_token_id": token_ids.get(f"{role}_token_id") for role in ("unk", "bos", "eos", "pad")},
    }  # fmt: skip
    for key, kept in (("attention.causal", True), ("expert_count", 0), ("use_parallel_residual", False)):
        if number(f"{{arch}}.{key}", type(kept), kept) != kept:
            raise DataError(f"{file.path}: {family.name}.{key} is not {kept}; {family.causal_lm} cannot hold that")
    if number("{arch}.embedding_length", int) != embed:
        raise DataError(f"{file.path}: token_embd.weight has {embed} columns, not {family.name}.embedding_length")
    layers, heads = number("{arch}.block_count", int), number("{arch}.attention.head_count", int)
    mlp, context = number("{arch}.feed_forward_length", int, 4 * embed), number("{arch}.context_length", int)
    biased = families.biased_stems(set(file.tensors))
    families.check_biases(family, biased, str(file.path))
    if family.name == "bloom":
        if mlp != 4 * embed or number("{arch}.attention.head_count_kv", int, heads) != heads:
            raise DataError(f"{file.path}: BLOOM has an MLP of four times its width and a key head per query head")
        return common | {
            "n_layer": layers, "n_head": heads, "seq_length": context, "tie_word_embeddings": True,
            "layer_norm_epsilon": number("{arch}.attention.layer_norm_epsilon", float),
            "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
            "pretraining_tp": 1, "slow_but_exact": False,
        }, []  # fmt: skip
    rotated = number("{arch}.rope.dimension_count", int, 0)
    head_dim = number("{arch}.attention.key_length", int, 0) or rotated or embed // heads
    if number("{arch}.attention.value_length", int, head_dim) != head_dim or (rotated or head_dim) != head_dim:
        raise DataError(f"{file.path}: keys of {head_dim}, and values or rotated dimensions of another length")
    theta = number("{arch}.rope.freq_base", float, 10_000.0)
    rope = _rope(file, theta, head_dim)
    config = common | {
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp, "head_dim": head_dim,
        "num_key_value_heads": number("{arch}.attention.head_count_kv", int, heads),
        "max_position_embeddings": context, "rms_norm_eps": number("{arch}.attention.layer_norm_rms_epsilon", float),
        "attention_bias": "attn_output" in biased, "attention_dropout": 0.0, "rope_theta": theta,
        "rope_scaling": rope_scaling(rope),
        "rope_parameters": rope, "hidden_act": "silu", "tie_word_embeddings": "output.weight" not in file.tensors,
    }  # fmt: skip
    window = number("{arch}.attention.sliding_window", int, 0)
    if family.name == "gemma3":
        return config | _gemma(file, layers, heads, head_dim, window, rope), []
    if window:
        raise DataError(f"{file.path}: {family.name}.attention.sliding_window is {window}; the engine has no window")
    if family.name == "qwen2":
        return config | {"use_sliding_window": False, "sliding_window": None}, []
    if family.name == "qwen3":
        return config | {"use_sliding_window": False, "sliding_window": None, "max_window_layers": layers}, []
    lines = []
    if "mistral" in f"{number('general.name', str, '')} {number('general.basename', str, '')}".lower():
        lines = ["a Mistral model: GGUF keeps no window, so all positions are attended to"]
    return config | {"mlp_bias": "ffn_up" in biased}, lines


def _rope(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any]:
    kind = file.key("{arch}.rope.scaling.type", str, "none")
    factor = file.key("{arch}.rope.scaling.factor", float, 0.0) or 1.0
    if kind not in ("none", "linear"):
        raise DataError(f"{file.path}: rope.scaling.type {kind!r} is none of none, linear")
    plain = {"rope_type": "default", "rope_theta": theta}
    if "rope_freqs.weight" not in file.tensors:
        linear = kind == "linear" and factor != 1
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor} if linear else plain
    divisors = file.read("rope_freqs.weight")
    found = families.find_rope_scaling(divisors, theta, head_dim) if divisors.shape == (head_dim // 2,) else None
    if found is None or (kind == "linear" and factor != 1):
        raise DataError(f"{file.path}: rope_freqs.weight is not the scaling of a Llama 3 model")
    return found | {"rope_theta": theta}


def _gemma(file: GgufFile, layers: int, heads: int, head_dim: int, window: int, rope: dict[str, Any]) -> dict[str, Any]:
    pattern = file.key("gemma3.attention.sliding_window_pattern", int, 6)
    local = file.key("gemma3.rope.freq_base_swa", float, 10_000.0)
    scalar: float = families.query_scalar(layers, file.shape("token_embd.weight")[1], heads, head_dim)
    if scale := file.key("gemma3.attention.scale", float, 0.0):
        scalar = float(str(np.float32(scale**-2)))
    if window <= 0 or pattern <= 0:
        raise DataError(f"{file.path}: gemma3.attention.sliding_window is {window}, its pattern {pattern}")
    return {
        "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": scalar,
        "sliding_window": window, "sliding_window_pattern": pattern, "rope_local_base_freq": local,
        "layer_types": families.full_layers(layers, pattern), "attn_logit_softcapping": None,
        "final_logit_softcapping": file.key("gemma3.final_logit_softcapping", float, 0.0) or None,
        "rope_parameters": {
            "full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}
        },
    }  # fmt: skip


def hf_tensors(file: GgufFile, config: Mapping[str, Any]) -> tuple[list[Tensor], list[str]]:
    """Returns the tensors of the HF model by HF name, each decoded when it is written, and notes on the others.

    Raises:
      DataError: one is missing, unknown or misshapen.
    """
    family, shape = file.family, families.shape_of(config)
    biased, known = families.biased_stems(set(file.tensors)), families.tensor_names(family, shape.layers)
    expected = families.expected_shapes(family, shape, config["vocab_size"], biased)
    others, lines = {"rope_freqs.weight"} if family.name == "llama" else set(), []
    if family.name == "bloom" and "output.weight" in file.tensors:
        others |= {"output.weight"}
        lines = _tied(file)
    check_tensors(file.path, expected, {name: file.shape(name) for name in file.tensors}, others)
    return [Tensor(known[name], of, _pieces(file, family, shape, name)) for name, of in expected.items()], lines


def _tied(file: GgufFile) -> list[str]:
    """Notes that BLOOM's separate head is left out; raises DataError if it differs from the embedding."""
    head, embedding = file.tensors["output.weight"], file.tensors["token_embd.weight"]
    if head.tensor_type != embedding.tensor_type:
        return ["output.weight is left out: BLOOM's head is its embedding, here stored in another type"]
    if not np.array_equal(head.data, embedding.data):
        raise DataError(f"{file.path}: output.weight differs from the embedding; BLOOM's head is tied")
    return []


def _pieces(file: GgufFile, family: Family, shape: Shape, name: str) -> Any:
    def pieces() -> Iterator[np.ndarray]:
        if name in ("token_embd.weight", "output.weight"):
            for start in range(0, file.shape(name)[0], ROWS):
                yield file.read(name, slice(start, start + ROWS))
        else:
            yield families.from_gguf(family, shape, name, file.read(name))

    return pieces


def write_hf(file: GgufFile, directory: Path, dtype: str, token_ids: Mapping[str, Any]) -> list[str]:
    """Writes config.json and weights of a GGUF model into an existing directory; returns notes on omissions.

    Args:
      file: the model.
      directory: contains the tokenizer's files.
      dtype: `float32` or `bfloat16`, of the weights.
      token_ids: ids of its special tokens.

    Raises:
      DataError: the file is incomplete, or the HF class cannot represent it.
    """
    config, lines = hf_config(file, token_ids, dtype)
    tensors, more = hf_tensors(file, config)
    write_weights(directory, tensors, np.dtype(jnp.dtype(dtype)))
    files.write_json(directory / "config.json", config)
    return lines + more
