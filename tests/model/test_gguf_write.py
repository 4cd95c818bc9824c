"""llama.cpp (PyPI `xllamacpp`) is the judge of what is written; transformers computes what it should answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

import transformers  # noqa: E402

from ecomgpt_jax.errors import DataError  # noqa: E402
from ecomgpt_jax.model import gguf_write  # noqa: E402
from ecomgpt_jax.model.gguf_read import GgufFile, hf_config, hf_tensors  # noqa: E402
from ecomgpt_jax.model.gguf_write import model_keys  # noqa: E402
from tests.model.gguf_engine import (  # noqa: E402
    KEYS,
    PROMPTS,
    TOKENS,
    bloom,
    disagreements,
    engine_answers,
    written,
)
from tests.model.gguf_files import CONFIGS, SIZES, random_model  # noqa: E402


@pytest.mark.parametrize("name", ["bloom8", "bloom12", "bloom16", *(name for name in CONFIGS if name != "bloom")])
def test_llama_cpp_gives_the_models_greedy_answers(name: str, tmp_path: Path, record_property: Any) -> None:
    """In float32 all 50 answers of 24 tokens. The engine looks BLOOM's GELU up in a float16 table: ties within 1e-3."""
    model = bloom(int(name[5:])) if name.startswith("bloom") else random_model(name)
    answers = engine_answers(written(model, tmp_path), PROMPTS)
    assert {len(answer) for answer in answers} == {TOKENS}
    assert len({tuple(answer) for answer in answers}) > len(PROMPTS) / 4
    others = disagreements(model, PROMPTS, answers)
    assert len(others) <= 2 if name.startswith("bloom") else others == []
    assert max(others, default=0) < 1e-3
    for dtype in ("bfloat16", "q8_0"):
        gguf_write.write_gguf(tmp_path / "hf", tmp_path / f"{dtype}.gguf", dtype, KEYS, "m")
        same = len(PROMPTS) - len(disagreements(model, PROMPTS, engine_answers(tmp_path / f"{dtype}.gguf", PROMPTS)))
        record_property(f"{name} {dtype}", f"{same} of {len(PROMPTS)}")  # reported, in the junit file
        assert same > 0


@pytest.mark.parametrize("fault", ["k and v swapped", "q not reordered", "norm without one", "no rope_freqs"])
def test_a_fault_would_be_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = {"k": "bloom8", "q": "llama", "n": "gemma3"}[fault[0]] if fault != "no rope_freqs" else "llama3"
    model = bloom(8) if kind == "bloom8" else random_model(kind)
    right = gguf_write.families.to_gguf

    def wrong(family: Any, shape: Any, name: str, array: np.ndarray) -> np.ndarray:
        if "attn_qkv" in name:
            q, k, v = np.split(right(family, shape, name, array), 3)
            return np.concatenate([q, v, k])
        return array if fault[0] in "qn" else right(family, shape, name, array)

    if fault == "no rope_freqs":
        monkeypatch.setattr(gguf_write.families, "rope_divisors", lambda *_: np.ones(8, np.float32))
    else:
        monkeypatch.setattr(gguf_write.families, "to_gguf", wrong)
    answers = engine_answers(written(model, tmp_path), PROMPTS[20:26])
    assert max(disagreements(model, PROMPTS[20:26], answers), default=0) > 1e-2


def test_the_end_of_sequence_that_a_file_names_ends_an_answer(tmp_path: Path) -> None:
    model = bloom(8)
    path = written(model, tmp_path)
    answer = engine_answers(path, PROMPTS[3:4])[0]
    gguf_write.write_gguf(tmp_path / "hf", path, "float32", KEYS | {"tokenizer.ggml.eos_token_id": answer[5]}, "m")
    cut = engine_answers(path, PROMPTS[3:4], ignore_eos=False)[0]
    assert [token for token in cut if token != answer[5]] == answer[: answer.index(answer[5])]


@pytest.mark.parametrize("name", CONFIGS)
def test_reading_back_gives_the_same_tensors_and_types(name: str, tmp_path: Path) -> None:
    model = random_model(name)
    for dtype in ("float32", "bfloat16", "float16", "q8_0"):
        file = GgufFile(written(model, tmp_path, dtype))
        kinds = {tensor.tensor_type.name for tensor in file.tensors.values() if tensor.name.endswith("norm.weight")}
        assert kinds == {"F32"}
        if dtype != "float32":
            continue
        config, _ = hf_config(file, {}, "float32")
        for key, values in {"tie_word_embeddings": None, "hidden_size": None, "vocab_size": None}.items():
            assert config[key] == getattr(model.config, key, values)
        state = model.state_dict()
        for tensor in hf_tensors(file, config)[0]:
            expected, found = state[tensor.name].numpy(), np.concatenate(list(tensor.pieces()))
            plus_one = name == "gemma3" and tensor.name.endswith("norm.weight")
            np.testing.assert_array_equal(found, expected + np.float32(1) - np.float32(1) if plus_one else expected)
    assert ("output.weight" in file.tensors) == (not model.config.tie_word_embeddings)


def test_gemmas_query_scale_is_folded_into_its_norm(tmp_path: Path) -> None:
    config = transformers.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 6}, sliding_window=8, query_pre_attn_scalar=40
    )
    torch.manual_seed(1)
    model = transformers.Gemma3ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    prompts = PROMPTS[20:26]
    assert disagreements(model, prompts, engine_answers(written(model, tmp_path), prompts)) == []


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", {"model_type": "gpt2"}, "model_type 'gpt2' is none of bloom, llama"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ("qwen3", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type is 'llama3'"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("gemma3", {"layer_types": ["full_attention"] * 6}, "layer_types is"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual"),
    ],
)
def test_what_the_engine_cannot_hold_is_refused_by_name(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        model_keys(CONFIGS[name].to_dict() | change, "config.json")


def test_a_window_that_the_engine_has_not_bounds_the_context() -> None:
    config = CONFIGS["llama"].to_dict()
    keys, lines = model_keys(config | {"model_type": "mistral", "sliding_window": 8}, "c")
    assert (keys["context_length"], len(lines)) == (8, 1)
    assert model_keys(config | {"model_type": "mistral", "sliding_window": None}, "c")[0]["context_length"] == 96
    qwen = CONFIGS["qwen2"].to_dict() | {"sliding_window": 8, "use_sliding_window": False}
    assert model_keys(qwen, "c")[0]["context_length"] == 96
    assert model_keys(qwen | {"use_sliding_window": True}, "c")[0]["context_length"] == 8


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = random_model("qwen3")
    model.save_pretrained(tmp_path / "hf")
    state = {key: weight.numpy() for key, weight in model.state_dict().items()}
    for change, message in (
        ({"model.layers.0.self_attn.q_proj.bias": np.zeros(96, np.float32)}, "biases of attn_q"),
        ({"model.layers.9.mlp.up_proj.weight": np.zeros((64, 48), np.float32)}, "unknown tensors"),
        ({"model.norm.weight": np.zeros(9, np.float32)}, r"model.norm.weight has shape \(9,\)"),
        ({"model.layers.0.mlp.up_proj.weight": None}, "lacks 1 tensors: model.layers.0.mlp.up_proj.weight"),
        ({"lm_head.weight": np.full((128, 48), 1e6, np.float32)}, "too large for F16"),
    ):
        changed = {key: array for key, array in (state | change).items() if array is not None}
        save_file(changed, tmp_path / "hf/model.safetensors")
        with pytest.raises(DataError, match=message):
            gguf_write.write_gguf(tmp_path / "hf", tmp_path / "m.gguf", "float16", KEYS, "m")
