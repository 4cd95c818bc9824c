"""Tasks over labelled texts."""

import random

from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.tasks import classification
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="en", kind="intent", coarse="topic", rename={"refund": "get refund"})
RECORDS = [
    LabelledText(
        id=str(i),
        group=str(i),
        language="en",
        text=f"text {i}",
        labels={"intent": ("refund" if i % 2 else "cancel",), "topic": ("Money",)},
    )
    for i in range(20)
]
LABELS = ("cancel", "get refund")


def gold(record_id: str) -> str:
    return LABELS[int(record_id) % 2]


def test_labels_are_renamed_and_sorted() -> None:
    assert bind(classification.CLASSIFICATION, DATASET).label_set(RECORDS) == LABELS
    assert bind(classification.COARSE_CLASSIFICATION, DATASET).label_set(RECORDS) == ("Money",)


def test_classification() -> None:
    for example in bind(classification.CLASSIFICATION, DATASET).examples(RECORDS, LABELS, random.Random(0)):
        assert example.answer == gold(example.record_id)
        assert sorted(example.candidates) == sorted(LABELS)


def test_checks_and_comparisons_are_true() -> None:
    for example in bind(classification.LABEL_CHECK, DATASET).examples(RECORDS, ("yes", "no"), random.Random(0)):
        assert (example.sentences.endswith(f"Label: {gold(example.record_id)}")) == (example.answer == "yes")
    for example in bind(classification.SAME_LABEL, DATASET).examples(RECORDS, ("yes", "no"), random.Random(0)):
        other = example.sentences.rsplit("text ", 1)[1]
        assert other != example.record_id
        assert (gold(other) == gold(example.record_id)) == (example.answer == "yes")


def test_selection_has_one_right_text() -> None:
    for example in bind(classification.WHICH_LABELLED, DATASET).examples(RECORDS, (), random.Random(0)):
        *listed, label = example.sentences.split("\n")
        right = [line for line in listed if gold(line.rsplit(" ", 1)[1]) == label.removeprefix("Label: ")]
        assert [line.split(". ", 1)[1] for line in right] == [example.answer]


def test_comparisons_are_balanced_where_labels_are_not() -> None:
    skewed = [
        LabelledText(id=str(i), group=str(i), language="en", text=f"text {i}", labels={"intent": (label,)})
        for i, label in enumerate(["cancel"] * 190 + ["refund"] * 10)
    ]
    made = list(bind(classification.SAME_LABEL, DATASET).examples(skewed, ("yes", "no"), random.Random(0)))
    assert 0.35 < sum(example.answer == "no" for example in made) / len(made) < 0.65


def test_a_scale_stays_in_order() -> None:
    for example in bind(classification.RATING, DATASET).examples(RECORDS, LABELS, random.Random(0)):
        assert example.candidates == LABELS
        assert example.answer == gold(example.record_id)
