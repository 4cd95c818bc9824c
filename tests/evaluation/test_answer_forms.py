import copy
import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_tasks

from ecomgpt_jax.data.token_bytes import lead
from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.evaluation import answer_forms
from ecomgpt_jax.evaluation.answer_forms import answer_form, constrain_answers
from ecomgpt_jax.evaluation.corrected_scores import format_error
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, candidates, gold_answer, load_tasks
from tests.data.test_token_bytes import sentencepiece

ROOT = Path(__file__).parents[2]
EVAL = os.environ.get("ECOMGPT_EVAL", "")
LIMIT = 164


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(ROOT / "configs/nano")


def made_up() -> list[TaskPrompts]:
    parts = []
    for task, rows in tiny_tasks.ALL:
        golds = tuple(gold_answer(task, row) for row in rows)
        parts.append(TaskPrompts(task, rows, ("",) * len(rows), golds))
    return parts


def refused_golds(parts: list[TaskPrompts], tokenizer: Tokenizer, limit: int = LIMIT) -> tuple[list[str], int]:
    """Returns the gold answers whose ids are not accepted, and how many are longer than the limit."""
    refused, long = [], 0
    answers = constrain_answers(parts, tokenizer, limit)
    golds = [gold for part in parts for gold in part.golds]
    for gold, answer in zip(golds, answers, strict=True):
        ids = tokenizer.encode(gold)
        if answer is None or len(ids) > limit:
            long += answer is not None
            continue
        try:
            for token in ids:
                assert token in answer.allowed(), gold
                answer.add(token)
            assert answer.complete, gold
        except (AssertionError, DataError):
            refused.append(gold)
    return refused, long


def test_gold_answers_of_every_family_are_accepted(tokenizer: Tokenizer) -> None:
    parts = made_up()
    assert {part.task.family for part in parts} >= {"CLS", "NER", "Extract", "Condition_Extract", "Generate"}
    assert refused_golds(parts, tokenizer) == ([], 0)


@pytest.mark.skipif(not EVAL, reason="ECOMGPT_EVAL is not set")
@pytest.mark.slow
def test_gold_answers_of_the_official_tasks_are_accepted(tokenizer: Tokenizer) -> None:
    parts = [build_prompts(task) for task in load_tasks(EVAL)]
    assert refused_golds(parts, tokenizer) == ([], 24 + 22)  # NER and spans of Lenovo


def test_a_gold_answer_of_another_row_is_refused(tokenizer: Tokenizer) -> None:
    """The negative control: shades of other rows are candidates, spans of other inputs are not."""
    for part in made_up():
        if part.task.family in ("Extract", "Condition_Extract", "NER"):
            turned = dataclasses.replace(part, golds=part.golds[1:] + part.golds[:1])
            assert refused_golds([turned], tokenizer)[0], part.task.name


TEXTS = ("red", "red cab", "cab: red", "红", "é, red", "(red")
SOURCE = "(red cab) é: red\n红 cab"
SPANS = ("red cab", "red", "cab) é", "红", "é: red", "(red")


@pytest.mark.parametrize("kind", ["nano", "dummy blank", "no dummy blank"])
def test_answers_are_accepted_as_tokenizers_write_them_first_and_after_a_separator(kind: str, tmp_path: Path) -> None:
    nano, blank = kind == "nano", kind == "dummy blank"
    found = load_tokenizer(ROOT / "configs/nano") if nano else sentencepiece(tmp_path / "t", blank)
    assert lead(found) == (" " if blank else "")
    for terms, family, labels in ((TEXTS, "CLS", {"default": TEXTS}), (SPANS, "Extract", {})):
        golds = tuple(", ".join(pair) for pair in (*zip(terms), *itertools.permutations(terms, 2)))
        rows = (TaskRow(SOURCE, {"default": TEXTS[:1]} if labels else {}),) * len(golds)
        part = TaskPrompts(TaskFolder(f"EN-X-{family}-y", "y", "", labels), rows, golds, golds)
        assert refused_golds([part], found) == ([], 0)
        # Terms that are encoded apart give other ids: the reason why the automaton runs on bytes.
        apart = [[index for piece in gold.split(", ") for index in found.encode(piece)] for gold in golds]
        assert any(ids != found.encode(gold) for ids, gold in zip(apart, golds, strict=True))


def test_a_byte_that_no_token_writes_alone_is_refused_before_decoding(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {index: text for index, text in answer_forms.token_bytes(tokenizer).items() if text != b"z"}
    monkeypatch.setattr(answer_forms, "token_bytes", lambda tokenizer: known)
    task, rows = tiny_tasks.TOPICS
    part = TaskPrompts(task, rows, ("",) * len(rows), ("",) * len(rows))
    with pytest.raises(DataError, match="EN-Shop-CLS-topic: the vocabulary has no token for the byte 0x7a"):
        constrain_answers([part], tokenizer, LIMIT)


def test_random_answers_have_no_format_error(tokenizer: Tokenizer) -> None:
    random, longest = np.random.RandomState(0), 0
    for part in made_up():
        for index, (row, empty) in enumerate(zip(part.rows, constrain_answers([part], tokenizer, 40), strict=True)):
            for _ in range(4 * (empty is not None)):
                answer, tokens = copy.copy(empty), []
                while ids := answer.allowed():
                    tokens.append(ids[random.randint(len(ids))])
                    answer.add(tokens[-1])
                    if answer.complete and random.rand() < 0.3:
                        break
                assert answer.complete
                text, shown = tokenizer.decode(tokens), candidates(part.task, index, row)
                assert not format_error(part.task, row, text, shown), (part.task.name, text)
                longest = max(longest, len(tokens))
    assert longest == 40, "some answer must have met the limit"


def test_a_frame_over_the_limit_is_refused_with_both_numbers(tokenizer: Tokenizer) -> None:
    task, rows = tiny_tasks.PARTS
    part = TaskPrompts(task, rows, ("",) * len(rows), ("",) * len(rows))
    least = len(tokenizer.encode("Brand: None\nPart: None"))
    assert constrain_answers([part], tokenizer, least)[0].allowed()
    answer, text = constrain_answers([part], tokenizer, least)[0], []
    while ids := answer.allowed():
        text.append(ids[-1])
        answer.add(ids[-1])
    assert (answer.complete, len(text)) == (True, least)
    assert not format_error(task, rows[0], tokenizer.decode(text), ())
    with pytest.raises(DataError, match=f"EN-Shop-NER-parts: .* has {least} tokens; the limit is {least - 1}"):
        constrain_answers([part], tokenizer, least - 1)


def test_a_row_without_a_form_is_named(tokenizer: Tokenizer) -> None:
    task, rows = tiny_tasks.VALUES
    rows = [rows[0], dataclasses.replace(rows[0], sentences=" ")]
    part = TaskPrompts(task, rows, ("",) * len(rows), ("",) * len(rows))
    with pytest.raises(DataError, match=rf"task {task.name}: .* \(row 1\); decode the task freely"):
        constrain_answers([part], tokenizer, 40)


def test_candidates_are_those_that_the_prompt_shows() -> None:
    task, rows = tiny_tasks.TOPICS
    assert answer_form(task, rows[0], ("Size", "Price")).labels == ("Size", "Price")
    for shown in ((), ("",), ("a", "a")):
        with pytest.raises(DataError, match="EN-Shop-CLS-topic: "):
            answer_form(task, rows[0], shown)
