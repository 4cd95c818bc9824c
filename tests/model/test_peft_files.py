import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ecomgpt_jax.config import LAYERS, LoraConfig, ModelConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model import decoder, lora
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.peft_files import is_other_base, is_peft, read_peft, save_peft
from tests.model import hf_cases
from tests.model.test_lora import LORA, MODEL, adapters

NAME = "adapter_model.safetensors"


def test_files_name_every_target_and_refuse_nan(tmp_path: Path) -> None:
    trained = adapters()
    save_peft(trained, MODEL, LORA, tmp_path, "bigscience/bloomz-560m")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    assert (config["r"], config["lora_alpha"]) == (4, 6.0)
    assert (config["use_rslora"], config["modules_to_save"]) == (False, None)
    wide = load_file(tmp_path / NAME)
    save_peft(trained, MODEL, LORA, tmp_path, "bigscience/bloomz-560m", "bfloat16")
    narrow = load_file(tmp_path / NAME)
    assert {name: array.dtype for name, array in narrow.items()} == dict.fromkeys(wide, jnp.dtype("bfloat16"))
    for name, array in narrow.items():
        np.testing.assert_array_equal(array, wide[name].astype(jnp.bfloat16))
    trained["blocks"]["qkv"]["lora_b"] = trained["blocks"]["qkv"]["lora_b"].at[0, 0].set(jnp.nan)
    with pytest.raises(DataError, match="qkv/lora_b"):
        save_peft(trained, MODEL, LORA, tmp_path, "")


@pytest.mark.parametrize("name", ["bloom", "qwen3", "gemma"])
@pytest.mark.parametrize("part", [slice(None), slice(1, 3)])
def test_what_is_written_is_read(name: str, part: slice, tmp_path: Path) -> None:
    model = MODEL if name == "bloom" else hf_cases.case_model(name)
    settings = LoraConfig(rank=3, alpha=5.0, targets=LAYERS[model.family][part])
    trained = adapters(settings, model)
    save_peft(trained, model, settings, tmp_path, "base")
    assert is_peft(tmp_path)
    found, expected = read_peft(tmp_path, model), lora.make_adapters(trained, settings)
    assert (found.scale, found.dropout, found.keys) == (expected.scale, 0.0, None)
    assert set(found.layers) == set(settings.targets)
    jax.tree.map(np.testing.assert_array_equal, found.layers, expected.layers)


@pytest.mark.parametrize("name", ["heads16_padded", "qwen3", "gemma"])
def test_adapters_that_peft_saved(name: str, tmp_path: Path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    ours, ids = hf_cases.case_model(name), np.random.default_rng(1).integers(4, 60, (2, 12))
    params = hf_cases.random_params(ours)
    save_hf(params, ours, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    targets = ["query_key_value", "dense_4h_to_h"] if ours.family == "bloom" else ["q_proj", "v_proj", "down_proj"]
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets)).eval()
    with torch.no_grad():
        for key, weight in theirs.named_parameters():
            if "lora_B" in key:
                weight.normal_(0, 0.1)
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    theirs.save_pretrained(tmp_path / "adapter")

    def logits(beside: lora.Adapters | None) -> np.ndarray:
        return np.asarray(decoder.logits(params, decoder.forward(params, jnp.asarray(ids), None, ours, beside), ours))

    found = logits(read_peft(tmp_path / "adapter", ours))
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(found - logits(None)).max() > 1e-2


def test_another_base_is_told_apart(tmp_path: Path) -> None:
    base = hf_cases.random_params(MODEL)
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), base)
    base, other = (jax.tree.map(jnp.asarray, params) for params in (base, hf_cases.random_params(MODEL, seed=1)))
    for recorded, expected in ((base, [False, True, True]), (narrow, [False, True, False]), (None, [False] * 3)):
        base_hash = content_hash(recorded) if recorded else ""
        save_peft(adapters(), MODEL, LORA, tmp_path, "base", base_hash=base_hash)
        assert [is_other_base(tmp_path, params) for params in (base, other, narrow)] == expected


def edit_config(**values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return edit


def edit_tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / NAME)
        change(tensors)
        save_file(tensors, folder / NAME)

    return edit


FIRST = "base_model.model.transformer.h.0.self_attention.dense.lora_B.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (edit_config(use_rslora=True), "use_rslora is True"), (edit_config(rank_pattern={"dense": 2}), "rank_pattern"),
        (edit_config(alpha_pattern={"dense": 2}), "alpha_pattern"), (edit_config(fan_in_fan_out=True), "fan_in_fan"),
        (edit_config(init_lora_weights="pissa_niter_4"), "changes the base"), (edit_config(use_dora=True), "use_dora"),
        (edit_config(modules_to_save=["lm_head"]), "modules_to_save"),
        (edit_config(alora_invocation_tokens=[1, 2]), "alora_invocation_tokens"),
        (edit_config(peft_type="IA3"), "peft_type"), (edit_config(r=0), "r is 0"), (edit_config(r=2), "has shape"),
        (edit_config(lora_alpha=None), "lora_alpha is None"),
        (edit_tensors(lambda tensors: tensors.pop(FIRST)), "is missing"),
        (edit_tensors(lambda tensors: tensors.clear()), "nothing is no adapter"),
        (edit_tensors(lambda tensors: tensors.update({f"{FIRST}.magnitude": np.ones(2)})), "magnitude is no adapter"),
        (edit_tensors(lambda tensors: tensors[FIRST].fill(np.inf)), "not finite"),
        (lambda folder: (folder / NAME).write_bytes(b"x"), "damaged or not a safetensors file"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), r"adapter_config\.json:1"),
    ],
)  # fmt: skip
def test_other_adapters_are_refused(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    save_peft(adapters(), MODEL, LORA, tmp_path, "base")
    read_peft(tmp_path, MODEL)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        read_peft(tmp_path, MODEL)


def test_a_model_of_other_width_and_a_missing_file(tmp_path: Path) -> None:
    save_peft(adapters(), MODEL, LORA, tmp_path, "base")
    with pytest.raises(DataError, match="has shape"):
        read_peft(tmp_path, ModelConfig(size="custom", embed=64, layers=2, heads=4, vocab_size=64))
    with pytest.raises(DataError, match="is no adapter of a kernel of this model's blocks"):
        read_peft(tmp_path, ModelConfig(size="custom", embed=32, layers=1, heads=4, vocab_size=64))
    (tmp_path / NAME).unlink()
    with pytest.raises(MissingInputError, match="not there"):
        read_peft(tmp_path, MODEL)
