"""The network of Llama 2 and 3, Mistral, Qwen2, Qwen3 and SmolLM2, as in HF's modeling_llama.py and similar files.

Grouped kv heads, rotary positions, RMSNorm, SwiGLU; biases of q, k and v (Qwen2), norms of queries and keys (Qwen3), a
sliding window (Mistral; in some layers Qwen) and an untied head if config.json sets them.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_config import (
    LAYER_TYPES,
    flag,
    layer_kinds,
    letters_of,
    number,
    only,
    refuse_foreign,
    rope,
    rope_entries,
    rope_scaling,
)
from ecomgpt_jax.model.layers import Adapters, Attend, Declare, GroupedAttention, RMSNorm, residual
from ecomgpt_jax.model.table import ONES, Parameter, gated_entries, norm_entries

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_PREFIX = "model."


def parameter_table(model: ModelConfig) -> tuple[Parameter, ...]:
    """Returns every parameter; the HF names are those of LlamaForCausalLM, without prefix."""
    normal = jax.nn.initializers.normal(model.initializer_range)

    def norm(path: str, hf: str, axis: str = "embed_vector", width: int = model.embed) -> list[Parameter]:
        return norm_entries(path, hf, model.layers, {axis: width}, _PREFIX, scale=ONES)

    table, axes = (model.vocab_size, model.embed), ("vocab", "embed")
    entries = [
        Parameter(("embedding", "table"), table, axes, normal, "embed_tokens.weight", hf_prefix=_PREFIX),
        *norm("blocks/input_norm", "layers.{layer}.input_layernorm"),
        *gated_entries(model, normal, _PREFIX, qkv_bias=model.biases != "", out_bias=model.biases == "attention"),
        *norm("blocks/post_norm", "layers.{layer}.post_attention_layernorm"),
        *norm("final_norm", "norm"),
    ]
    if model.qk_norm:
        entries += norm("blocks/query_norm", "layers.{layer}.self_attn.q_norm", "head_dim", model.head_width)
        entries += norm("blocks/key_norm", "layers.{layer}.self_attn.k_norm", "head_dim", model.head_width)
    if not model.tied_head:
        entries.append(Parameter(("head", "table"), table, axes, normal, "lm_head.weight", hf_prefix=""))
    return tuple(entries)


def norm(declare: Declare, path: str, model: ModelConfig) -> RMSNorm:
    """Makes the family's kind of norm."""
    return RMSNorm(declare, path, model.layer_norm_epsilon)


def scale_embedding(rows: jax.Array) -> jax.Array:
    """Returns embedding rows [batch, length, embed] as input of the first block."""
    return rows


def slopes(model: ModelConfig) -> None:
    """Returns None: there is no ALiBi."""


def thetas(model: ModelConfig) -> tuple[tuple[float, str], ...]:
    """Returns base and scaling of the rotation in full and in sliding layers."""
    return ((model.rope_theta, model.rope_scaling),) * 2


class Block(GroupedAttention):
    """One transformer block; attention is an argument, so that training and decoding share the block."""

    def __init__(self, model: ModelConfig, declare: Declare) -> None:
        names = ("query_norm", "key_norm") if model.qk_norm else ()
        super().__init__(declare, *(norm(declare, f"blocks/{name}", model) for name in names))
        self.input_norm = norm(declare, "blocks/input_norm", model)
        self.post_norm = norm(declare, "blocks/post_norm", model)

    def __call__(self, x: jax.Array, attend: Attend, adapters: Adapters | None = None) -> jax.Array:
        """Maps x [batch, length, embed] to the same shape.

        `attend` gets q [batch, length, heads, head_dim] and k, v [batch, length, kv_heads, head_dim].
        """
        x = checkpoint_name(residual(x + self.attention(self.input_norm(x), attend, adapters)), "attended")
        return residual(x + self.mlp(self.post_norm(x), jax.nn.silu, adapters))


