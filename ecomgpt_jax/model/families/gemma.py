"""Gemma 3's text network, as in HF's modeling_gemma3.py (`Gemma3ForCausalLM`: 270M and 1B).

Four norms per block, all with the factor 1 + w; embedding rows times sqrt(embed); GeGLU; norms of queries and keys; a
sliding window in most layers, whose rotation has another theta; a head tied to the unscaled embedding.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_config import (
    LAYER_TYPES,
    every_nth_full,
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
from ecomgpt_jax.model.table import ZEROS, Parameter, gated_entries, norm_entries

MODEL_TYPES = ("gemma3_text",)
_PREFIX = "model."


def parameter_table(model: ModelConfig) -> tuple[Parameter, ...]:
    """Returns every parameter; the HF names are Gemma3ForCausalLM's, without prefix."""
    normal = jax.nn.initializers.normal(model.initializer_range)

    def norm(path: str, hf: str, axis: str = "embed_vector", width: int = model.embed) -> list[Parameter]:
        return norm_entries(path, hf, model.layers, {axis: width}, _PREFIX, scale=ZEROS)

    return (
        Parameter(
            ("embedding", "table"), (model.vocab_size, model.embed), ("vocab", "embed"), normal, "embed_tokens.weight",
            hf_prefix=_PREFIX,
        ),
        *norm("blocks/input_norm", "layers.{layer}.input_layernorm"),
        *gated_entries(model, normal, _PREFIX, qkv_bias=False, out_bias=False),
        *norm("blocks/query_norm", "layers.{layer}.self_attn.q_norm", "head_dim", model.head_width),
        *norm("blocks/key_norm", "layers.{layer}.self_attn.k_norm", "head_dim", model.head_width),
        *norm("blocks/attended_norm", "layers.{layer}.post_attention_layernorm"),
        *norm("blocks/mlp_input_norm", "layers.{layer}.pre_feedforward_layernorm"),
        *norm("blocks/mlp_output_norm", "layers.{layer}.post_feedforward_layernorm"),
        *norm("final_norm", "norm"),
    )  # fmt: skip


def norm(declare: Declare, path: str, model: ModelConfig) -> RMSNorm:
    """Makes the family's kind of norm."""
    return RMSNorm(declare, path, model.layer_norm_epsilon, centred=True)


def scale_embedding(rows: jax.Array) -> jax.Array:
    """Returns embedding rows [batch, length, embed] times sqrt(embed), which HF rounds to their dtype first."""
    return rows * jnp.asarray(np.sqrt(rows.shape[-1]), rows.dtype)


def slopes(model: ModelConfig) -> None:
    """Returns None: there is no ALiBi."""


def thetas(model: ModelConfig) -> tuple[tuple[float, str], ...]:
    """Returns base and scaling of the rotation in full and in sliding layers."""
    return (model.rope_theta, model.rope_scaling), (model.local_rope_theta, "")


class Block(GroupedAttention):
    """One transformer block; attention is an argument, so that training and decoding share the block."""

    def __init__(self, model: ModelConfig, declare: Declare) -> None:
        super().__init__(declare, *(norm(declare, f"blocks/{name}", model) for name in ("query_norm", "key_norm")))
        self.input_norm = norm(declare, "blocks/input_norm", model)
        self.attended_norm = norm(declare, "blocks/attended_norm", model)
        self.mlp_input_norm = norm(declare, "blocks/mlp_input_norm", model)
        self.mlp_output_norm = norm(declare, "blocks/mlp_output_norm", model)

    def __call__(self, x: jax.Array, attend: Attend, adapters: Adapters | None = None) -> jax.Array:
        """Maps x [batch, length, embed] to the same shape.

        `attend` gets q [batch, length, heads, head_dim] and k, v [batch, length, kv_heads, head_dim].
        """
        attended = self.attended_norm(residual(self.attention(self.input_norm(x), attend, adapters)))
        x = checkpoint_name(residual(x + attended), "attended")
        return residual(x + self.mlp_output_norm(residual(self.mlp(self.mlp_input_norm(x), _gelu, adapters))))


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


def shape_from_hf(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` that a config.json describes."""
    refuse_foreign(values, where)
    # `hidden_act` is used only if its successor is absent.
    activation = {"hidden_activation": values.get("hidden_activation") or values.get("hidden_act")}
    only(activation, where, hidden_activation=("gelu_pytorch_tanh",))
    only(values, where, attention_bias=(False,), tie_word_embeddings=(True,))
    layers = number(values, where, int, "num_hidden_layers")
    pattern = number(values, where, int, "sliding_window_pattern", "_sliding_window_pattern", default=6)
    theta, scaling = rope(values, where, 1e6, "full_attention")
    local = dict(values) | {"rope_theta": values.get("rope_local_base_freq"), "rope_scaling": None}
    local_theta, local_scaling = rope(local, where, 1e4, "sliding_attention")
    if local_scaling:
        raise DataError(f"{where}: rope_type={local_scaling.split(':')[0]!r} of sliding layers is not supported")
    kinds = layer_kinds(values, where, layers, every_nth_full(layers, pattern))
    return {
        "size": "custom",
        "embed": number(values, where, int, "hidden_size"),
        "layers": layers,
        "heads": number(values, where, int, "num_attention_heads"),
        "kv_heads": number(values, where, int, "num_key_value_heads", default=4),
        "head_dim": number(values, where, int, "head_dim", default=256),
        "mlp": number(values, where, int, "intermediate_size"),
        "layer_norm_epsilon": number(values, where, float, "rms_norm_eps", default=1e-6),
        "query_scale": number(values, where, float, "query_pre_attn_scalar", default=256),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "local_rope_theta": local_theta,
        "window": number(values, where, int, "sliding_window", default=4096) if "s" in kinds else 0,
        "layer_kinds": kinds if "s" in kinds else "",
    }


def hf_config(model: ModelConfig, length: int) -> dict[str, Any]:
    """Returns the keys of config.json that describe the network; `length` is that of its context, 0: unknown."""
    letters = letters_of(model)
    pattern = letters.index("f") + 1 if "f" in letters else model.layers + 1
    rotation = rope_entries(model.rope_theta, model.rope_scaling)
    scalar = model.query_scale or model.head_width
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": model.vocab_size,
        "hidden_size": model.embed,
        "intermediate_size": model.mlp_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_heads,
        "head_dim": model.head_width,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": model.layer_norm_epsilon,
        "initializer_range": model.initializer_range,
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "sliding_window": model.window or None,
        "layer_types": [LAYER_TYPES[letter] for letter in letters],
        **({"sliding_window_pattern": pattern} if letters == every_nth_full(model.layers, pattern) else {}),
        "rope_theta": model.rope_theta,
        "rope_local_base_freq": model.local_rope_theta,
        "rope_scaling": rope_scaling(rotation),
        "rope_parameters": {
            "full_attention": rotation, "sliding_attention": rope_entries(model.local_rope_theta, ""),
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        **({"max_position_embeddings": length} if length else {}),
    }  # fmt: skip
