"""Tasks over aspect tuples."""

import random

from ecomgpt_jax.instruct.records import AspectText, AspectTuple
from ecomgpt_jax.instruct.tasks import aspects
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="en", rename={"POS": "positive", "NEG": "negative"})
TUPLES = (AspectTuple("price", "Price", "fair", "POS"), AspectTuple("", "Look", "ugly", "NEG"))
RECORD = AspectText(id="1", group="1", language="en", text="the price is fair, but ugly", tuples=TUPLES)
OTHER = AspectText(
    id="2", group="2", language="en", text="price too high", tuples=(AspectTuple("price", "Price", "too high", "NEG"),)
)


def only(form: aspects.Form, *records: AspectText, labels: tuple[str, ...] = ()) -> aspects.Example:
    return next(bind(form, DATASET).examples(list(records), labels, random.Random(0)))


def test_tuples_leave_out_what_is_implicit() -> None:
    assert only(aspects.TUPLES, RECORD).answer == "price | Price | fair | positive\nLook | ugly | negative"


def test_parts_of_a_tuple() -> None:
    assert only(aspects.ASPECT_TERMS, RECORD).answer == "price"
    assert only(aspects.OPINION_TERMS, RECORD).answer == "fair, ugly"
    assert only(aspects.OPINION_OF_ASPECT, RECORD).answer == "fair"
    assert only(aspects.POLARITY_OF_ASPECT, RECORD, labels=("negative", "positive")).answer == "positive"
    assert only(aspects.TOPICS, RECORD, labels=("Look", "Price", "Use")).answer == "Price, Look"


def test_labels_are_shown_renamed() -> None:
    assert bind(aspects.POLARITY_OF_ASPECT, DATASET).label_set([RECORD]) == ("negative", "positive")


def test_review_selection_has_one_right_answer() -> None:
    example = only(aspects.WHICH_REVIEW, RECORD, OTHER)
    assert example.answer == RECORD.text
    assert example.sentences.endswith("Aspect: price, positive")


def test_wrong_pairs_are_wrong() -> None:
    seen = set()
    for seed in range(40):
        for example in bind(aspects.PAIRING, DATASET).examples([RECORD, OTHER], ("yes", "no"), random.Random(seed)):
            right = example.sentences.endswith("Opinion: fair" if example.record_id == "1" else "Opinion: too high")
            assert right == (example.answer == "yes")
            seen.add(example.answer)
    assert seen == {"yes", "no"}
