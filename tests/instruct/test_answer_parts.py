import time
from collections import Counter

import pytest
import tiny_tasks

from ecomgpt_jax.instruct.answer_parts import (
    UNREADABLE,
    gold_parts,
    located_parts,
    name_of,
    said_parts,
    split_known,
    split_type,
    tidy,
)
from ecomgpt_jax.instruct.records import Span
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, gold_answer


def names(text: str, *known: str, separator: str = ", ") -> list[str]:
    found = list(split_known(text, separator, known))
    assert all(0 <= start < end <= len(text) for _, start, end in found)
    return [name for name, _, _ in found]


def spanned(*spans: tuple[str, str], text: str = "") -> TaskRow:
    return TaskRow(text, spans=tuple(Span(0, 0, kind, term) for kind, term in spans))


@pytest.mark.parametrize(
    ("text", "known", "parts"),
    [
        ("Clothing, Shoes & Jewelry", ["Clothing, Shoes & Jewelry"], ["Clothing, Shoes & Jewelry"]),
        ("a, b, c", ["a, b", "c"], ["a, b", "c"]),
        ("c, a, b.", ["a, b", "c"], ["c", "a, b"]),
        ("a, b, c", ["a", "a, b", "a, b, c"], ["a, b, c"]),  # the longest
        ("a, b c", ["a, b"], ["a", "b c"]),  # not the whole part
        ("a, b", ["a, b, c"], ["a", "b"]),
        ("x, a, b , x", ["a, b"], ["x", "a, b", "x"]),
        ("  a, b  ", ["a, b"], ["a, b"]),
        ("b,, a", ["b,", "a"], ["b,", "a"]),
        ("b, , a", ["b, ", "a"], ["b,", "a"]),  # ends in the separator
        ("(x), a+b", ["(x), a+b", "(x)"], ["(x), a+b"]),  # no pattern
        ("yes , no ", ["yes ", "no "], ["yes", "no"]),
        ("yes, no", ["yes ", "no "], ["yes", "no"]),
        ("Co., Co", ["Co.", "Co"], ["Co.", "Co"]),  # the stop tells them apart
        ("Co, Inc.", ["Co.", "Inc"], ["Co.", "Inc"]),  # and costs nothing elsewhere
        ("3, 3.5, 35", ["3", "3.5", "35"], ["3", "3.5", "35"]),
        ("Price, price", ["Price", "price"], ["Price", "price"]),
        ("., ...", ["."], [".", ".."]),
        ("a, , ", ["a"], ["a"]),
        (" ", [" "], [" "]),
        ("", [""], []),
        ("a\u2028b, c\x0b", ["a\u2028b"], ["a\u2028b", "c"]),
    ],
)
def test_known_texts_are_matched_before_anything_is_split(text: str, known: list[str], parts: list[str]) -> None:
    assert names(text, *known) == parts
    assert names(text, *reversed(known)) == parts


def test_other_separators() -> None:
    assert names("a\nb\nc", "b\nc", separator="\n") == ["a", "b\nc"]
    assert names("new york paris", "new york", separator=" ") == ["new york", "paris"]
    assert names("x,,,a", "x,", "a", separator=",,") == ["x,", "a"]
    assert names("a.b.c", "a.b", separator=".") == ["a.b", "c"]


@pytest.mark.parametrize(
    ("line", "kinds", "found"),
    [
        ("size:EU: 42", ["size", "size:EU"], ("size:EU", " 42")),
        ("size: EU: 42", ["size", "size:EU"], ("size", " EU: 42")),
        ("size:EU", ["size", "size:EU"], ("size", "EU")),
        ("a: b: c: d", ["a", "a: b"], ("a: b", " c: d")),
        ("size:: 1", ["size:", "size"], ("size:", " 1")),
        (" Brand : Acme", ["Brand "], ("Brand", " Acme")),
        ("Other:x: y", ["size:EU"], ("Other", "x: y")),
        ("no colon", ["size"], ("no colon", "")),
        (": x", [""], ("", " x")),
    ],
)
def test_known_types_are_matched_before_the_colon(line: str, kinds: list[str], found: tuple[str, str]) -> None:
    assert split_type(line, kinds) == split_type(line, kinds[::-1]) == found


def test_gold_parts_are_the_rows_own() -> None:
    task = TaskFolder("EN-A-CLS-a", "", "", {"default": ("a", "b", "a, b")})
    row = TaskRow("", {"default": ("a", "b", "b")})
    assert gold_parts(task, row) == {("", "a"): 1, ("", "b"): 2}
    ner = TaskFolder("EN-A-NER-a", "", "", {"default": ("size:EU", "Brand ")})
    spans = [("size:EU", "4, 5"), ("Brand ", "Oak "), ("Brand ", "Oak"), ("Brand ", "None"), ("X", "y"), ("Brand ", "")]
    assert gold_parts(ner, spanned(*spans)) == {("size:EU", "4, 5"): 1, ("Brand", "Oak"): 1}


