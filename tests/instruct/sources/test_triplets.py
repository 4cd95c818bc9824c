import json
from collections.abc import Callable

from ecomgpt_jax.instruct.records import AspectTuple, LabelledText


def test_inclusive_positions_and_implicit_aspects(reading: Callable) -> None:
    text = "The very big case is fine####[([3], [1, 2], 'NEG'), ([-1], [5], 'POS')]####Cell_Phones\n"
    records, log = reading("en_dmaste_triplets", {"phone/dev.txt": text, "Readme.md": "no"})
    assert records[0].tuples == (
        AspectTuple("case", "", "very big", "negative"),
        AspectTuple("", "", "fine", "positive"),
    )
    assert records[0].domain == "phone"
    assert isinstance(records[1], LabelledText)
    assert records[1].labels == {"domain": ("phone",), "category": ("Cell Phones",)}
    assert records[1].group == records[0].group
    assert (log.rows, log.bad) == (1, [])


def test_chinese_tokens_are_joined(reading: Callable) -> None:
    text = "\ufeff环 境 很 好 ，4 分 KFC####[((0, 1), (2, 3), 'Positive'), ((-1, -1), (4, 5), 'NEU')]\n"
    (record,), _ = reading("zh_dianping_aste", {"dev.txt": text})
    assert record.text == "环境很好，4分KFC"
    assert record.tuples == (AspectTuple("环境", "", "很好", "positive"), AspectTuple("", "", "，4分", "neutral"))
    assert record.domain == "餐厅"


def test_bad_triplets_are_rejected(reading: Callable) -> None:
    lines = [
        "a b####[([0], [2], 'POS')]",
        "a b",
        "a b####[([0], [1], 'GOOD')]",
        "a b####open('x')",
        "a b####[([], [0], 'POS')]",
    ]
    records, log = reading("en_dmaste_triplets", {"x/a.txt": "\n".join(lines)})
    assert not records
    assert [bad.line for bad in log.bad] == [1, 2, 3, 4, 5]
    assert log.rows == 5


def test_acos(reading: Callable) -> None:
    text = "the screen is ok\t1,2 DISPLAY#GENERAL 1 3,4\t-1,-1 LAPTOP#GENERAL 0 -1,-1\nbad one\t0,1 X 2 1,1\n"
    records, log = reading("en_laptop_acos", {"a.tsv": text})
    assert records[0].tuples == (
        AspectTuple("screen", "DISPLAY#GENERAL", "ok", "neutral"),
        AspectTuple("", "LAPTOP#GENERAL", "", "negative"),
    )
    assert [bad.line for bad in log.bad] == [2]


def quadruple(start: int, end: int, term: list[str]) -> dict:
    place = {"from": start, "to": end, "term": term}
    return {
        "aspect": place,
        "category": "Book#General",
        "opinion": {"from": -1, "to": -1, "term": ["NULL"]},
        "sentiment": "POS",
    }


def test_memd_positions_do_not_count_empty_words(reading: Callable) -> None:
    rows = [
        {"raw_words": "It  's a good book", "quadruples": [quadruple(4, 5, ["book"])]},
        {"raw_words": "a good book", "quadruples": [quadruple(1, 2, ["book"])]},
    ]
    records, log = reading("en_memd_absa", {"Books/Dev.json": json.dumps(rows)})
    assert records[0].tuples == (AspectTuple("book", "Book#General", "", "positive"),)
    assert records[0].text == "It 's a good book"
    assert records[0].domain == "books"
    assert [bad.line for bad in log.bad] == [2]
