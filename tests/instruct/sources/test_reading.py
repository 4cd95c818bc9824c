import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.instruct.records import AttributedItem, Draft, LabelledText, LeftOut, draft
from ecomgpt_jax.instruct.sources import reading
from ecomgpt_jax.instruct.sources.fields import labelled, spanned, tagged
from ecomgpt_jax.instruct.sources.reading import Source
from ecomgpt_jax.instruct.sources.rows import (
    Counted,
    conll_rows,
    csv_rows,
    filled_lines,
    json_array,
    json_lines,
)

PLACE = f"owner/repo@{'0' * 40}"


def shop(row: Any, file: str) -> Iterator[Draft]:
    """Raises as many kinds of error as rows that are not as declared make readers raise."""
    if row == "skip":
        raise LeftOut("wanted")
    yield draft(LabelledText, text=row, labels={})
    known = {"a!": 1, "A": 2}
    yield draft(AttributedItem, "item", title=row[0] * known[row], category=(row.split("!")[0],))


SOURCE = Source(name="en_shop", licence="MIT", place=PLACE, records=3, rows=filled_lines, record=shop)


def test_a_row_becomes_records_with_ids_one_group_and_a_language(reading: Callable) -> None:
    records, log = reading(SOURCE, {"x/a.txt": "a!\n\nA\n", "README.txt": "no", "b.md": "no", "c.py": "no"})
    assert [record.id for record in records] == ["x/a.txt:1", "x/a.txt:1#item", "x/a.txt:3", "x/a.txt:3#item"]
    assert len({record.group for record in records}) == 1
    assert {record.language for record in records} == {"en"}
    assert (log.rows, log.bad, dict(log.skipped)) == (2, [], {})


def test_a_malformed_row_is_listed_and_makes_no_record(reading: Callable) -> None:
    records, log = reading(SOURCE, {"a.txt": b"a!\nskip\nunknown\n\xff\nA\n"})
    assert [record.id for record in records] == ["a.txt:1", "a.txt:1#item", "a.txt:5", "a.txt:5#item"]
    assert dict(log.skipped) == {"wanted": 1}
    assert log.rows == 5
    assert [tuple(bad) for bad in log.bad] == [
        ("a.txt", 3, "'unknown' is missing or unknown", "unknown"),
        ("a.txt", 4, "not utf-8: invalid start byte", r"b'\xff'"),
    ]


LABELLED = functools.partial(labelled, text="review", labels={"mood": ("label", {"1": "good", "0": "bad"})})
SEMICOLONS = functools.partial(csv_rows, delimiter=";")
PLAIN_QUOTES = functools.partial(csv_rows, quoted=False)
NO_HEADER = functools.partial(csv_rows, columns=("review", "label"))
GB = functools.partial(csv_rows, encoding="gb18030")
WORDS = functools.partial(tagged, joiner=" ")
DOCCANO = functools.partial(spanned, text="data.text", spans="label", start=0, end=1, kind=2)
CONLL = "-DOCSTART- -X- O O\n\nred JJ B-NP S-colour\nmug NN I-NP O\n\ncup NN B-NP X-bad\n"
SPANS = (
    '{"data": {"text": "red mug"}, "label": [[0, 3, "colour"]]}\n{"data": {"text": "mug"}, "label": [[0, 9, "x"]]}\n'
)


@pytest.mark.parametrize(
    ("rows", "record", "file", "content", "made"),
    [
        (csv_rows, LABELLED, "a.csv", "review,label\nfine,1\nfine,7\n", {"mood": ("good",)}),
        (csv_rows, LABELLED, "a.csv", 'review,label\r\n"fine\nso",1\r\n\r\nshort\r\n', {"mood": ("good",)}),
        (csv_rows, LABELLED, "a.tsv", "review\tlabel\nfine, so\t1\nfine\t\n", {"mood": ("good",)}),
        (SEMICOLONS, LABELLED, "a.csv", "review;label\nfine, so;0\nx\n", {"mood": ("bad",)}),
        (PLAIN_QUOTES, LABELLED, "a.tsv", 'review\tlabel\n"fine\t1\n"x\n', {"mood": ("good",)}),
        (NO_HEADER, LABELLED, "a.csv", "fine,1\nfine,1,2\n", {"mood": ("good",)}),
        (GB, LABELLED, "a.csv", "review,label\n很好,1\n好,2\n".encode("gb18030"), {"mood": ("good",)}),
        (json_lines, LABELLED, "a.jsonl", '{"review": "x", "label": 1}\n{"review": "x"}\n', {"mood": ("good",)}),
        (json_lines, LABELLED, "a.jsonl", '{"review": "x", "label": 1}\n\n{"review": \n', {"mood": ("good",)}),
        (json_array, LABELLED, "a.json", '[{"review": "x", "label": "0"}, "review"]', {"mood": ("bad",)}),
        (json_array, LABELLED, "a.json", '# by\n# me\n[{"review": "x",\n"label": "0"}, "review"]', {"mood": ("bad",)}),
        (conll_rows, WORDS, "a.conll", CONLL, [(0, 3, "colour", "red")]),
        (json_lines, DOCCANO, "a.jsonl", SPANS, [(0, 3, "colour", "red")]),
    ],
)
def test_declared_forms_make_one_record_and_reject_one_row(
    rows: Callable, record: Callable, file: str, content: str | bytes, made: Any, reading: Callable
) -> None:
    (found,), log = reading(dataclasses.replace(SOURCE, rows=rows, record=record), {file: content})
    shown = found.labels if isinstance(found, LabelledText) else [dataclasses.astuple(span) for span in found.spans]
    assert shown == made
    assert (log.rows, len(log.bad)) == (2, 1)