def shape_from_hf(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` that a config.json describes."""
    kind = values["model_type"]
    refuse_foreign(values, where)
    only(values, where, hidden_act=("silu", "swish"), mlp_bias=(False,))
    layers = number(values, where, int, "num_hidden_layers")
    heads = number(values, where, int, "num_attention_heads")
    given = values.get("head_dim", 128 if kind == "qwen3" else None)
    biased = flag(values, where, "attention_bias") if kind in ("llama", "qwen3") else False
    if kind == "mistral":
        only(values, where, attention_bias=(False,))
    theta, scaling = rope(values, where, 10_000.0)
    window, kinds = _window(values, where, layers)
    return {
        "size": "custom",
        "embed": number(values, where, int, "hidden_size"),
        "layers": layers,
        "heads": heads,
        "kv_heads": number(values, where, int, "num_key_value_heads", default=8 if kind == "mistral" else heads),
        "head_dim": 0 if given is None else number({"head_dim": given}, where, int, "head_dim"),
        "mlp": number(values, where, int, "intermediate_size"),
        "layer_norm_epsilon": number(values, where, float, "rms_norm_eps", default=1e-6),
        "biases": "qkv" if kind == "qwen2" else "attention" if biased else "",
        "qk_norm": kind == "qwen3",
        "tied_head": flag(values, where, "tie_word_embeddings"),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "window": window,
        "layer_kinds": kinds,
    }


def _window(values: Mapping[str, Any], where: str, layers: int) -> tuple[int, str]:
    """Returns `model.window` and `model.layer_kinds`."""
    kind = values["model_type"]
    if kind == "llama":
        only(values, where, sliding_window=(), layer_types=(["full_attention"] * layers,))
        return 0, ""
    if kind == "mistral":  # 4096 if absent; null means no window
        only(values, where, layer_types=(["sliding_attention"] * layers,))
        window = values.get("sliding_window", 4096)
        return (0 if window is None else number({"sliding_window": window}, where, int, "sliding_window")), ""
    window = number(values, where, int, "sliding_window", default=4096)
    on = flag(values, where, "use_sliding_window") and values.get("sliding_window", 4096) is not None
    first = values.get("max_window_layers", 28)
    if type(first) is not int or first < 0:
        raise DataError(f"{where}: max_window_layers is {first!r}; it must be a number of layers")
    kinds = layer_kinds(values, where, layers, "".join("s" if on and i >= first else "f" for i in range(layers)))
    if "s" not in kinds:
        return 0, ""
    if not on:
        raise DataError(f"{where}: layer_types has sliding layers, but use_sliding_window is false")
    return window, kinds if "f" in kinds else ""


def hf_config(model: ModelConfig, length: int) -> dict[str, Any]:
    """Returns the keys of config.json that describe the network; `length` is that of its context, 0: unknown."""
    if model.qk_norm:
        kind = "qwen3"
    elif model.biases == "qkv":
        kind = "qwen2"
    else:
        kind = "mistral" if model.window else "llama"
    windows: dict[str, Any] = {}
    if kind in ("qwen2", "qwen3"):
        letters = letters_of(model)
        windows = {
            "use_sliding_window": model.window > 0,
            "sliding_window": model.window or None,
            "max_window_layers": letters.index("s") if "s" in letters else model.layers,
            "layer_types": [LAYER_TYPES[letter] for letter in letters],
        }
    elif kind == "mistral":
        windows = {"sliding_window": model.window}
    rotation = rope_entries(model.rope_theta, model.rope_scaling)
    return {
        "architectures": [{"qwen2": "Qwen2", "qwen3": "Qwen3"}.get(kind, kind.capitalize()) + "ForCausalLM"],
        "model_type": kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.embed,
        "intermediate_size": model.mlp_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_heads,
        "head_dim": model.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": model.layer_norm_epsilon,
        "initializer_range": model.initializer_range,
        "attention_dropout": 0.0,
        **({"attention_bias": model.biases == "attention"} if kind in ("llama", "qwen3") else {}),
        **({"mlp_bias": False} if kind == "llama" else {}),
        **windows,
        "rope_theta": model.rope_theta,
        "rope_scaling": rope_scaling(rotation),
        "rope_parameters": rotation,
        "tie_word_embeddings": model.tied_head,
        "use_cache": True,
        **({"max_position_embeddings": length} if length else {}),
    }
