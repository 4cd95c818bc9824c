import dataclasses
import json
from pathlib import Path

import pytest

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.families import llama
from ecomgpt_jax.model.hf_weights import hf_config, model_config_from_hf
from ecomgpt_jax.model.parameters import parameter_count
from tests.model import hf_cases

PLAIN = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
PLAIN["vocab_size"] = 128


def read(folder: Path, **values: object) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(PLAIN | {"dtype": "float32"} | values))
    return model_config_from_hf(folder)


@pytest.mark.parametrize(
    ("values", "window", "kinds"),
    [
        ({"model_type": "llama"}, 0, ""),
        ({"model_type": "mistral"}, 4096, ""),
        ({"model_type": "mistral", "sliding_window": None}, 0, ""),
        ({"model_type": "mistral", "sliding_window": 8}, 8, ""),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, 0, ""),
        ({"model_type": "qwen2", "sliding_window": 4096}, 0, ""),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True}, 0, ""),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, 8, "fffs"),
        ({"model_type": "qwen3", "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, 8, ""),
    ],
)
def test_windows(tmp_path: Path, values: dict, window: int, kinds: str) -> None:
    values = values | {"num_key_value_heads": 2}
    model = read(tmp_path, **values)
    assert (model.window, model.layer_kinds) == (window, kinds)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(**PLAIN | values)
    seen = (
        getattr(theirs, "layer_types", None)
        or ["sliding_attention" if getattr(theirs, "sliding_window", None) else "full_attention"] * 4
    )
    assert [kind == "sliding_attention" for kind in seen] == list(model.slides)


@pytest.mark.parametrize(
    ("values", "width"),
    [
        ({"model_type": "llama"}, 16),
        ({"model_type": "llama", "head_dim": None}, 16),
        ({"model_type": "llama", "head_dim": 32}, 32),
        ({"model_type": "qwen3"}, 128),
        ({"model_type": "qwen3", "head_dim": 8}, 8),
        ({"model_type": "llama", "hidden_size": 60, "num_attention_heads": 8, "head_dim": 8}, 8),
    ],
)
def test_head_widths(tmp_path: Path, values: dict, width: int) -> None:
    assert read(tmp_path, **values).head_width == width


@pytest.mark.parametrize(
    ("values", "biases", "kv_heads"),
    [
        ({"model_type": "qwen2", "attention_bias": False}, "qkv", 4),
        ({"model_type": "llama", "attention_bias": True, "num_key_value_heads": 2}, "attention", 2),
        ({"model_type": "llama", "num_key_value_heads": None}, "", 4),
        ({"model_type": "qwen3", "attention_bias": False}, "", 4),
    ],
)
def test_biases_and_heads(tmp_path: Path, values: dict, biases: str, kv_heads: int) -> None:
    model = read(tmp_path, **values)
    assert (model.biases, model.key_heads, model.qk_norm) == (biases, kv_heads, values["model_type"] == "qwen3")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"sliding_window": 8}, "sliding_window=8"),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias=True"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0"),
        ({"num_key_value_heads": 3}, "kv_heads=3"),
        ({"head_dim": 7}, "width 7"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 4}, "use_sliding_window"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe'"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ],
)
def test_what_is_not_held_is_refused_by_name(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(DataError, match=rf"config\.json: .*{message}"):
        read(tmp_path, **{"model_type": "llama"} | values)


@pytest.mark.parametrize("name", hf_cases.FAMILIES[1:])
def test_the_config_of_an_export_gives_the_shape_back(tmp_path: Path, name: str) -> None:
    """Every field that a checkpoint decides, gemma's too; transformers reads the same rotation in either form."""
    model = dataclasses.replace(hf_cases.case_model(name), head_chunk=2048)
    model.kv_heads, model.head_dim = model.key_heads, model.head_width
    values = hf_config(model, "float32", seq_length=77)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert model_config_from_hf(tmp_path) == model
    assert values["max_position_embeddings"] == 77
    for form in ({"rope_parameters"}, {"rope_theta", "rope_scaling", "rope_local_base_freq"}):
        kept = {key: value for key, value in values.items() if key not in form}
        (tmp_path / "config.json").write_text(json.dumps(kept))
        assert model_config_from_hf(tmp_path) == model


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ({"embed": 576, "layers": 30, "heads": 9, "kv_heads": 3, "mlp": 1536, "vocab_size": 49_152}, 134_515_008),
        (
            {"embed": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "mlp": 8192, "vocab_size": 128_256},
            1_235_814_400,
        ),
        (
            {"embed": 1024, "layers": 28, "heads": 16, "kv_heads": 8, "head_dim": 128, "mlp": 3072,
             "vocab_size": 151_936, "qk_norm": True},
            596_049_920,
        ),
        (
            {"embed": 4096, "layers": 36, "heads": 32, "kv_heads": 8, "head_dim": 128, "mlp": 12_288,
             "vocab_size": 151_936, "qk_norm": True, "tied_head": False},
            8_190_735_360,
        ),
    ],
)  # fmt: skip
def test_counts_of_the_released_sizes(shape: dict, count: int) -> None:
    """SmolLM2 135M, Llama 3.2 1B, Qwen3 0.6B and 8B."""
    assert parameter_count(ModelConfig(size="custom", family="llama", **shape)) == count


def test_attention_has_no_alibi() -> None:
    assert llama.slopes(hf_cases.case_model("llama")) is None