@pytest.mark.parametrize("row", [None, 7, [], {}, {"text": None}, ("a", "b"), float("nan")])
def test_no_value_of_a_row_ends_a_reading(row: Any, reading: Callable) -> None:
    source = dataclasses.replace(SOURCE, rows=lambda path: [(1, row), (2, "A")])
    records, log = reading(source, {"a.txt": ""})
    assert [record.id for record in records] == ["a.txt:2", "a.txt:2#item"]
    assert [bad.line for bad in log.bad] == [1]


def test_rows_of_several_files_and_rows_that_upstream_counts_otherwise(reading: Callable) -> None:
    def joined(folder: Path, files: list[str]) -> Iterator[tuple[str, int, Any]]:
        assert files == ["a.txt", "b.txt"]
        yield "b.txt", 4, Counted(3, "A")
        yield "a.txt", 1, Counted(0, "skip")

    records, log = reading(dataclasses.replace(SOURCE, joined=joined), {"a.txt": "", "readme": "", "b.txt": ""})
    assert [record.id for record in records] == ["b.txt:4", "b.txt:4#item"]
    assert (log.rows, dict(log.skipped)) == (3, {"wanted": 1})


def test_only_guides_and_code_are_not_read(reading: Callable) -> None:
    files = dict.fromkeys(("README", "readme.rst", "x/Readme.md", "readme_reviews.txt", "a.md.txt"), "A\n")
    records, _ = reading(SOURCE, files)
    assert [record.id.partition("#")[0] for record in records[::2]] == ["readme_reviews.txt:1", "a.md.txt:1"]


def test_records_of_a_row_have_different_ids(reading: Callable) -> None:
    record = lambda row, file: [draft(LabelledText, text=row, labels={})] * (1 + (row == "twice"))  # noqa: E731
    records, log = reading(dataclasses.replace(SOURCE, record=record), {"a.txt": "once\ntwice"})
    assert [record.id for record in records] == ["a.txt:1"]
    assert [bad.reason for bad in log.bad] == ["two of its records have no name after the type: a.txt:2"]


def test_given_groups_languages_and_supervision_stay(reading: Callable) -> None:
    record = lambda row, file: [draft(LabelledText, text=row, labels={}, group="g", language="zh", supervision="weak")]  # noqa: E731
    records, _ = reading(dataclasses.replace(SOURCE, name="zh_en_shop", record=record), {"a.txt": "x\ny"})
    assert {(each.group, each.language, each.supervision) for each in records} == {("g", "zh", "weak")}


@pytest.mark.parametrize(("name", "language"), [("en_a", "en"), ("zh_en_a", "zh+en"), ("zh_enough", "zh")])
def test_a_name_begins_with_its_language(name: str, language: str) -> None:
    assert dataclasses.replace(SOURCE, name=name).language == language


@pytest.mark.parametrize("wrong", [{"name": "shop"}, {"name": "fr_shop"}, {"place": "o/r@main/data"}, {"place": "r"}])
def test_a_wrong_declaration_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="40 hex digits" if "place" in wrong else "begin with the language"):
        dataclasses.replace(SOURCE, **wrong)


def test_remote_places() -> None:
    source = dataclasses.replace(SOURCE, place=f"{PLACE}/data", renamed={"b": "x/z.zip!b"})
    assert [source.remote(file) for file in "ab"] == [
        f"owner/repo/{'0' * 40}/data/a",
        f"owner/repo/{'0' * 40}/x/z.zip!b",
    ]
    assert SOURCE.remote("a") == f"owner/repo/{'0' * 40}/a"


def test_text_group_folds_case_width_and_punctuation() -> None:
    assert reading.text_group("iPhone 8, 64GB!", "x") == reading.text_group("ＩＰＨＯＮＥ８　６４ｇｂ", "y")
    assert reading.text_group("iPhone 8", "x") != reading.text_group("iPhone 9", "x")
    assert reading.text_group("!?…", "file:1") == "file:1"


def test_text_group_does_not_depend_on_the_hash_seed() -> None:
    code = "from ecomgpt_jax.instruct.sources.reading import text_group as g; print(g('手机壳 X', ''))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "LC_ALL": "C", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert found == {reading.text_group("手机壳 X", "") + "\n"}
