import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.decoder import attention_of
from ecomgpt_jax.model.families import gemma
from ecomgpt_jax.model.hf_weights import model_config_from_hf
from ecomgpt_jax.model.parameters import parameter_count
from ecomgpt_jax.model.rotation import inverse_frequencies

# Gemma 3 270M's config.json, in the keys of transformers 4.
SMALLEST = {
    "model_type": "gemma3_text", "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 2048, "vocab_size": 262_144,
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 512,
    "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "rms_norm_eps": 1e-6, "dtype": "bfloat16",
    "_sliding_window_pattern": 6, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip


def read(folder: Path, **values: object) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(SMALLEST | values))
    return model_config_from_hf(folder)


def test_the_smallest_release(tmp_path: Path) -> None:
    model = read(tmp_path)
    assert parameter_count(model) == 268_098_176
    assert [layer for layer, slides in enumerate(model.slides) if not slides] == [5, 11, 17]
    of = attention_of(model)
    assert (of.window, of.scale, of.slopes) == (512, 1 / 16, None)


def test_what_a_config_leaves_out_has_the_familys_value(tmp_path: Path) -> None:
    named = ("rope_theta", "rope_local_base_freq", "head_dim", "query_pre_attn_scalar", "_sliding_window_pattern")
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in SMALLEST.items() if k not in named}))
    assert model_config_from_hf(tmp_path) == read(tmp_path)


@pytest.mark.parametrize(
    ("values", "full"),
    [
        ({"num_hidden_layers": 5}, []),
        ({"num_hidden_layers": 4, "sliding_window_pattern": 2}, [1, 3]),
        ({"num_hidden_layers": 3, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}, [0]),
    ],
)
def test_which_layers_are_full(tmp_path: Path, values: dict, full: list[int]) -> None:
    model = read(tmp_path, **values)
    assert [layer for layer, slides in enumerate(model.slides) if not slides] == full


def test_full_layers_alone_have_the_scaling(tmp_path: Path) -> None:
    """4B and up: linear, factor 8; both forms of the keys."""
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    old = read(tmp_path, rope_scaling={"rope_type": "linear", "factor": 8.0})
    (tmp_path / "config.json").write_text(
        json.dumps({k: v for k, v in SMALLEST.items() if "rope" not in k} | {"rope_parameters": nested})
    )
    assert model_config_from_hf(tmp_path) == old
    full, sliding = attention_of(old).frequencies
    np.testing.assert_allclose(full, inverse_frequencies(256, 1e6) / 8, rtol=1e-6)
    np.testing.assert_array_equal(sliding, inverse_frequencies(256, 1e4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "gemma3"}, "model_type is 'gemma3'"),
        ({"model_type": "gemma2"}, "model_type is 'gemma2'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "yarn"),
    ],
)
def test_what_is_not_held_is_refused_by_name(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(DataError, match=rf"config\.json: .*{message}"):
        read(tmp_path, **values)


def test_the_older_key_of_the_activation_does_not_count(tmp_path: Path) -> None:
    read(tmp_path, hidden_act="gelu")


@pytest.mark.parametrize("width", [640, 1152, 2560, 3840, 5376])
def test_the_scale_of_the_embedding_is_rounded_first_as_in_hf(width: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    rows = np.random.RandomState(0).standard_normal((8, width)).astype(np.float32)
    for ours, theirs in ((jnp.float32, torch.float32), (jnp.bfloat16, torch.bfloat16)):
        embedding = Gemma3TextScaledWordEmbedding(8, width, 0, embed_scale=width**0.5).to(theirs)
        embedding.weight.data = torch.from_numpy(rows).to(theirs)
        expected = embedding(torch.arange(8)).float().detach().numpy()
        found = gemma.scale_embedding(jnp.asarray(rows, ours))
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected)
