"""Tasks over conversations."""

import random

from ecomgpt_jax.instruct.records import Dialogue
from ecomgpt_jax.instruct.tasks import dialogue
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="en", kind="intent")
RECORDS = [
    Dialogue(
        id=str(i),
        group=str(i),
        language="en",
        turns=(("Customer", f"question {i}"), ("Agent", f"reply {i}")),
        labels={"intent": ("ask",)},
        turn_labels=("request", "answer"),
    )
    for i in range(10)
]


def test_reply_and_message() -> None:
    reply = next(bind(dialogue.REPLY, DATASET).examples(RECORDS, (), random.Random(0)))
    assert (reply.sentences, reply.answer) == ("Customer: question 0\nAgent:", "reply 0")
    message = next(bind(dialogue.MESSAGE_WRITING, DATASET).examples(RECORDS, (), random.Random(0)))
    assert (message.sentences, message.answer) == ("Agent: reply 0", "question 0")


def test_labels() -> None:
    task = bind(dialogue.DIALOGUE_LABEL, DATASET)
    assert task.label_set(RECORDS) == ("ask",)
    for example in bind(dialogue.TURN_FUNCTION, DATASET).examples(RECORDS, ("answer", "request"), random.Random(0)):
        assert example.answer == ("answer" if "Agent: " in example.sentences else "request")


def test_the_right_reply_is_the_own_one() -> None:
    for example in bind(dialogue.REPLY_SELECTION, DATASET).examples(RECORDS, (), random.Random(0)):
        assert example.answer == f"reply {example.record_id}"
        assert example.sentences.count(f". {example.answer}") == 1
    for example in bind(dialogue.REPLY_CHECK, DATASET).examples(RECORDS, ("yes", "no"), random.Random(0)):
        assert example.sentences.endswith(f"reply {example.record_id}") == (example.answer == "yes")


def test_history_is_short() -> None:
    turns = [("A", str(i)) for i in range(50)]
    assert dialogue.transcript(turns).split("\n") == [f"A: {i}" for i in range(50 - dialogue.LATEST, 50)]
