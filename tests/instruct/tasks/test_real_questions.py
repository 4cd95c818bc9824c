"""Real sources of questions and conversations."""

import random

from ecomgpt_jax.instruct.records import Dialogue, Question
from ecomgpt_jax.instruct.sources import dialogues as sources
from ecomgpt_jax.instruct.tasks import real_questions

TASKS = {task.name: task for task in real_questions.tasks()}


def talk(language: str) -> Dialogue:
    return Dialogue(
        id="1",
        group="1",
        language=language,
        turns=(("customer", "It broke"), ("helpdesk", "Restart it")),
        labels={"customer satisfaction": ("-2",), "task accomplishment": ("2",)},
        turn_labels=("customer states the problem", "helpdesk gives the solution"),
    )


def test_each_language_reads_its_own_dialogues() -> None:
    talks = [talk("en"), talk("zh")]
    for language, labels, who in (
        ("EN", ("very dissatisfied", "fully solved"), "customer"),
        ("ZH", ("很不满意", "完全解决"), "顾客"),
    ):
        for name, label in zip(("Satisfaction", "Resolution"), labels, strict=True):
            task = TASKS[f"{language}-Helpdesk_{name}-CLS-dialogue_label"]
            (record,) = task.select(talks)
            (example,) = task.examples([record], (label, "x"), random.Random(0))
            assert example.answer == label
            assert example.sentences.startswith(f"{who}: It broke")


def test_every_turn_function_has_a_chinese_name() -> None:
    assert set(real_questions.TURN_FUNCTIONS) == set(sources.TURN_FUNCTIONS.values())


def test_community_answers_need_no_context() -> None:
    forms = {task.form.name for task in TASKS.values() if task.dataset.name == "AmazonQA"}
    assert forms == {"answering", "question_writing"}
    task = TASKS["EN-AmazonQA_Verdict-CLS-classification"]
    question = Question(
        id="1", group="1", language="en", question="Fits?", answers=("Yes.",), labels={"answer type": ("yes",)}
    )
    (example,) = task.examples(task.select([question]), ("no", "yes"), random.Random(0))
    assert (example.sentences, example.answer) == ("Question: Fits?\nAnswer: Yes.", "yes")


def test_grades_are_thinned_and_distractors_are_not() -> None:
    relevance = TASKS["EN-SemiPQA-CLS-relevance"].dataset
    ranking = TASKS["EN-SemiPQA-Extract-best_candidate"].dataset
    assert relevance.name == ranking.name
    assert relevance.view is not ranking.view
