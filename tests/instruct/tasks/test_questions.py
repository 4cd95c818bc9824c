"""Tasks over questions and their contexts."""

import random

from ecomgpt_jax.instruct.records import Question, Span
from ecomgpt_jax.instruct.tasks import questions
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="en")
RECORD = Question(
    id="1",
    group="1",
    language="en",
    question="How heavy is it?",
    context="It is red. It weighs 2 kilos. Enjoy!",
    spans=(Span(21, 28, "weight", "2 kilos"),),
)


def test_answerable_counts_a_foreign_context_as_unanswerable() -> None:
    def record(number: int, fact: str) -> Question:
        context = f"It weighs {fact}. It is red."
        span = Span(10, 10 + len(fact), "weight", fact)
        return Question(
            id=str(number),
            group=str(number),
            language="en",
            question=f"How heavy is {number}?",
            context=context,
            spans=(span,),
        )

    records = [record(i, f"{i} kilos") for i in range(10, 60)]
    task = bind(questions.ANSWERABLE, Dataset(name="X", source="x", language="en"))
    for example in task.examples(records, ("yes", "no"), random.Random(1)):
        assert (f"weighs {example.record_id} kilos" in example.sentences) == (example.answer == "yes")


def test_extraction_keeps_offsets_into_the_input() -> None:
    (example,) = bind(questions.EXTRACTIVE_QA, DATASET).examples([RECORD], (), random.Random(0))
    (span,) = example.spans
    assert example.sentences[span.start : span.end] == example.answer == "2 kilos"


def test_evidence_is_the_sentence_with_the_answer() -> None:
    (example,) = bind(questions.EVIDENCE, DATASET).examples([RECORD], (), random.Random(0))
    assert example.answer == "It weighs 2 kilos."


def test_asking_is_answering_turned_round() -> None:
    (example,) = bind(questions.ASKING, DATASET).examples([RECORD], (), random.Random(0))
    assert example.answer == RECORD.question
    assert example.sentences.endswith("Answer: 2 kilos")


def test_no_context_is_exchanged_where_enough_questions_are_open() -> None:
    records = [
        Question(
            id=str(i), group=str(i), language="en", question=f"Q{i}?", context=f"Fact {i}.",
            answers=(f"Fact {i}",) if i % 2 else (),
        )
        for i in range(20)
    ]  # fmt: skip
    for example in bind(questions.ANSWERABLE, DATASET).examples(records, ("yes", "no"), random.Random(0)):
        assert f"Fact {example.record_id}." in example.sentences
        assert (example.answer == "yes") == bool(int(example.record_id) % 2)
