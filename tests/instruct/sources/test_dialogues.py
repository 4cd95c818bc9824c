import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

from ecomgpt_jax.instruct.records import Dialogue, LabelledText, SpannedText
from ecomgpt_jax.instruct.sources import dialogues

BITEXT = "instruction,intent,entity_type,entity_value,start_offset,end_offset,category,response\n"


def test_bitext(reading: Callable) -> None:
    rows = (
        'cancel order 0012300,cancel_order,order_id,123,13,18,ORDER,"Sure.\r\nDone {{Order}}."\n'
        "open a gold account,create_account,account_type,Gold,7,11,ACCOUNT,Ok.\n"
        "hello there,contact,,,,,CONTACT,Hi.\n"
        "open a gold account,create_account,account_type,Silver,7,11,ACCOUNT,Ok.\n"
    )
    records, log = reading("en_bitext_support", {"b.csv": BITEXT + rows})
    spanned = [r for r in records if isinstance(r, SpannedText)]
    assert [(s.type, s.term) for r in spanned for s in r.spans] == [("order id", "0012300"), ("account type", "gold")]
    assert isinstance(records[0], LabelledText)
    assert records[0].labels == {"intent": ("cancel_order",), "category": ("ORDER",)}
    assert isinstance(records[1], Dialogue)
    assert records[1].turns[1] == ("agent", "Sure.\nDone {{Order}}.")
    assert len({r.group for r in records[:3]}) == 1
    assert (log.rows, [bad.line for bad in log.bad]) == (4, [6])


def helpdesk(parts: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for part in dialogues.HELPDESK_PARTS:
            archive.writestr(part, json.dumps(parts.get(part, [])))
    return stream.getvalue()


def note(nugget: list[str], a: int) -> dict:
    return {"nugget": nugget, "quality": {"A": a, "S": 0, "E": 1}}


def test_helpdesk_majority_and_parallel_dialogues(reading: Callable) -> None:
    turns = [
        {"sender": "customer", "utterances": ["坏了\u200b", " "]},
        {"sender": "helpdesk", "utterances": [""]},
        {"sender": "helpdesk", "utterances": ["修", "好"]},
    ]
    votes = [
        note(["CNUG0", "HNaN", "HNUG*"], 1),
        note(["CNaN", "HNaN", "HNUG"], -1),
        note(["CNUG0", "HNaN", "HNUG*"], 1),
    ]
    parts = {
        "data/train_data_cn.json": [{"id": "7", "turns": turns, "annotations": votes}],
        "data/train_data_en.json": [{"id": "7", "turns": turns[:1], "annotations": votes}, {"id": "8"}],
        "data/test_data_en.json": [{"id": "9", "turns": turns[:1]}],
    }
    records, log = reading("zh_en_helpdesk_dialogues", {"data.zip": helpdesk(parts), "readme.md": "x"})
    assert records[0].turns == (("customer", "坏了"), ("helpdesk", "修\n好"))
    assert records[0].turn_labels == ("customer states the problem", "helpdesk gives the solution")
    assert records[0].labels["task accomplishment"] == ("1",)
    assert [r.language for r in records] == ["zh", "en", "en"]
    assert records[0].group == records[1].group != records[2].group
    assert (records[2].supervision, records[2].labels, records[2].turn_labels) == ("none", {}, ())
    assert (log.rows, [(bad.line, bad.file) for bad in log.bad]) == (4, [(2, "data/train_data_en.json")])


def test_slots_start_at_zero_when_upstream_says_nothing(reading: Callable) -> None:
    rows = [
        {
            "userInput": {"text": "two at 8 pm "},
            "context": {"requestedSlots": ["people", "first_name", "people"]},
            "labels": [
                {"slot": "time", "valueSpan": {"startIndex": 7, "endIndex": 12}},
                {"slot": "people", "valueSpan": {"endIndex": 3}},
            ],
        },
        {"userInput": {"text": "hi"}},
        {"userInput": {"text": "hi"}, "labels": [{"slot": "time", "valueSpan": {"endIndex": 9}}]},
    ]
    records, log = reading("en_restaurant_slots", {"test.json": json.dumps(rows)})
    assert [(s.start, s.type, s.term) for s in records[0].spans] == [(0, "people", "two"), (7, "time", "8 pm")]
    assert records[1].labels == {"requested": ("people", "first name")}
    assert records[2].spans == ()
    assert [bad.line for bad in log.bad] == [3]