def test_an_ambiguous_answer_that_reads_like_the_gold_answer_is_right() -> None:
    task = TaskFolder("EN-A-CLS-a", "", "", {"default": ("a", "b", "c", "a, b")})
    row = tiny_tasks.labelled("", "a", "b", "c")
    for answer in ("a, b, c", "a, b, c.", "c, a, b"):
        assert said_parts(task, row, answer) == gold_parts(task, row)
    assert said_parts(task, row, "b, a, c") == gold_parts(task, row)
    assert said_parts(task, tiny_tasks.labelled("", "a, b"), "b, a") == {("", "b"): 1, ("", "a"): 1}
    assert said_parts(task, tiny_tasks.labelled("", "c"), "a, b") == {("", "a, b"): 1}


def test_terms_of_the_row_are_matched_whole_in_every_family_of_spans() -> None:
    row = spanned(("Part", "50% wool, 50% silk"), ("Part", "red"))
    for family, kind in (("Extract", ""), ("Condition_Extract", ""), ("NER", "Part")):
        task = TaskFolder(f"EN-A-{family}-a", "", "", {"default": ("Part",)})
        head = f"{kind}: " if kind else ""
        assert said_parts(task, row, gold_answer(task, row)) == {(kind, "50% wool, 50% silk"): 1, (kind, "red"): 1}
        said = said_parts(task, row, head + "red, 50% silk, 50% wool")
        assert said == {(kind, "red"): 1, (kind, "50% silk"): 1, (kind, "50% wool"): 1}
    joined = TaskFolder("EN-A-Condition_Extract-a", "", "", separator=";")  # the gold answer joins with ", " even so
    assert said_parts(joined, row, "red, 50% wool, 50% silk") == gold_parts(joined, row)


def test_lines_end_at_line_feeds_alone() -> None:
    task = TaskFolder("EN-A-NER-a", "", "", {"default": ("brand", "colour")})
    for mark in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r":
        row = spanned(("brand", f"Oak{mark}moor"), ("colour", "red"))
        assert said_parts(task, row, f"colour: red\nbrand: Oak{mark}moor") == gold_parts(task, row)
        assert said_parts(task, row, "brand: Oak\ncolour: red")["brand", "Oak"] == 1
        assert said_parts(task, row, f"brand: a{mark}colour: red") == {("brand", f"a{mark}colour: red"): 1}


def test_an_answer_without_parts_must_say_so_where_there_are_none() -> None:
    task, rows = tiny_tasks.PARTS
    nothing = rows[1]
    for answer in (gold_answer(task, nothing), "None", "None.", "Brand: None", "Part: None\n\nBrand: None. "):
        assert said_parts(task, nothing, answer) == Counter(), answer
    for answer in ("", " ", "🙂", "...", "Brand", "Colour: None", "Brand: None\nBrand: None", "\n"):
        assert said_parts(task, nothing, answer) == Counter([UNREADABLE]), answer
        assert said_parts(task, rows[0], answer) == Counter(), answer
    empty = TaskRow("x")
    assert said_parts(tiny_tasks.VALUES[0], empty, " ") == Counter()
    assert said_parts(tiny_tasks.VALUES[0], empty, ", ") == Counter([UNREADABLE])


def test_places_are_those_of_the_text() -> None:
    task = TaskFolder("EN-A-NER-a", "", "", {"default": ("size:EU", "Brand")})
    row = spanned(("size:EU", "4, 5"), ("Brand", "Oak"))
    text = "size:EU: 4, 5,  6. \n\nBrand: None, Oak"
    found = [(part, text[start:end]) for part, start, end in located_parts(task, row, text)]
    assert found == [(("size:EU", "4, 5"), "4, 5"), (("size:EU", "6"), "6"), (("Brand", "Oak"), "Oak")]


def test_names_and_tidy_texts() -> None:
    assert [name_of(text) for text in (" a. ", " ", "")] == ["a.", " ", ""]
    assert [tidy(text) for text in (" a. ", "。", " . ", "a..", " ", "好 。")] == ["a", "。", ".", "a.", "", "好"]


def test_long_answers_and_many_labels_are_read_fast() -> None:
    labels = tuple(f"group {number}, part {number % 7}" for number in range(3000))
    task = TaskFolder("EN-A-CLS-a", "", "", {"default": labels})
    row = tiny_tasks.labelled("", labels[-1])
    started = time.process_time()
    for answer in (", " * 5000, "a, " * 3000, "group 1, " * 1000, " " * 10_000, ", ".join(labels[:300])):
        said_parts(task, row, answer)
    assert time.process_time() - started < 10
