"""Mapping between GGUF files and Hugging Face directories: tensor names, order of rows, shape of the model.

One table per family, read in both directions. llama.cpp's `conversion` modules define what a file holds: rows of q and
k reordered for architecture `llama` (its rotation pairs neighbours), 1 + w for the norms of Gemma, q, k and v of BLOOM
in separate blocks instead of interleaved by head.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_config import LAYER_TYPES, every_nth_full, number

_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
_QWEN3 = _LLAMA | {
    "blk.{}.attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "blk.{}.attn_k_norm": "model.layers.{}.self_attn.k_norm",
}
_GEMMA3 = _QWEN3 | {
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
    "blk.{}.post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}
_BLOOM = {
    "token_embd": "transformer.word_embeddings",
    "token_embd_norm": "transformer.word_embeddings_layernorm",
    "output_norm": "transformer.ln_f",
    "blk.{}.attn_norm": "transformer.h.{}.input_layernorm",
    "blk.{}.attn_qkv": "transformer.h.{}.self_attention.query_key_value",
    "blk.{}.attn_output": "transformer.h.{}.self_attention.dense",
    "blk.{}.ffn_norm": "transformer.h.{}.post_attention_layernorm",
    "blk.{}.ffn_up": "transformer.h.{}.mlp.dense_h_to_4h",
    "blk.{}.ffn_down": "transformer.h.{}.mlp.dense_4h_to_h",
}
_ATTENTION = ("attn_q", "attn_k", "attn_v")


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture of GGUF and the Hugging Face names of its parts.

    Attributes:
      name: `general.architecture`.
      model_types: values of `model_type` in config.json; the first is written.
      causal_lm: class of the model with its head.
      tensors: {name in GGUF: name in HF}, both without `.weight` or `.bias`, `{}` for the number of the block.
    """

    name: str
    model_types: tuple[str, ...]
    causal_lm: str
    tensors: Mapping[str, str]


