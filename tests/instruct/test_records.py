import dataclasses

import pytest

from ecomgpt_jax.instruct import records
from ecomgpt_jax.instruct.records import Record, Span, SpannedText

KINDS = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Record)]


def test_there_is_a_record_for_each_kind_of_annotation() -> None:
    assert {kind.__name__ for kind in KINDS} == {
        "Record", "LabelledText", "SpannedText", "AspectText", "TextPair", "AttributedItem", "Question", "Dialogue",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_says_where_it_belongs(kind: type[Record]) -> None:
    assert {"id", "group", "language"} <= {field.name for field in dataclasses.fields(kind)}


def test_records_do_not_change() -> None:
    record = SpannedText(id="1", group="1", language="en", text="red shirt", spans=(Span(0, 3, "colour", "red"),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.text = "blue shirt"
    with pytest.raises((AttributeError, TypeError)):
        record.note = "x"
    assert all(record.text[span.start : span.end] == span.term for span in record.spans)
