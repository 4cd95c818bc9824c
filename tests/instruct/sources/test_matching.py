import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from ecomgpt_jax.instruct.records import AttributedItem, TextPair
from ecomgpt_jax.instruct.sources import all_sources, matching
from ecomgpt_jax.instruct.sources.reading import Source

NAMES = {"name": "title", "style": "style", "price": "price"}


def offers(**declared: Any) -> Source:
    record = functools.partial(matching.offers_compared, **declared)
    return dataclasses.replace(all_sources.source("en_match_beer"), record=record)


def line(left: list[tuple[str, str]], right: list[tuple[str, str]], label: str) -> str:
    sides = (" ".join(f"COL {name} VAL {value}" for name, value in side) for side in (left, right))
    return "\t".join((*sides, label)) + "\n"


A, A2, B, C = (
    [("name", n), ("style", "ale"), ("price", p)] for n, p in (("Ax", "1"), ("Ax!", ""), ("Bx", "2"), ("Cx", "3"))
)


def test_pairs_items_and_groups(reading: Callable) -> None:
    source = offers(names=NAMES, category="style")
    records, log = reading(source, {"train.txt": line(A, A2, "1") + line(A2, B, "0"), "test.txt": line(C, A, "0")})
    pairs = {r.id: r for r in records if isinstance(r, TextPair)}
    items = {r.title: r for r in records if isinstance(r, AttributedItem)}
    assert log.rows == 3
    assert not log.bad
    assert pairs["train.txt:1"].label == "same"
    assert pairs["train.txt:1"].left == "title: Ax; style: ale; price: 1"
    assert pairs["train.txt:1"].right == "title: Ax!; style: ale"
    assert pairs["train.txt:1"].right_attributes == (("title", "Ax!"), ("style", "ale"), ("price", ""))
    # what a positive pair connects is one cluster, also across files and whichever side it stands on
    assert pairs["train.txt:1"].group == pairs["train.txt:2"].group == items["Ax"].group == items["Ax!"].group
    assert pairs["test.txt:1"].group == items["Cx"].group != items["Ax"].group
    assert items["Ax"].category == ("ale",)
    assert items["Ax"].attributes == (("price", "1"),)
    assert len(items) == 4


def test_columns_without_a_name_are_left_out(reading: Callable) -> None:
    source = offers(names={"name": "title", "price": "price"})
    records, _ = reading(source, {"a.txt": line(A, B, "0")})
    assert "ale" not in "".join(str(record) for record in records)


def test_malformed_lines_are_rejected_with_their_place(reading: Callable) -> None:
    source = offers(names=NAMES)
    broken = "COL name VAL a\t1\n" + line(A, B, "2") + "no columns\tCOL name VAL b\t1\n" + line(A, B, "1")
    records, log = reading(source, {"a.txt": broken})
    assert [bad.line for bad in log.bad] == [1, 2, 3]
    assert log.rows == 4
    assert sum(isinstance(record, TextPair) for record in records) == 1


def test_offer_without_a_title_is_malformed(reading: Callable) -> None:
    records, log = reading(offers(names=NAMES), {"a.txt": line(A[1:], B, "1") + line(A, B, "0")})
    assert [bad.line for bad in log.bad] == [1]
    assert len(records) == 2  # an offer and a pair: the other offer was first met on the malformed line


def test_clean_title_takes_off_web_debris() -> None:
    raw = '"Canon EOS 70D (Body)"@en-US "DSLR | EISF"@en-US <br/> "Null"'
    assert matching.clean_title(raw) == "Canon EOS 70D (Body) DSLR | EISF"
    assert matching.clean_title("Nullarbor 5") == "Nullarbor 5"


@pytest.mark.parametrize(("raw", "clean"), [("` white house '", "white house"), (r"` mel \ 's '", "mel 's")])
def test_strip_quotes(raw: str, clean: str) -> None:
    assert matching.strip_quotes(raw) == clean


def test_raw_titles_have_no_items(reading: Callable) -> None:
    source = offers(names={"title": "title"}, clean=matching.clean_title)
    records, _ = reading(source, {"a.txt": 'COL title VAL  "A 1"@en\tCOL title VAL  "B 2" "Null"\t0\n'})
    assert [(r.left, r.right) for r in records] == [("A 1", "B 2")]