FAMILIES = {
    family.name: family
    for family in (
        Family("bloom", ("bloom",), "BloomForCausalLM", _BLOOM),
        Family("llama", ("llama", "mistral"), "LlamaForCausalLM", _LLAMA),
        Family("qwen2", ("qwen2",), "Qwen2ForCausalLM", _LLAMA),
        Family("qwen3", ("qwen3",), "Qwen3ForCausalLM", _QWEN3),
        Family("gemma3", ("gemma3_text",), "Gemma3ForCausalLM", _GEMMA3),
    )
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes that determine the order of rows and the expected tensors.

    Attributes:
      embed: width of a token's vector.
      mlp: inner width of the MLP.
      layers: number of blocks.
      heads: of queries.
      kv_heads: of keys and values.
      head_dim: width of one head.
    """

    embed: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Returns the sizes in a config.json.

    Raises:
      DataError: one is missing or not a positive int.
    """
    count = functools.partial(number, config, "config.json", int)
    embed, heads = count("hidden_size", "n_embed"), count("num_attention_heads", "n_head")
    return Shape(
        embed=embed,
        mlp=count("intermediate_size", default=4 * embed),
        layers=count("num_hidden_layers", "n_layer"),
        heads=heads,
        kv_heads=count("num_key_value_heads", default=heads),
        head_dim=count("head_dim", default=embed // heads),
    )


def tensor_names(family: Family, layers: int) -> dict[str, str]:
    """Returns {name in GGUF: name in HF} of all blocks, with `.weight` and `.bias`, some of which do not exist."""
    return {
        f"{ours.format(layer)}.{kind}": f"{theirs.format(layer)}.{kind}"
        for ours, theirs in family.tensors.items()
        for layer in (range(layers) if "{}" in ours else (0,))
        for kind in ("weight", "bias")
    }


def expected_shapes(family: Family, shape: Shape, vocab: int, biased: set[str]) -> dict[str, tuple[int, ...]]:
    """Returns {GGUF name: shape} of the tensors that a model must have.

    Args:
      family: its architecture.
      shape: its sizes.
      vocab: rows of the embedding.
      biased: names of GGUF layers, without block number, that have a bias in block 0, and `output` for an untied head.
    """
    heads, groups = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kernels = {
        "token_embd": (vocab, shape.embed), "output": (vocab, shape.embed), "attn_q": (heads, shape.embed),
        "attn_k": (groups, shape.embed), "attn_v": (groups, shape.embed), "attn_output": (shape.embed, heads),
        "attn_qkv": (3 * heads, shape.embed), "ffn_gate": (shape.mlp, shape.embed),
        "ffn_up": (shape.mlp, shape.embed), "ffn_down": (shape.embed, shape.mlp),
        "attn_q_norm": (shape.head_dim,), "attn_k_norm": (shape.head_dim,),
    }  # fmt: skip
    expected = {}
    for name in tensor_names(family, shape.layers):
        stem, kind = name.split(".")[-2:]
        of = kernels.get(stem, (shape.embed,))
        if kind == "weight" and (stem != "output" or stem in biased):
            expected[name] = of
        elif kind == "bias" and stem in biased and stem != "output":
            expected[name] = of[:1]
    return expected


def to_gguf(family: Family, shape: Shape, name: str, array: np.ndarray) -> np.ndarray:
    """Returns one HF tensor [rows, ...] in the layout of the GGUF tensor `name`; float32 where a norm changes."""
    stem = name.split(".")[-2]
    if family.name == "gemma3" and stem.endswith("norm"):
        return array.astype(np.float32) + np.float32(1)
    if family.name == "llama" and stem in ("attn_q", "attn_k"):
        heads = shape.heads if stem == "attn_q" else shape.kv_heads
        return _swap(array, (heads, 2, -1))
    if stem == "attn_qkv":
        return _swap3(array, (shape.heads, 3))
    return array


def from_gguf(family: Family, shape: Shape, name: str, array: np.ndarray) -> np.ndarray:
    """Returns one GGUF tensor in HF's layout: the inverse of `to_gguf` (for norms up to rounding in float32)."""
    stem = name.split(".")[-2]
    if family.name == "gemma3" and stem.endswith("norm"):
        return array.astype(np.float32) - np.float32(1)
    if family.name == "llama" and stem in ("attn_q", "attn_k"):
        heads = shape.heads if stem == "attn_q" else shape.kv_heads
        return _swap(array, (heads, -1, 2))
    if stem == "attn_qkv":
        return _swap3(array, (3, shape.heads))
    return array


def _swap(array: np.ndarray, split: tuple[int, int, int]) -> np.ndarray:
    return array.reshape(*split, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _swap3(array: np.ndarray, split: tuple[int, int]) -> np.ndarray:
    return array.reshape(*split, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def rope_divisors(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> np.ndarray:
    """Returns Llama 3's divisor of each pair's frequency, float32 [head_dim / 2] (`rope_freqs.weight` of a file).

    Args:
      theta: base of the rotation.
      head_dim: width of a head.
      scaling: factor, low_freq_factor, high_freq_factor and original_max_position_embeddings of config.json.
    """
    frequency = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    factor, low, high = (scaling[f"{name}factor"] for name in ("", "low_freq_", "high_freq_"))
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def find_rope_scaling(divisors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Returns the Llama 3 scaling with the divisors of a file; None if there is none.

    The bounds of the frequencies are 1 and 4 in every published model; the original length is a power of two.
    """
    for factor in (float(divisors.max()), 8.0, 32.0):
        for power in range(5, 21):
            scaling = {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 2**power,
            }  # fmt: skip
            if np.allclose(rope_divisors(theta, head_dim, scaling), divisors, rtol=1e-6, atol=0):
                return scaling
    return None


def full_layers(layers: int, pattern: int) -> list[str]:
    """Returns the kind of each Gemma layer: every `pattern`-th attends to all positions, the others to a window."""
    return [LAYER_TYPES[letter] for letter in every_nth_full(layers, pattern)]


def query_scalar(layers: int, embed: int, heads: int, head_dim: int) -> int:
    """Returns the number whose power -1/2 scales Gemma's scores in llama.cpp (62 layers: the 27B model)."""
    return embed // heads if layers == 62 else head_dim


def biased_stems(names: set[str]) -> set[str]:
    """Returns the names of GGUF layers, without block number, that have a bias, and `output` if there is a head."""
    found = {match[1] for name in names if (match := re.fullmatch(r"blk\.\d+\.(\w+)\.bias", name))}
    found |= {name.removesuffix(".bias") for name in names if name.endswith(".bias") and not name.startswith("blk.")}
    return found | ({"output"} if "output.weight" in names else set())


def check_biases(family: Family, biased: set[str], where: str) -> None:
    """Checks that the family's HF class has this set of biases.

    Raises:
      DataError: it has not; names them.
    """
    layers = biased - {"output"}
    if family.name == "bloom":
        allowed = [{name.split(".")[-1] for name in family.tensors} - {"token_embd"}]
    elif family.name == "qwen2":
        allowed = [set(_ATTENTION)]
    else:
        attention, mlp = {*_ATTENTION, "attn_output"}, {"ffn_gate", "ffn_up", "ffn_down"}
        allowed = [set(), attention] + ([mlp, attention | mlp] if family.name == "llama" else [])
    if layers not in allowed:
        raise DataError(
            f"{where}: biases of {', '.join(sorted(layers)) or 'no layer'}; {family.causal_lm} cannot hold that"
        )
