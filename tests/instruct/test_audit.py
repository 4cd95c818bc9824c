"""The audit finds each planted fault and nothing in clean rows."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks

from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.instruct.audit import Finding, audit, audit_folder, audit_own_file
from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Row
from ecomgpt_jax.instruct.task_folder import TaskRow, write_task


def row(
    family: str = "CLS",
    prompt: str = "### Instruction:\nI like it\nMood? good, bad\n### Response:",
    response: str = "good",
    **fields: str,
) -> Row:
    base = {name: name for name in ROW_FIELDS}
    return base | {"family": family, "prompt": prompt, "response": response} | fields


CLEAN = [
    row(),
    row(response="good, bad"),
    row("NER", "### Instruction:\nAcme red mug\nBrand, Size\n### Response:", "Brand: Acme\nSize: None"),
    row("Condition_Extract", "### Instruction:\nAcme red mug\nBrand\n### Response:", "Acme, red"),
    row("NER", "### Instruction:\nsizes: 4, ratio 1: 2\na, a: b\n### Response:", "a: b: 4\na: ratio 1: 2, 4"),
    row(prompt="### Instruction:\nwarm\nPick: Shoes, Bags, Toys\n### Response:", response="Toys, Shoes, Bags"),
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
        (row("NER", CLEAN[2]["prompt"], "Brand: Size: blue"), "span 'Size: blue' is not in the text"),
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


def test_answers_are_split_at_the_separator_of_their_task() -> None:
    shop = "### Instruction:\n{}\nPick: a、b、c or Brand, Acme, Bolt\n### Response:"
    rows = [
        row(prompt=shop.format("pan"), response="c、a", task="shop"),
        row("NER", shop.format("two"), "Brand: Bolt; Acme", task="names"),
        row("Condition_Extract", shop.format("words"), "Bolt; Acme", task="names"),
        row(prompt=shop.format("pot"), response="c, a", task="shop"),
        row("NER", shop.format("one"), "Brand: Bolt, Acme", task="names"),
    ]
    found = list(audit({"train": rows}, separators={"shop": "、", "names": "; "}))
    assert [finding.split(" (record")[0] for finding in found] == [
        "train:4: shop: label 'c, a' is not among the candidates",
        "train:5: names: span 'Bolt, Acme' is not in the text",
    ]


def test_cut_answers_are_found_and_only_long_ones_are_tokenised() -> None:
    rows = [row("Generate", response="x" * size) for size in (9, 10, 20)]
    asked = []

    def tokens(response: str) -> int:
        asked.append(len(response))
        return len(response) // 2 + 1

    (finding,) = audit({"train": rows}, length=10, answer_tokens=tokens)
    assert re.match(r"train:3: .*the answer has 11 tokens, and a row of 10 cuts off its end", finding)
    assert asked == [10, 20]


def test_rows_of_plain_text_have_no_prompt() -> None:
    assert list(audit({"train": [row("Generate", prompt="", task="EN-Mine-Generate-plain_text")]})) == []


LEAK = "The staff was really friendly and the soup was hot."
EVALUATION = Exclusion([TaskRow(LEAK)])
GOOD = {"sentences": "Acme {red} drill", "spans": [{"start": 0, "end": 4, "type": "Brand", "term": "Acme"}]}
LABELLED = {"sentences": "fits well", "labels": {"default": ["Size"]}}


def line(base: dict[str, Any] = GOOD, **changes: object) -> bytes:
    return json.dumps({**base, **changes}, ensure_ascii=False).encode()


def span(**changes: object) -> list[dict[str, object]]:
    return [GOOD["spans"][0] | changes]


# kind -> (planted line, column, message); the NER task but for "label".
PLANTED: dict[str, tuple[bytes, int, str]] = {
    "invalid JSON": (b'{"sentences": "x" "spans": []}', 19, "Expecting ',' delimiter"),
    "GBK": ('{"sentences": "红色"}'.encode("gbk"), 16, "not UTF-8 at byte .* .looks like GBK"),
    "Latin-1": (b'{"sentences": "caf\xe9"}', 19, "not UTF-8 at byte .* .looks like Latin-1"),
    "empty": (line(sentences=""), 15, "sentences is empty"),
    "10 MB line": (line(sentences="x" * 10 * 2**20), 1, "the line has 10,4.* bytes, more than 1,048,576"),
    "label": (line(LABELLED, labels={"default": ["Weight"]}), 38, "label 'Weight' is not in label_set.default"),
    "span off by one": (line(spans=span(start=1, end=5)), 55, "'Acme' differs from the text at 1:5, 'cme '"),
    "missing field": (b'{"sentences": "x"}', 1, "spans is missing"),
    "duplicate": (line(sentences="Acme text number 0"), 1, "the same row as .*train.json:1"),
    "NUL": (line(sentences="Acme a\0"), 15, r"sentences holds the character U\+0000 .NUL. at 6"),
    "lone surrogate": (b'{"sentences": "a\\ud800", "spans": []}', 17, "half of a surrogate pair"),
    "eval row planted": (line(sentences=LEAK, spans=[]), 15, "shares a text with an evaluation row"),
}


def planted(tmp_path: Path, kind: str) -> tuple[Path, int]:
    """Writes a clean task with one fault in the middle of its train.json; returns the file and the fault's line."""
    base, task = (LABELLED, tiny_tasks.TOPICS) if kind == "label" else (GOOD, tiny_tasks.PARTS)
    folder = write_task(tmp_path, *task).path
    lines = [line(base, sentences=f"Acme text number {i}") for i in range(30)]
    lines.insert(17, PLANTED[kind][0])
    (folder / "train.json").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "train.json", 18


