"""llama.cpp answers with an adapter file as transformers does with the merged weights."""

import json
from pathlib import Path

import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

from ecomgpt_jax.errors import DataError  # noqa: E402
from ecomgpt_jax.model.gguf_adapter import modelfile, write_adapter  # noqa: E402
from tests.model.gguf_engine import PROMPTS, bloom, disagreements, engine_answers, written  # noqa: E402
from tests.model.gguf_files import CONFIGS, random_model  # noqa: E402


@pytest.mark.parametrize("name", ["bloom8", "llama"])
def test_an_adapter_acts_as_its_merged_weights_do(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = bloom(8) if name == "bloom8" else random_model(name)
    base = written(model, tmp_path)
    targets = ["query_key_value", "dense_4h_to_h"] if name == "bloom8" else ["q_proj", "k_proj", "down_proj"]
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets))
    with torch.no_grad():
        for key, weight in lora.named_parameters():
            if "lora_" in key:
                weight.copy_(0.3 * torch.randn_like(weight))
    lora.save_pretrained(tmp_path / "peft")
    write_adapter(tmp_path / "peft", json.loads((tmp_path / "hf/config.json").read_text()), tmp_path / "a.gguf")
    prompts = PROMPTS[20:28]
    answers = engine_answers(base, prompts, lora=tmp_path / "a.gguf")
    assert max(disagreements(lora.merge_and_unload(), prompts, answers), default=0) < 1e-3
    assert answers != engine_answers(base, prompts)
    described = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    (tmp_path / "peft/adapter_config.json").write_text(json.dumps(described | {"use_rslora": True}))
    with pytest.raises(DataError, match="use_rslora is True"):
        write_adapter(tmp_path / "peft", CONFIGS["llama"].to_dict(), tmp_path / "b.gguf")


def test_modelfile() -> None:
    text = modelfile("./model.gguf", "", ["</s>", "<|im_end|>"], 1024, False)
    assert text == (
        'FROM ./model.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 1024\nPARAMETER temperature 0\n'
        'PARAMETER stop "</s>"\nPARAMETER stop "<|im_end|>"\n'
    )
    assert modelfile("base", "./adapter.gguf", [], 96, True).splitlines()[:2] == ["FROM base", "ADAPTER ./adapter.gguf"]
