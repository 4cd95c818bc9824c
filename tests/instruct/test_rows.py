"""Rendering of examples, and what is dropped on the way."""

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.rows import FIELDS, Account, Rows, as_folder, as_row, row_of
from ecomgpt_jax.instruct.task_folder import gold_answer
from ecomgpt_jax.instruct.tasks import classification
from ecomgpt_jax.instruct.tasks.task import Dataset, Example, bind

TASK = bind(classification.CLASSIFICATION, Dataset(name="X", source="x", language="en", kind="mood"))


def record(number: int, text: str, label: str = "good") -> LabelledText:
    return LabelledText(id=str(number), group=str(number), language="en", text=text, labels={"mood": (label,)})


def made(texts: list[str], limit: int = 0, label: str = "good") -> tuple[list[dict[str, str]], Account]:
    account = Account()
    records = [record(number, text, label) for number, text in enumerate(texts)]
    found = Rows(DataConfig(), account).examples(TASK, records, (label, "bad"), "train", limit)
    return [row for _, row in found], account


def test_repeats_are_dropped_whatever_their_spelling() -> None:
    rows, account = made(["Nice mug!", "nice  MUG", "another", "ｎｉｃｅ mug"])
    assert len(rows) == 2
    assert account.dropped == {"duplicate": 2}


def test_texts_without_letters_are_told_apart() -> None:
    assert len(made(["!!!", "???", ":-)", "!!!"])[0]) == 3


def test_limit() -> None:
    texts = [f"text {i}" for i in range(20)]
    assert len(made(texts, limit=7)[0]) == 7
    assert made(texts, limit=7)[0] == made(texts)[0][:7]


@pytest.mark.parametrize(
    ("text", "label", "reason"), [("a\ud800", "good", "lone surrogate"), ("a", " ", "empty answer")]
)
def test_what_cannot_be_stored_or_learned_is_counted(text: str, label: str, reason: str) -> None:
    rows, account = made([text], label=label)
    assert (rows, account.dropped) == ([], {reason: 1})


def test_row_fields() -> None:
    row = row_of(TASK, Example("7", "{label_set} {x}", "good", ("good", "bad"), ("good",)), "{sentences}|{label_set}")
    assert tuple(row) == FIELDS
    assert row["prompt"].endswith("\n{label_set} {x}|good, bad")
    assert (row["response"], row["record_id"], row["source"]) == ("good", "7", "x")


def test_a_held_out_task_keeps_its_gold_answer() -> None:
    folder = as_folder(TASK, ("good", "bad"))
    example = Example("1", "text", "bad, good", ("good", "bad"), ("bad", "good"))
    assert gold_answer(folder, as_row(TASK, example)) == example.answer
    assert folder.labels == ("good", "bad")
