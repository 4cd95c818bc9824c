from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config
from ecomgpt_jax.model.model_card import adapter_card, model_card

RUN = {"data": "f" * 64, "total_steps": 9, "rows_per_step": 4}
SCORES = {
    "tasks": {"EN-A-CLS-b": {"rows": 3, "corrected": {"score": 0.5}, "official": {"rouge-l-f1": 0.25}}},
    "protocol": {"sha256": "abc123"},
}


def test_a_card_says_where_weights_come_from() -> None:
    config = Config(name="mine")
    config.model.init_from = "bigscience/bloomz-560m@0123"
    card = model_card(config_lib.to_dict(config), RUN, {"Lenovo": "MIT", "a|b": "x\ny"}, SCORES)
    for words in (
        "base_model: bigscience/bloomz-560m\n", "f" * 64, "| Lenovo | MIT |", "| a\\|b | x y |",
        '"learning_rate": 2e-05',         "abc123", "| EN-A-CLS-b | 3 | 0.500 | 0.250 |", "9 optimizer steps of 4 rows",
    ):  # fmt: skip
        assert words in card
    assert card.startswith("---\nlanguage: [en, zh]\n")
    assert '"rank": 0' in card
    assert "cache_dir" not in card
    assert "BLOOM, instruction-tuned for e-commerce" in card
    config.model.family = "gemma"
    gemma = model_card(config_lib.to_dict(config), RUN, {}, None)
    assert "tags: [gemma, e-commerce]" in gemma
    assert "Gemma 3, instruction-tuned" in gemma
    config.model.family = "bloom"
    config.data.plain_text, config.data.languages = True, ("en",)
    assert "language: [en]\n" in model_card(config_lib.to_dict(config), RUN, {}, None)
    assert "BLOOM, pretrained on texts of e-commerce" in model_card(config_lib.to_dict(config), RUN, {}, None)


def test_secrets_are_masked_and_missing_scores_said() -> None:
    token = "hf_" + "aB3" * 12
    config = Config(name=f"run {token}")
    config.model.init_from = f"https://user:{token}@host/x"
    card = model_card(config_lib.to_dict(config), RUN, {token: token}, None)
    assert token not in card
    assert "Not evaluated" in card


def test_the_card_of_adapters_names_their_base() -> None:
    config = Config(name="mine")
    config.model.init_from = "/data/base"
    card = model_card(config_lib.to_dict(config), RUN, {}, None)
    named = adapter_card(card, "/data/base", "owner/name")
    assert named.startswith("---\nlanguage: [en, zh]\nlibrary_name: peft\nbase_model: owner/name\npipeline_tag")
    assert "starting from owner/name." in named
    assert "/data/base" not in named
    local = adapter_card(card, "/data/base", "/data/base")
    assert local == card.replace("library_name: transformers", "library_name: peft")
    config.model.init_from = "bigscience/bloomz-560m@0123"
    hub = model_card(config_lib.to_dict(config), RUN, {}, None)
    assert adapter_card(hub, "bigscience/bloomz-560m@0123", "owner/name").count("base_model: ") == 1
    own = adapter_card(hub, "bigscience/bloomz-560m@0123", "bigscience/bloomz-560m@0123")
    assert "base_model: bigscience/bloomz-560m\n" in own
