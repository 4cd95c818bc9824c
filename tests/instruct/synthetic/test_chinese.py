"""The Chinese words: as rich as the English ones and of the same shape."""

from ecomgpt_jax.instruct.synthetic import chinese, english
from ecomgpt_jax.instruct.synthetic.products import fill_slots


def test_vocabulary_is_rich() -> None:
    """Exact, so that no lost value goes unnoticed."""
    tables = (*chinese.ATTRIBUTES.values(), *chinese.CATEGORIES.values())
    assert len({value for table in tables for listed in table.values() for value in listed.split(",")}) == 319


def test_the_shape_is_that_of_the_english_half() -> None:
    names = {name for name in vars(english) if name.isupper() and not name.startswith("_")}
    assert names <= set(vars(chinese))
    for name in ("CATEGORIES", "ATTRIBUTES", "COMPONENTS", "TOPICS", "FACTS", "INTENTS"):
        assert len(getattr(english, name)) == len(getattr(chinese, name)), name
    assert set(chinese.ATTRIBUTES) == set(chinese.CATEGORIES) == set(chinese.COMPONENTS)
    assert set(english.TYPES) - {"zip"} < set(chinese.TYPES)


def test_slots_are_known() -> None:
    slots = dict.fromkeys(("brand", "product", "component", "component2", "attribute", "attribute2"), "字")
    for pattern in chinese.SENTENCES:
        assert "<" not in fill_slots(pattern, slots, chinese.TYPES)[0]
    for topics in chinese.INTENTS.values():
        for messages, _ in topics.values():
            for message in messages.split("|"):
                text, spans = fill_slots(
                    message, dict.fromkeys(("order", "item", "date", "place"), "字"), chinese.TYPES
                )
                assert "<" not in text
                assert spans, message
