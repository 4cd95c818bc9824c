import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from ecomgpt_jax.data.token_store import TokenStore, tokenize
from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ecomgpt_jax.errors import ConfigError

INSTANCES = [{"prompt": f"Which colour is item {n}? " * (n + 1), "response": f"red {n}"} for n in range(9)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [text for row in INSTANCES for text in row.values()]
    return train_tokenizer(texts, 320, tmp_path_factory.mktemp("tokenizer") / "trained")


def instance(store: TokenStore, index: int) -> list[int]:
    return store.tokens[store.offsets[index] : store.offsets[index + 1]].tolist()


def test_prompt_then_answer_then_eos(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = tokenize(INSTANCES, "f", tokenizer, 512, tmp_path)
    assert len(store) == len(INSTANCES)
    for index, row in enumerate(INSTANCES):
        prompt, answer = tokenizer.encode(row["prompt"]), tokenizer.encode(row["response"])
        assert instance(store, index) == [*prompt, *answer, tokenizer.eos_id]
        assert store.prompt_lengths[index] == len(prompt)
    assert store.positions.tolist() == [len(instance(store, index)) - 1 for index in range(len(store))]
    assert (store.cut_prompts, store.cut_answers) == (0, 0)


def test_answers_end_with_the_token_that_the_tokenizers_files_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = shutil.copytree(tokenizer.directory, tmp_path / "other")
    (other / "generation_config.json").unlink()
    (other / "tokenizer_config.json").write_text('{"eos_token": "<pad>", "pad_token": "</s>"}')
    store = tokenize(INSTANCES, "f", load_tokenizer(other), 512, tmp_path)
    assert {instance(store, index)[-1] for index in range(len(store))} == {3}
    assert 2 not in store.tokens


def test_what_is_too_long_is_cut_and_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": "a b c d e f g h", "response": "x"}, {"prompt": "a", "response": "y " * 40}]
    store = tokenize(rows, "g", tokenizer, 8, tmp_path)
    assert (store.cut_prompts, store.cut_answers) == (1, 1)
    assert store.positions.max() <= 8
    prompt = tokenizer.encode(rows[0]["prompt"])
    assert instance(store, 0) == [*prompt[-7:], *tokenizer.encode("x"), tokenizer.eos_id]
    assert instance(store, 1) == [*tokenizer.encode("a"), *tokenizer.encode(rows[1]["response"])[:8]]


def test_rows_that_the_beginning_of_each_prompt_fills_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """As a chat template does whose system prompt is as long as a short row."""
    chat = dataclasses.replace(tokenizer, prefix=tuple(range(4, 20)))
    for length in (9, 16):
        with pytest.raises(ConfigError, match=rf"data\.length={length} has no room for an answer.* same 16 tokens"):
            tokenize(INSTANCES, "f", chat, length, tmp_path)
    store = tokenize(INSTANCES, "f", chat, 17, tmp_path)
    assert store.positions.max() == 17
    assert (np.diff(store.offsets) - store.prompt_lengths).min() == 1


def test_the_second_time_nothing_is_tokenised(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokenize(INSTANCES, "f", tokenizer, 64, tmp_path)
    monkeypatch.setattr(Tokenizer, "encode_batch", None)
    again = tokenize(INSTANCES, "f", tokenizer, 64, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.tokens, first.tokens)
    with pytest.raises(TypeError):
        tokenize(INSTANCES, "other", tokenizer, 64, tmp_path)


def test_a_failure_leaves_nothing_and_the_next_run_clears_leftovers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    class Broken(list):
        def __getitem__(self, index: slice) -> list[dict]:
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="fire"):
        tokenize(Broken(INSTANCES), "f", tokenizer, 64, tmp_path)
    assert list(tmp_path.iterdir()) == []
    directory = tmp_path / f"tokens-{tokenize(INSTANCES, 'f', tokenizer, 64, tmp_path).fingerprint[:16]}"
    (directory / "store.json").unlink()
    directory.rename(tmp_path / f".{directory.name}.making-killed")
    tokenize(INSTANCES, "f", tokenizer, 64, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]
