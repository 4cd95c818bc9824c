"""Tasks over products with attributes."""

import random

from ecomgpt_jax.instruct.records import AttributedItem
from ecomgpt_jax.instruct.tasks import items
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="en")


def item(number: int, **attributes: str) -> AttributedItem:
    title = " ".join(value for value in attributes.values() if value) + " mug"
    return AttributedItem(
        id=str(number), group=str(number), language="en", title=title, attributes=tuple(attributes.items())
    )


def test_attributes_without_annotation_are_never_claimed_absent() -> None:
    record = AttributedItem(
        id="1", group="1", language="en", title="Acme red mug", attributes=(("Brand", "Acme"), ("Size", ""))
    )
    dataset = Dataset(name="X", source="x", language="en")
    (example,) = bind(items.EXTRACTION, dataset).examples([record], ("Brand", "Color", "Size"), random.Random(0))
    assert set(example.answer.split("\n")) == {"Brand: Acme", "Size: None"}


def test_values_not_given_are_never_shown() -> None:
    record = item(1, Brand="Acme", Size="")
    (example,) = bind(items.TITLE_WRITING, DATASET).examples([record], (), random.Random(0))
    assert (example.sentences, example.answer) == ("Brand: Acme", "Acme mug")


def test_a_fitting_attribute_list_is_the_title_s_own() -> None:
    records = [item(number, Brand=f"Acme{number}", Color=f"hue{number}") for number in range(30)]
    answers = set()
    for example in bind(items.FIT, DATASET).examples(records, ("match", "not match"), random.Random(0)):
        own = f"Brand: Acme{example.record_id}; Color: hue{example.record_id}" in example.sentences
        assert own == (example.answer == "match")
        answers.add(example.answer)
    assert answers == {"match", "not match"}


def test_selection_offers_the_answer_once() -> None:
    records = [item(number, Brand=f"Acme{number}") for number in range(10)]
    for example in bind(items.TITLE_SELECTION, DATASET).examples(records, (), random.Random(0)):
        assert example.sentences.split("Candidate Title: ")[1].split(", ").count(example.answer) == 1
