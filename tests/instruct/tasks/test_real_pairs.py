"""Real sources with pairs."""

import random

from ecomgpt_jax.instruct.records import TextPair
from ecomgpt_jax.instruct.tasks import real_pairs

TASKS = {task.name: task for task in real_pairs.tasks()}


def test_grades_go_from_irrelevant_to_relevant() -> None:
    grades = real_pairs.HOME_DEPOT_GRADES
    order = [grades[key] for key in sorted(grades, key=float)]
    assert order == sorted(order, key=list(real_pairs.SCALE).index)
    task = TASKS["EN-Home_Depot-CLS-relevance"]
    record = TextPair(id="1", group="1", language="en", left="glue", right="Wood glue", label="2.67")
    (example,) = task.examples(task.select([record]), tuple(real_pairs.SCALE), random.Random(0))
    assert (example.answer, example.candidates) == ("relevant", ("irrelevant", "partly relevant", "relevant"))


def test_words_are_not_looked_for_in_chinese() -> None:
    assert "ZH-QBQTC-CLS-relevance" in TASKS
    assert not any(task.language == "zh" and task.form.name == "shared_words" for task in TASKS.values())


def test_a_part_of_the_different_offers_is_kept() -> None:
    records = [
        TextPair(
            id=str(i), group=str(i), language="en", left="a", right="b", label="same" if i % 10 == 0 else "different"
        )
        for i in range(500)
    ]
    labels = [record.label for record in TASKS["EN-Abt_Buy-CLS-matching"].select(records)]
    assert labels.count("same") == 50
    assert 100 < labels.count("different") < 220
