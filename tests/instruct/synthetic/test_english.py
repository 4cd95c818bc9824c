"""The English words: rich, and well formed."""

from ecomgpt_jax.instruct.synthetic import english
from ecomgpt_jax.instruct.synthetic.products import fill_slots


def test_vocabulary_is_rich() -> None:
    """Exact, so that no lost value goes unnoticed."""
    tables = (*english.ATTRIBUTES.values(), *english.CATEGORIES.values())
    assert len({value for table in tables for listed in table.values() for value in listed.split(",")}) == 319


def test_tables_agree() -> None:
    assert [len(leaves) for leaves in english.CATEGORIES.values()] == [6] * 6
    assert set(english.ATTRIBUTES) == set(english.CATEGORIES) == set(english.COMPONENTS)
    assert set(english.FASHION) < set(english.CATEGORIES)


def test_slots_are_known() -> None:
    slots = dict.fromkeys(("brand", "product", "component", "component2", "attribute", "attribute2"), "x")
    for pattern in english.SENTENCES:
        assert "<" not in fill_slots(pattern, slots, english.TYPES)[0]
    for topics in english.INTENTS.values():
        for messages, _ in topics.values():
            for message in messages.split("|"):
                text, spans = fill_slots(message, dict.fromkeys(("order", "item", "date", "place"), "x"), english.TYPES)
                assert "<" not in text
                assert spans, message
