"""Small GGUF files of each architecture, made from Hugging Face models with the gguf package's own tables."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

SIZES = {
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48, "head_dim": 16,
    "intermediate_size": 64, "vocab_size": 128, "max_position_embeddings": 96,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, transformers.PretrainedConfig] = {
    "bloom": transformers.BloomConfig(hidden_size=48, n_layer=2, n_head=6, vocab_size=128, seq_length=96),
    "llama": transformers.LlamaConfig(**SIZES, rms_norm_eps=1e-5, tie_word_embeddings=False),
    "llama3": transformers.LlamaConfig(**SIZES, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "qwen2": transformers.Qwen2Config(**SIZES | {"head_dim": 8}, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SIZES, tie_word_embeddings=False),
    "gemma3": transformers.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 6}, sliding_window=8, query_pre_attn_scalar=16
    ),
}


def random_model(name: str) -> transformers.PreTrainedModel:
    """A model of a family whose every weight, norms and biases too, is random."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            centre = 1.0 if "norm" in key and name != "gemma3" and key.endswith("weight") else 0.0
            weight.copy_(centre + 0.2 * torch.randn_like(weight))
    return model


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of q and k: pair i of a head beside each other."""
    order = [head * len(weight) // heads + j for head in range(heads) for i in range(len(weight) // heads // 2)
             for j in (i, i + len(weight) // heads // 2)]  # fmt: skip
    return weight[order]


def gguf_tensors(name: str, model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """{name in GGUF: array} of a model, by the gguf package's table of names."""
    config, arch = model.config, name.removesuffix("3") if name == "llama3" else name
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    layers = config.num_hidden_layers
    table, found = gguf.get_tensor_name_map(kind, layers), {}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, suffix = key.rsplit(".", 1)
        ours, array = f"{table.get_name(stem.removeprefix('transformer.'))}.{suffix}", tensor.numpy()
        if arch == "llama" and ".attn_q." in ours:
            array = permute(array, config.num_attention_heads)
        if arch == "llama" and ".attn_k." in ours:
            array = permute(array, config.num_key_value_heads)
        if arch == "gemma3" and ours.endswith("norm.weight"):
            array = array + np.float32(1)
        if "attn_qkv" in ours:
            heads = config.num_attention_heads
            parts = array.reshape(heads, 3, -1, *array.shape[1:])
            array = np.concatenate([parts[:, i].reshape(-1, *array.shape[1:]) for i in range(3)])
        found[ours] = np.ascontiguousarray(array)
    if name == "llama3":
        base = 1 / 10_000.0 ** (np.arange(0, 16, 2) / 16)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        found["rope_freqs.weight"] = (base / scaled).astype(np.float32)
    return found


def keys_of(name: str) -> dict[str, Any]:
    """The keys of a file, without prefix of the architecture, that a model of this family needs."""
    config = CONFIGS[name]
    keys = {
        "context_length": 96, "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
        "feed_forward_length": getattr(config, "intermediate_size", 4 * config.hidden_size),
        "attention.head_count": config.num_attention_heads,
    }  # fmt: skip
    if name == "bloom":
        return keys | {"attention.layer_norm_epsilon": 1e-5}
    keys |= {
        "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 1e6 if name == "gemma3" else 10_000.0,
    }  # fmt: skip
    return keys | ({"attention.sliding_window": 8} if name == "gemma3" else {})


VOCABULARY: dict[str, Any] = {  # of bytes and one merge; ids 0 to 3 are control tokens
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.padding_token_id": 3,
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<pad>", *map(chr, range(33, 127)), "\u0120", "mu", "mug"]
    + [f"[PAD{i}]" for i in range(101, 128)],
    "tokenizer.ggml.token_type": [3] * 4 + [1] * 97 + [5] * 27,
    "tokenizer.ggml.merges": ["m u", "mu g"],
}  # fmt: skip


def write_gguf(
    path: Path, arch: str, tensors: dict[str, tuple[np.ndarray, str]], keys: dict[str, Any],
    vocabulary: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Writes a file of {name: (array, type)}; what the package cannot quantise is given as bytes."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**{f"{arch}.{key}": value for key, value in keys.items()}, **(vocabulary or VOCABULARY)}.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (array, kind) in tensors.items():
        of = gguf.GGMLQuantizationType[kind]
        data = array if array.dtype == np.uint8 else gguf.quantize(array, of)
        writer.add_tensor(name, data, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def family_file(path: Path, name: str, **keys: Any) -> Path:
    """Writes the float32 file of a random model of a family."""
    tensors = {key: (array, "F32") for key, array in gguf_tensors(name, random_model(name)).items()}
    return write_gguf(path, "llama" if name == "llama3" else name, tensors, keys_of(name) | keys)
