import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny_tasks

from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.data.token_store import tokenize
from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.evaluation import likelihood
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, write_task
from tests.data.test_tokenizer import edited, with_template

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(ROOT / "configs/nano")


@pytest.fixture
def topics(tmp_path: Path) -> TaskPrompts:
    task, rows = tiny_tasks.TOPICS
    return build_prompts(write_task(tmp_path, task, rows))


def choose(
    part: TaskPrompts,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    chances: dict[str, float],
    prior: dict[str, float],
) -> dict[str, list[str]]:
    """Ranks with made-up log-probabilities: `chances` after a real prompt, `prior` after one whose input is empty."""
    asked = []

    def made_up(_p: object, _m: object, prompts: list, answers: list, **_: object) -> list[np.ndarray]:
        found = []
        for prompt, group in zip(prompts, answers, strict=True):
            text = tokenizer.decode(prompt)
            values = prior if not any(row.sentences in text for row in part.rows) else chances
            asked.append(text)
            assert all(ids[-1] == tokenizer.eos_id for ids in group), "the end token counts"
            found.append(np.array([values[tokenizer.decode(ids)] for ids in group]))
        return found

    monkeypatch.setattr(likelihood, "log_probabilities", made_up)
    chosen = likelihood.likeliest(None, None, tokenizer, part, EvalConfig())
    assert len(asked) == len(part.rows) + 1, "the empty prompt is the same for all rows"
    return chosen


def test_prompts_and_candidates_have_the_ids_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One begin token, none before a candidate, and no token across the border even where letters meet."""
    plain = load_tokenizer(ROOT / "configs/nano")
    tokenizer = load_tokenizer(edited(plain.directory, tmp_path / "t", with_template(["<s>"], [])))
    bos = tokenizer.backend.token_to_id("<s>")
    task = TaskFolder("EN-X-CLS-y", "y", "{sentences}{label_set}Ans", {"default": ("wer", "were")})
    part = build_prompts(write_task(tmp_path, task, [TaskRow("a", {"default": ("wer",)})]))
    asked = {}

    def kept(_p: object, _m: object, prompts: list, answers: list, **_: object) -> list[np.ndarray]:
        asked[tuple(prompts[0])] = answers[0]
        return [np.zeros(2) for _ in prompts]

    monkeypatch.setattr(likelihood, "log_probabilities", kept)
    likelihood.likeliest(None, None, tokenizer, part, EvalConfig())
    rows = [{"prompt": part.prompts[0], "response": label} for label in task.labels]
    store = tokenize(rows, "f", tokenizer, 512, tmp_path / "store")
    trained = [store.tokens[start:end].tolist() for start, end in itertools.pairwise(store.offsets)]
    ((prompt, answers),) = asked.items()
    assert [[*prompt, *answer] for answer in answers] == trained
    assert prompt[0] == bos
    assert bos not in [*prompt[1:], *answers[0], *answers[1]]
    assert tokenizer.encode("Answer") != [*tokenizer.encode("Ans"), *tokenizer.encode("wer")], "a border must matter"


def test_three_ways_of_counting_choose_three_labels(
    topics: TaskPrompts, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {label: len(tokenizer.encode(label)) + 1 for label in ("Price", "Size", "Colour")}
    long = max(lengths, key=lengths.get)
    short, other = sorted(set(lengths) - {long})
    chances = {short: -1.0, long: -1.1, other: -3.0}
    prior = {short: 0.0, long: 0.0, other: -5.0}
    found = choose(topics, tokenizer, monkeypatch, chances, prior)
    assert set(found["sum"]) == {short}
    assert set(found["prior"]) == {other}
    mean = min(chances, key=lambda label: -chances[label] / lengths[label])
    assert set(found["mean"]) == {mean}


def test_a_uniform_prior_changes_nothing(
    topics: TaskPrompts, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = {"Price": -2.0, "Size": -1.0, "Colour": -3.0}
    found = choose(topics, tokenizer, monkeypatch, chances, dict.fromkeys(chances, -7.0))
    assert found["prior"] == found["sum"] == ["Size"] * len(topics.rows)


def test_permuted_candidates_give_the_same_answer(
    topics: TaskPrompts, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = {"Price": -2.0, "Size": -1.0, "Colour": -3.0}
    turned = dataclasses.replace(topics, shown=(("Colour", "Size", "Price"),) * len(topics.rows))
    assert choose(turned, tokenizer, monkeypatch, chances, chances)["sum"] == ["Size"] * len(topics.rows)


def test_letters_are_ranked_and_labels_answer(
    topics: TaskPrompts, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lettered = build_prompts(topics.task, protocol="likelihood:letters")
    asked = []

    def made_up(_p: object, _m: object, prompts: list, answers: list, **_: object) -> list[np.ndarray]:
        asked.extend(
            (tokenizer.decode(prompt), [tokenizer.decode(ids) for ids in group])
            for prompt, group in zip(prompts, answers, strict=True)
        )
        return [np.array([-3.0, -1.0, -2.0])] * len(prompts)

    monkeypatch.setattr(likelihood, "log_probabilities", made_up)
    found = likelihood.likeliest(None, None, tokenizer, lettered, EvalConfig())
    assert found["sum"] == [labels[1] for labels in lettered.shown]
    assert len(set(found["sum"])) > 1
    assert all(names == ["A", "B", "C"] and "A. " in prompt for prompt, names in asked)


@pytest.mark.parametrize("labels", [(), ("",), ("a", "a")])
def test_candidates_that_cannot_be_ranked_are_refused(
    topics: TaskPrompts, tokenizer: Tokenizer, labels: tuple[str, ...]
) -> None:
    part = dataclasses.replace(topics, shown=(labels,) * len(topics.rows))
    with pytest.raises(DataError, match="cannot be ranked"):
        likelihood.likeliest(None, None, tokenizer, part, EvalConfig())
