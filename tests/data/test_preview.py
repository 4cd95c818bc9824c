import re

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data.preview import preview
from ecomgpt_jax.data.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(["Is it red? yes", "红色"] * 9, 300, tmp_path_factory.mktemp("tokenizer") / "t")


def test_a_preview_shows_what_carries_loss(tokenizer: Tokenizer) -> None:
    text, count, tokens = preview("Is it red?", "yes\x1b", tokenizer, DataConfig(), colour=True)
    assert text == "Is it red?\x1b[32myes\\x1b\x1b[0m"
    asked, answered = (len(tokenizer.encode(part)) for part in ("Is it red?", "yes\x1b"))
    assert count == f"{asked + answered + 1} tokens, {answered + 1} with loss"
    before, after = tokens.split("|\x1b[32m")
    assert before.replace("|", "") == "Is it red?"
    assert after.count("[") == answered + 2
    assert after.endswith("[</s>]\x1b[0m")


def test_a_preview_of_plain_loss_partial_characters_and_long_prompts(tokenizer: Tokenizer) -> None:
    data = DataConfig(loss_on_prompt=True, length=4)
    text, count, tokens = preview("Is it red?", "茶", tokenizer, data, colour=False)
    assert text == "Is it red?茶"
    total = len(tokenizer.encode("Is it red?")) + len(tokenizer.encode("茶")) + 1
    assert count.startswith(f"{total} tokens, {total - 1} with loss; {total - 5} more than a row of 4")
    assert tokens.count("[") == total - 1
    assert re.search(r"\[<\d+>\]", tokens)
