"""The audit finds each planted fault and nothing in clean rows."""

import re

import pytest

from ecomgpt_jax.instruct.audit import audit
from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.rows import FIELDS, Row
from ecomgpt_jax.instruct.task_folder import TaskRow


def row(
    family: str = "CLS",
    prompt: str = "### Instruction:\nI like it\nMood? good, bad\n### Response:",
    response: str = "good",
    **fields: str,
) -> Row:
    base = {name: name for name in FIELDS}
    return base | {"family": family, "prompt": prompt, "response": response} | fields


CLEAN = [
    row(),
    row(response="good, bad"),
    row("NER", "### Instruction:\nAcme red mug\nBrand, Size\n### Response:", "Brand: Acme\nSize: None"),
    row("Condition_Extract", "### Instruction:\nAcme red mug\nBrand\n### Response:", "Acme, red"),
    row("Generate", response="anything at all"),
]


def test_clean_rows_raise_nothing() -> None:
    assert list(audit({"train": CLEAN})) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(prompt=" "), "prompt is empty"),
        (row(response="\n"), "response is empty"),
        (row(response="ugly"), "label 'ugly' is not among the candidates"),
        (row(response="good, ugly"), "label 'ugly'"),
        (row("NER", CLEAN[2]["prompt"], "Brand: Acmee\nSize: None"), "span 'Acmee' is not in the text"),
        (row("NER", CLEAN[2]["prompt"], "Colour: red"), "names no type"),
        (row("Condition_Extract", CLEAN[3]["prompt"], "Acme, blue"), "span 'blue'"),
        (row(prompt=CLEAN[0]["prompt"] + "\x00"), "U\\+0000"),
        (row("Generate", response="a\ud800"), "U\\+D800"),
        (CLEAN[0], "same prompt and response as train:1"),
        (
            row(prompt="### Instruction:\nThe staff was really friendly.\nMood? good, bad\n### Response:"),
            "evaluation row",
        ),
    ],
)
def test_planted_faults_are_found(bad: Row, message: str) -> None:
    exclusion = Exclusion([TaskRow("The staff was really friendly!")])
    (finding,) = audit({"train": CLEAN, "test": [bad]}, exclusion)
    assert finding.startswith("test:1: task: ")
    assert re.search(message, finding), finding
