"""Tasks over typed spans."""

import random

from ecomgpt_jax.instruct.records import Span, SpannedText
from ecomgpt_jax.instruct.tasks import entities
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

TEXT = "Acme red mug, Acme blue"
SPANS = (
    Span(0, 4, "Brand", "Acme"),
    Span(5, 8, "Color", "red"),
    Span(14, 18, "Brand", "Acme"),
    Span(19, 23, "Color", "blue"),
)
RECORD = SpannedText(id="1", group="1", language="en", text=TEXT, spans=SPANS)
DATASET = Dataset(name="X", source="x", language="en")


def test_recognition_answer_is_the_released_format() -> None:
    text = "Acme red mug"
    spans = (Span(0, 4, "Brand", "Acme"), Span(5, 8, "Color", "red"), Span(9, 12, "SKIP", "mug"))
    record = SpannedText(id="1", group="1", language="en", text=text, spans=spans)
    dataset = Dataset(name="X", source="x", language="en", rename={"SKIP": ""})
    task = bind(entities.RECOGNITION, dataset)
    labels = task.label_set([record])
    assert labels == ("Brand", "Color")
    (example,) = task.examples([record], (*labels, "Size"), random.Random(0))
    assert dict(line.split(": ") for line in example.answer.split("\n")) == {
        "Brand": "Acme",
        "Color": "red",
        "Size": "None",
    }


def test_detection_lists_each_term_once_in_order() -> None:
    (example,) = bind(entities.SPAN_DETECTION, DATASET).examples([RECORD], ("Brand", "Color"), random.Random(0))
    assert example.answer == "Acme, red, blue"
    assert example.spans == SPANS


def test_one_type_answers_none_for_an_absent_type() -> None:
    answers = set()
    for seed in range(60):
        task = bind(entities.ONE_TYPE, DATASET)
        (example,) = task.examples([RECORD], ("Brand", "Color", "Size"), random.Random(seed))
        answers.add((example.sentences.rsplit("Type: ", 1)[1], example.answer))
    assert answers == {("Brand", "Acme"), ("Color", "red, blue"), ("Size", "None")}


def test_typing_and_listing() -> None:
    (typed,) = bind(entities.TYPING, DATASET).examples([RECORD], ("Brand", "Color"), random.Random(0))
    term = typed.sentences.rsplit("Span: ", 1)[1]
    assert typed.answer == {"Acme": "Brand", "red": "Color", "blue": "Color"}[term]
    (listed,) = bind(entities.TYPE_LISTING, DATASET).examples([RECORD], ("Brand", "Color"), random.Random(0))
    assert listed.answer == "Brand, Color"


def test_composition_is_recognition_turned_round() -> None:
    (example,) = bind(entities.COMPOSITION, DATASET).examples([RECORD], (), random.Random(0))
    assert (example.sentences, example.answer) == ("Brand: Acme\nColor: red, blue", TEXT)


def test_false_claims_are_false() -> None:
    other = SpannedText(id="2", group="2", language="en", text="Zeta mug", spans=(Span(0, 4, "Brand", "Zeta"),))
    claims = set()
    for seed in range(60):
        for example in bind(entities.CHECK, DATASET).examples([RECORD, other], ("yes", "no"), random.Random(seed)):
            kind, term = example.sentences.rsplit("Claim: ", 1)[1].split(": ")
            spans = RECORD.spans if example.record_id == "1" else other.spans
            assert (example.answer == "yes") == any((s.type, s.term) == (kind, term) for s in spans)
            claims.add(example.answer)
    assert claims == {"yes", "no"}
