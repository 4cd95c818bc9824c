"""The adapters in configs/smollm2_ecom: what they belong to, where they come from, what may be passed on."""

import json
import re
from pathlib import Path

from ecomgpt_jax.config import LAYERS, ModelConfig
from ecomgpt_jax.instruct.sources.all_sources import SOURCES
from ecomgpt_jax.model.peft_files import read_peft
from ecomgpt_jax.recipes import SHAPES

FOLDER = Path(__file__).parents[2] / "configs" / "smollm2_ecom"


def test_the_adapters_fit_their_base() -> None:
    adapters = read_peft(FOLDER, ModelConfig(size="custom", **SHAPES["smollm2_135m"]))
    assert set(adapters.layers) == set(LAYERS["llama"])
    assert adapters.scale == 2.0
    assert (FOLDER / "adapter_model.safetensors").stat().st_size <= 12e6
    described = json.loads((FOLDER / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_card_lists_sources_that_may_be_passed_on() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    sources = re.findall(r"^\| ((?:en|zh)_\w+) \| (.+) \|$", card, re.MULTILINE)
    assert len(sources) > 10
    for name, licence in sources:
        assert SOURCES[name].redistributable, name
        assert licence == SOURCES[name].licence
    assert "library_name: peft\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in card
    assert "license: apache-2.0\n" in card
    assert "language: [en]\n" in card


def test_no_file_names_a_place_on_a_machine() -> None:
    for file in FOLDER.iterdir():
        if file.suffix in (".md", ".json"):
            assert not re.search(r'"/|: /|/tmp|/home|/root', file.read_text(encoding="utf-8")), file
