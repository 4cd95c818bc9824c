"""The embedded catalogue: right spans, stable products, two languages of one shape."""

import pytest

from ecomgpt_jax.instruct.synthetic import products


@pytest.mark.parametrize("source", products.SOURCES)
def test_spans_and_groups(source: str) -> None:
    records = products.read(source, 40, 0)
    assert len({record.id + type(record).__name__ for record in records}) == len(records)
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert record.language == source[-2:]
        text = getattr(record, "text", getattr(record, "context", ""))
        spans = getattr(record, "spans", ())
        assert list(spans) == sorted(spans, key=lambda span: span.start)
        for span in spans:
            assert text[span.start : span.end] == span.term
            assert span.term


def test_aspects_and_opinions_stand_in_the_review() -> None:
    for language in products.WORDS:
        for record in products.read(f"synthetic_reviews_{language}", 40, 0):
            for item in record.tuples:
                assert item.aspect in record.text
                assert item.opinion in record.text


def test_a_product_does_not_depend_on_how_many_there_are() -> None:
    few = {record.id: record for record in products.read("synthetic_items_en", 10, 0)}
    many = {record.id: record for record in products.read("synthetic_items_en", 30, 0)}
    assert few.items() <= many.items()
    assert many != {record.id: record for record in products.read("synthetic_items_en", 30, 1)}


def test_evaluation_products_are_apart() -> None:
    groups = {record.group for record in products.read("synthetic_items_zh", 5, 0)}
    held_out = {group for group in groups if group.startswith(products.EVALUATION)}
    assert (len(groups - held_out), len(held_out)) == (5, products.EVALUATION_PRODUCTS)
