"""BLOOM, as in HF's modeling_bloom.py: ALiBi, LayerNorm after the embedding, pre-LN blocks, fused qkv, tanh-GELU.

The residual of a block is its un-normalised input, the head is tied to the embedding, and there is no dropout.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ecomgpt_jax.config import MODEL_SHAPES, ModelConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model import attention
from ecomgpt_jax.model.hf_config import number, only
from ecomgpt_jax.model.layers import Adapters, Attend, Declare, LayerNorm, Linear, gelu, in_decoding_step, residual
from ecomgpt_jax.model.table import Parameter, linear_entries, norm_entries
from ecomgpt_jax.parallel.sharding import constrain

MODEL_TYPES = ("bloom",)
_PREFIX = "transformer."


def parameter_table(model: ModelConfig) -> tuple[Parameter, ...]:
    """Returns every parameter; the HF names are BloomForCausalLM's, without prefix."""
    layers, embed, heads = model.layers, {"embed": model.embed}, {"heads": model.heads}
    head_dim, mlp = {"head_dim": model.head_width}, {"mlp": model.mlp_width}
    normal = jax.nn.initializers.normal(model.initializer_range)

    def norm(path: str, hf: str) -> list[Parameter]:
        return norm_entries(path, hf, layers, {"embed_vector": model.embed}, _PREFIX, biased=True)

    def linear(name: str, hf: str, ins: dict[str, int], outs: dict[str, int]) -> list[Parameter]:
        return linear_entries(name, f"h.{{layer}}.{hf}", layers, ins, outs, normal, _PREFIX, biased=True)

    return (
        Parameter(
            ("embedding", "table"), (model.vocab_size, model.embed), ("vocab", "embed"), normal,
            "word_embeddings.weight", hf_prefix=_PREFIX,
        ),
        *norm("embedding_norm", "word_embeddings_layernorm"),
        *norm("blocks/input_norm", "h.{layer}.input_layernorm"),
        *linear("qkv", "self_attention.query_key_value", embed, heads | {"qkv": 3} | head_dim),
        *linear("attention_out", "self_attention.dense", heads | head_dim, embed),
        *norm("blocks/post_norm", "h.{layer}.post_attention_layernorm"),
        *linear("mlp_up", "mlp.dense_h_to_4h", embed, mlp),
        *linear("mlp_down", "mlp.dense_4h_to_h", mlp, embed),
        *norm("final_norm", "ln_f"),
    )  # fmt: skip


def norm(declare: Declare, path: str, model: ModelConfig) -> LayerNorm:
    """Makes the family's kind of norm."""
    return LayerNorm(declare, path, model.layer_norm_epsilon)


def scale_embedding(rows: jax.Array) -> jax.Array:
    """Returns embedding rows [batch, length, embed] as input of the first block, or of the norm before it."""
    return rows


def slopes(model: ModelConfig) -> np.ndarray:
    """Returns ALiBi's slopes, float32 [heads]."""
    return attention.alibi_slopes(model.heads)


def thetas(model: ModelConfig) -> None:
    """Returns None: queries and keys are not rotated."""


class Block(nnx.Module):
    """One transformer block; attention is an argument, so that training and decoding share the block."""

    def __init__(self, model: ModelConfig, declare: Declare) -> None:
        self.input_norm = norm(declare, "blocks/input_norm", model)
        self.qkv = Linear(declare, "blocks/qkv")
        self.attention_out = Linear(declare, "blocks/attention_out", inputs=2)
        self.post_norm = norm(declare, "blocks/post_norm", model)
        self.mlp_up = Linear(declare, "blocks/mlp_up")
        self.mlp_down = Linear(declare, "blocks/mlp_down")

    def __call__(self, x: jax.Array, attend: Attend, adapters: Adapters | None = None) -> jax.Array:
        """Maps x [batch, length, embed] to the same shape; `attend` gets q, k, v [batch, length, heads, head_dim]."""
        qkv = constrain(self.qkv(self.input_norm(x), adapters), "batch", "length", "heads", "qkv", "head_dim")
        context = attend(*jnp.unstack(checkpoint_name(qkv, "qkv"), axis=3))
        rows = "group_batch" if in_decoding_step(x) else "batch"
        context = constrain(context, rows, "length", "heads", "head_dim")
        x = checkpoint_name(residual(x + self.attention_out(context, adapters)), "attended")
        up = constrain(self.mlp_up(self.post_norm(x), adapters), rows, "length", "mlp")
        return residual(x + self.mlp_down(gelu(up), adapters))


def shape_from_hf(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` that a config.json describes."""
    only(values, where, apply_residual_connection_post_layernorm=(False,), tie_word_embeddings=(True,))
    shape = {
        "embed": number(values, where, int, "hidden_size", "n_embed"),
        "layers": number(values, where, int, "n_layer", "num_hidden_layers"),
        "heads": number(values, where, int, "n_head", "num_attention_heads"),
    }
    if shape["embed"] % shape["heads"]:
        raise DataError(f"{where}: hidden_size={shape['embed']} is not a multiple of n_head={shape['heads']}")
    return {
        "size": next((size for size, known in MODEL_SHAPES.items() if known == shape), "custom"),
        "layer_norm_epsilon": number(values, where, float, "layer_norm_epsilon", default=1e-5),
        **shape,
    }


def hf_config(model: ModelConfig, length: int) -> dict[str, Any]:
    """Returns the keys of config.json that describe the network; `length` is that of its context, 0: unknown."""
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": model.vocab_size,
        "hidden_size": model.embed,
        "n_layer": model.layers,
        "n_head": model.heads,
        "layer_norm_epsilon": model.layer_norm_epsilon,
        "initializer_range": model.initializer_range,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "pretraining_tp": 1,
        "slow_but_exact": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        **({"seq_length": length} if length else {}),
    }
