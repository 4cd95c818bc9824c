"""Evaluation text is found in every disguise that leaves its letters alone, and only there."""

import os
from pathlib import Path

import pytest

from ecomgpt_jax.instruct import contamination
from ecomgpt_jax.instruct.contamination import Exclusion, normalise
from ecomgpt_jax.instruct.records import LabelledText, TextPair
from ecomgpt_jax.instruct.task_folder import TaskRow, load_tasks, read_rows

REVIEW = "The staff was really friendly. We will certainly come back for the grilled octopus with lemon!"
TITLE = "新豪轩门窗斯图加特78系统铝合金窗内开内倒落地窗断桥铝平开窗"
ROWS = [
    TaskRow(REVIEW),
    TaskRow(f"Query: 大落地窗\nCandidate Document: 包年陪伴式男士私人形象设计顾问穿搭, {TITLE}"),
    TaskRow(
        "Context: " + "A long context about nothing in particular which goes on. " * 3 + "\nQuestion: Why is it slow?"
    ),
]


@pytest.fixture(scope="module")
def exclusion() -> Exclusion:
    return Exclusion(ROWS)


def reason(exclusion: Exclusion, text: str) -> str:
    return exclusion.reason(LabelledText(id="1", group="1", language="en", text=text, labels={}))


def test_normalise() -> None:
    assert normalise("Ｔｈｅ  ½-Price_Café！") == "the12pricecafé"


def test_planted_copies_are_found(exclusion: Exclusion) -> None:
    assert reason(exclusion, REVIEW) == "text"
    assert reason(exclusion, REVIEW.upper().replace(" ", "\u3000")) == "text"
    assert reason(exclusion, "Nice! the STAFF was really friendly; nice.") == "sentence"
    assert reason(exclusion, f"说明：{TITLE[3:24]}，欢迎选购本店的其他商品") == "run"
    assert reason(exclusion, "appleiphone13pro max 128gb 断桥铝平开窗, " + TITLE[8:28]) == "run"
    assert reason(exclusion, "包年陪伴式男士私人形象设计顾问穿搭") == "text"
    assert reason(exclusion, "So why is it slow") == ""
    pair = TextPair(id="1", group="1", language="zh", left="窗", right=TITLE, label="")
    assert exclusion.reason(pair) == "text"


def test_what_is_merely_alike_stays(exclusion: Exclusion) -> None:
    assert reason(exclusion, "The staff was friendly. We will come back for the octopus!") == ""
    assert reason(exclusion, TITLE[:17]) == ""
    assert reason(exclusion, "大落地窗") == ""  # too short to prove anything
    assert reason(exclusion, "") == ""
    assert reason(exclusion, "!!!") == ""


def test_run_lengths_are_exact(exclusion: Exclusion) -> None:
    assert reason(exclusion, "换" * 9 + TITLE[4:21] + "了" * 9) == ""
    assert reason(exclusion, "换" * 9 + TITLE[4:22] + "了" * 9) == "run"
    kept = normalise(REVIEW)[30:]
    assert reason(exclusion, "zq" + kept[:59] + "zq") == ""
    assert reason(exclusion, "zq" + kept[:60] + "zq") in ("run", "")
    assert reason(exclusion, "zq" + normalise(REVIEW)[10:70] + "zq") == "run"


def test_released_rows_and_listed_overlaps_are_found() -> None:
    directory = os.environ.get("ECOMGPT_EVAL")
    if not directory:
        pytest.skip("ECOMGPT_EVAL is not set")
    exclusion = contamination.load_exclusion([directory])
    for task in load_tasks(directory):
        for row in read_rows(task, limit=50):
            if len(normalise(row.sentences)) >= contamination.SHORTEST:
                assert exclusion.reason_of_texts([row.sentences]), row.sentences
    lists = os.environ.get("ECOMGPT_OVERLAP")
    if lists:
        for path in Path(lists).glob("*.txt"):
            for line in path.read_text(encoding="utf-8").splitlines():
                assert exclusion.reason_of_texts([line]), f"{path.name}: {line}"
