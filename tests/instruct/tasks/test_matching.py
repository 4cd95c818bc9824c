"""Tasks over pairs of texts."""

import random

from ecomgpt_jax.instruct.records import TextPair
from ecomgpt_jax.instruct.tasks import matching
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="en", positive="same", pair=("Query", "Document"))
RECORDS = [
    TextPair(
        id=str(i),
        group=str(i),
        language="en",
        left=f"red mug {i}",
        right=f"mug {i} of clay",
        label="same" if i % 2 else "different",
    )
    for i in range(20)
]


def test_relation() -> None:
    task = bind(matching.RELATION, DATASET)
    assert task.label_set(RECORDS) == ("different", "same")
    example = next(task.examples(RECORDS, ("different", "same"), random.Random(0)))
    assert (example.sentences, example.answer) == ("Query: red mug 0\nDocument: mug 0 of clay", "different")


def test_only_positive_pairs_are_recombined() -> None:
    for form in (matching.SELECTION, matching.PAIR_CHECK, matching.REWRITING):
        made = list(bind(form, DATASET).examples(RECORDS, ("yes", "no"), random.Random(0)))
        assert made
        assert all(int(example.record_id) % 2 for example in made)


def test_selection_and_check_are_right() -> None:
    for example in bind(matching.SELECTION, DATASET).examples(RECORDS, (), random.Random(0)):
        assert example.answer == f"mug {example.record_id} of clay"
        assert example.answer in example.sentences
    for example in bind(matching.PAIR_CHECK, DATASET).examples(RECORDS, ("yes", "no"), random.Random(0)):
        assert example.sentences.endswith(f"mug {example.record_id} of clay") == (example.answer == "yes")


def test_shared_words() -> None:
    example = next(bind(matching.SHARED_WORDS, DATASET).examples(RECORDS[12:], (), random.Random(0)))
    assert example.answer == "mug, 12"


def test_shared_words_of_fields_are_those_of_the_values() -> None:
    sides = (("title", "Red mug"), ("price", "3")), (("title", "red pot"), ("price", "4"))
    texts = ["; ".join(f"{name}: {value}" for name, value in side) for side in sides]
    record = TextPair(
        id="1",
        group="1",
        language="en",
        left=texts[0],
        right=texts[1],
        label="same",
        left_attributes=sides[0],
        right_attributes=sides[1],
    )
    (example,) = bind(matching.SHARED_WORDS, DATASET).examples([record], (), random.Random(0))
    assert example.answer == "Red"


def test_grades_keep_the_order_of_the_scale() -> None:
    dataset = Dataset(
        name="X", source="x", language="en", rename={"same": "high", "half": "middle", "different": "low"}
    )
    for example in bind(matching.RELEVANCE, dataset).examples(RECORDS, ("high", "low"), random.Random(0)):
        assert example.candidates == ("high", "middle", "low")
        assert example.answer == ("high" if int(example.record_id) % 2 else "low")


def test_the_best_candidate_is_the_only_positive_one() -> None:
    asked = [
        TextPair(id=f"{q}{i}", group=str(q), language="en", left=f"query {q}", right=f"{q} text {i}", label=label)
        for q in range(3)
        for i, label in enumerate(("same", "different", "half", "same") if q else ("same", "same"))
    ]
    made = list(bind(matching.BEST, DATASET).examples(asked, (), random.Random(0)))
    assert {example.record_id for example in made} == {"10", "13", "20", "23"}, "query 0 has no distractor"
    for example in made:
        listed = [line.split(". ", 1)[1] for line in example.sentences.split("\n")[2:]]
        right = {record.right for record in asked if record.label == "same"}
        assert [text for text in listed if text in right] == [example.answer]


def test_conversion_goes_from_left_to_right() -> None:
    form = matching.conversion("title", "title writing")
    task = bind(form, DATASET)
    assert (task.name, task.definition) == ("EN-X-Generate-title", "title writing")
    example = next(task.examples(RECORDS, (), random.Random(0)))
    assert (example.sentences, example.answer) == ("red mug 1", "mug 1 of clay")