def faults(found: Iterable[object]) -> list[str]:
    return [finding.text for finding in found if isinstance(finding, Finding) and finding.fault]


@pytest.mark.parametrize("kind", PLANTED)
def test_a_fault_planted_in_a_task_folder_is_found_with_its_place(tmp_path: Path, kind: str) -> None:
    path, number = planted(tmp_path, kind)
    _, column, message = PLANTED[kind]
    (finding,) = faults(audit_folder(tmp_path, EVALUATION))
    assert finding.startswith(f"{path}:{number}:{column}: "), finding
    assert re.search(message, finding), finding
    others = [other for name, (_, _, other) in PLANTED.items() if name != kind]
    assert not any(re.search(other, finding) for other in others)  # each kind has a message of its own
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:17] + lines[18:]))
    assert faults(audit_folder(tmp_path, EVALUATION)) == []  # without the fault there is no finding


# kind -> message, in a file of one's own in the instruction form
OWN = {
    "invalid JSON": (b'{"instruction": "x" "output": "y"}', "Expecting ',' delimiter"),
    "GBK": ('{"output": "红色"}'.encode("gbk"), "looks like GBK"),
    "Latin-1": (b'{"output": "caf\xe9"}', "looks like Latin-1"),
    "empty": (b'{"instruction": "x", "output": ""}', "output is empty, so no token would be supervised"),
    "10 MB line": (b'{"output": "' + b"x" * 10 * 2**20 + b'"}', "the line has 10,4"),
    "missing field": (b'{"instruction": "x"}', "no field 'output'"),
    "duplicate": (b'{"instruction": "say 3", "output": "3"}', r"the same prompt and response as mine\.jsonl:4"),
    "NUL": (b'{"instruction": "a\\u0000", "output": "y"}', r"'instruction' holds the character U\+0000 .NUL."),
    "lone surrogate": (b'{"instruction": "a\\udc00", "output": "y"}', "half of a surrogate pair"),
    "eval row planted": (json.dumps({"instruction": LEAK, "output": "y"}).encode(), "shares a text with"),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_fault_planted_in_an_own_file_is_found_with_its_place(tmp_path: Path, kind: str) -> None:
    lines = [json.dumps({"instruction": f"say {i}", "output": str(i)}).encode() for i in range(30)]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert faults(audit_own_file(str(path), EVALUATION)) == []
    path.write_bytes(b"\n".join([*lines[:17], OWN[kind][0], *lines[17:]]))
    (finding,) = faults(audit_own_file(str(path), EVALUATION))
    assert re.match(rf"{re.escape(str(path))}:18:\d+: .*{OWN[kind][1]}", finding), finding


def test_empty_and_broken_files_are_findings(tmp_path: Path) -> None:
    folder = write_task(tmp_path, *tiny_tasks.TOPICS).path
    (folder / "train.json").write_bytes(b"")
    assert faults(audit_folder(tmp_path)) == [f"{folder / 'train.json'}:1:1: the file is empty, no rows"]
    (folder / "train.json").write_bytes(line(LABELLED) + b"\n\n" + line(LABELLED, sentences="runs small"))
    assert faults(audit_folder(tmp_path)) == [f"{folder / 'train.json'}:2:1: the line is empty"]
    (folder / "train.json").unlink()
    (folder / "meta-info.json").write_text("{")
    (finding,) = faults(audit_folder(tmp_path))
    assert "meta-info.json:1:2: " in finding
    (tmp_path / "mine.jsonl").write_bytes(b"")
    assert "empty" in faults(audit_own_file(str(tmp_path / "mine.jsonl")))[0]
    with pytest.raises(MissingInputError):
        list(audit_folder(tmp_path / "nowhere"))


def test_a_row_of_the_own_test_file_is_a_fault_in_training_and_repeats_in_it_are_notes(tmp_path: Path) -> None:
    task, rows = tiny_tasks.TOPICS
    folder = write_task(tmp_path, task, (*rows, rows[0]), [TaskRow("TOO DEAR, for me!", {"default": ("Size",)})]).path
    found = [finding for finding in audit_folder(tmp_path) if isinstance(finding, Finding)]
    assert found == [
        Finding(f"{folder / 'test.json'}:5:1: the same row as {folder / 'test.json'}:1", fault=False),
        Finding(f"{folder / 'train.json'}:1:1: the same input as {folder / 'test.json'}:1"),
    ]


def test_labels_that_are_hard_to_read_in_an_answer_are_found(tmp_path: Path) -> None:
    task, rows = tiny_tasks.TOPICS
    labels = ("Price", "Price ", "Size", "Colour", "Size, Colour", "Clothing, Bags", " ", "Co.", "price")
    where = (
        f"{write_task(tmp_path, dataclasses.replace(task, label_set={'default': labels}), rows).path}/meta-info.json"
    )
    found = [finding for finding in audit_folder(tmp_path) if isinstance(finding, Finding)]
    assert found == [
        Finding(f"{where}: label_set.default: {text}", fault)
        for text, fault in (
            ("labels 'Price' and 'Price ' differ in blanks at the ends only; they score as one", True),
            ("label 'Size, Colour' reads like the labels 'Size', 'Colour' in one answer", True),
            ("label 'Clothing, Bags' holds the separator ', '; official scores split it there", False),
            ("label ' ' is blank", True),
        )
    ]


def test_a_prompt_that_runs_into_its_answer_is_noted(tmp_path: Path) -> None:
    task, rows = tiny_tasks.TOPICS
    write_task(tmp_path, dataclasses.replace(task, template="{sentences} {label_set}"), rows)
    (note,) = (each for each in audit_folder(tmp_path) if isinstance(each, Finding))
    assert not note.fault
    assert "meta-info.json: test_prompt.instruction does not end with '### Response:'" in note.text


def test_types_that_are_hard_to_read_in_an_answer_are_found(tmp_path: Path) -> None:
    task, rows = tiny_tasks.PARTS
    kinds = ("Brand", "Part", "size:EU", "size: US", "two\nlines", "a, b")
    where = f"{write_task(tmp_path, dataclasses.replace(task, label_set={'en': kinds}), rows).path}/meta-info.json"
    found = [finding for finding in audit_folder(tmp_path) if isinstance(finding, Finding)]
    assert found == [
        Finding(f"{where}: label_set.en: type 'size: US' holds ': '; official scores cut it there", False),
        Finding(f"{where}: label_set.en: type 'two\\nlines' holds a line break, and a line of the answer is one type"),
    ]


def test_offsets_of_extracts_count_where_most_are_right(tmp_path: Path) -> None:
    task, _ = tiny_tasks.CHOICE
    rows = [tiny_tasks.spanned(f"Query: {i}\nCandidate: pot {i}.", ("", f"pot {i}")) for i in range(5)]
    moved = [TaskRow(r.sentences, spans=(r.spans[0].__class__(0, 9, "", r.spans[0].term),)) for r in rows]
    write_task(tmp_path / "a", task, [*rows[:4], moved[4]])
    assert len(faults(audit_folder(tmp_path / "a"))) == 1
    write_task(tmp_path / "b", task, moved)  # as in the release, where they say nothing
    assert faults(audit_folder(tmp_path / "b")) == []


@pytest.mark.skipif("ECOMGPT_EVAL" not in os.environ, reason="needs the released tasks")
def test_no_false_alarm_on_the_released_tasks() -> None:
    found = list(audit_folder(os.environ["ECOMGPT_EVAL"]))
    assert faults(found) == []
    assert sum(isinstance(row, TaskRow) for row in found) == 6500
    assert sum(isinstance(row, Finding) for row in found) == 29  # rows that the release itself repeats


def test_fields_that_are_not_read_are_notes_of_an_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "completion": "b", "id": 1}\n{"prompt": "c", "completion": "d", "id": null}\n')
    found = [finding for finding in audit_own_file(str(path)) if isinstance(finding, Finding)]
    assert found == [Finding(f"{path}: ignores id (1 records)", fault=False)]
