"""Every task of the embedded catalogue: its wordings, its examples, its answers."""

import collections
import random

import pytest

from ecomgpt_jax.instruct.choose import real_tasks
from ecomgpt_jax.instruct.instructions import check_template
from ecomgpt_jax.instruct.records import AttributedItem, Question
from ecomgpt_jax.instruct.synthetic import products
from ecomgpt_jax.instruct.task_folder import task_fields
from ecomgpt_jax.instruct.tasks import synthetic
from ecomgpt_jax.instruct.tasks.task import OPERATORS, Example

Made = dict[str, tuple[list[Example], tuple[str, ...]]]
TASKS = synthetic.tasks()
ALL = TASKS + real_tasks()


@pytest.fixture(scope="module")
def examples() -> Made:
    made = {}
    sources = {name: products.read(name, 60, 0) for name in products.SOURCES}
    for task in TASKS:
        selected = task.select(sources[task.source])
        labels = task.label_set(selected)
        made[task.name] = list(task.examples(selected, labels, random.Random(7))), labels
    return made


def test_names_are_unique_and_well_formed() -> None:
    assert len({task.name for task in ALL}) == len(ALL)
    for task in ALL:
        fields = task_fields(task.name)
        assert (fields["language"].lower(), fields["family"]) == (task.language, task.family)
        assert task.operator in ("", *OPERATORS)


def test_a_held_out_task_has_one_prompt_and_its_own_name() -> None:
    kept = {task.name: task for task in TASKS if task.held_out}
    task = kept["ZH-Fashion_Titles-Condition_Extract-attribute_value_detection"]
    prompt = "Detect all attribute value about {label_set} in the sentence. "
    assert task.wordings == {"en": (f"### Instruction:\n{{sentences}}\n{prompt}\n### Response:",)}
    assert (task.definition, task.dataset.rename["品牌"]) == ("attribute value detection", "")
    assert task.parent == "ZH-Fashion_Titles-NER-attribute_value_extraction"


def test_numbers_of_tasks() -> None:
    held_out = [task for task in TASKS if task.held_out]
    training = [task for task in TASKS if not task.held_out]
    assert len(held_out) == 12
    assert len(training) == 198
    assert collections.Counter(task.language for task in training) == {"en": 101, "zh": 97}
    assert collections.Counter(task.operator for task in training) == {
        "": 28, "simplification": 85, "reversal": 29, "recombination": 56
    }  # fmt: skip
    assert collections.Counter(task.family for task in training) == {
        "CLS": 89, "Extract": 54, "Generate": 31, "NER": 12, "Condition_Extract": 12
    }  # fmt: skip


def test_every_parent_is_a_task() -> None:
    names = {task.name for task in ALL}
    for task in ALL:
        if task.operator:
            assert task.parent in names, task.name


def test_at_least_four_wordings_in_each_language() -> None:
    for task in ALL:
        if task.held_out:
            assert {language: len(texts) for language, texts in task.wordings.items()} == {"en": 1}
            continue
        for language in ("en", "zh"):
            texts = task.wordings[language]
            assert len(set(texts)) == len(texts) >= 4, task.name
            places = {text.index("{sentences}") < len("### Instruction:\n") + 2 for text in texts}
            assert places == {True, False} or task.form.record is Question, f"{task.name}: input always in one place"


def test_wordings_are_valid_templates_with_all_nouns_filled() -> None:
    for task in ALL:
        open_answer = not task.form.labels([], task.dataset) and task.form.labels.__name__ == "no_labels"
        for language, texts in task.wordings.items():
            for text in texts:
                check_template(text, task.name)
                assert text.endswith("### Response:")
                assert "[text]" not in text
                assert "[label" not in text
                if open_answer:
                    assert "{label_set}" not in text
                else:
                    assert "{label_set}" in text, f"{task.name}: candidates are not shown"
                if language == "zh":
                    assert any("\u4e00" <= character <= "\u9fff" for character in text)


def test_held_out_prompts_have_the_released_layout() -> None:
    for task in TASKS:
        if task.held_out and task.family != "Generate":
            assert task.wordings["en"][0].startswith("### Instruction:\n")


def test_every_task_makes_examples(examples: Made) -> None:
    for name, (made, _) in examples.items():
        assert len(made) >= 5, name


def test_labels_are_among_candidates_and_in_the_answer(examples: Made) -> None:
    for task in TASKS:
        made, labels = examples[task.name]
        for example in made:
            assert example.answer.strip(), task.name
            assert set(example.labels) <= set(example.candidates), task.name
            assert len(set(example.candidates)) == len(example.candidates)
            if task.family == "CLS":
                assert example.labels
                assert example.answer == ", ".join(example.labels)
                assert set(example.candidates) <= set(labels)
                assert len(labels) >= 2
            else:
                assert example.spans or example.answer == "None", task.name


def test_spans_point_at_their_terms_and_answers_hold_them(examples: Made) -> None:
    for task in TASKS:
        for example in examples[task.name][0]:
            for span in example.spans:
                if span.end and task.form.record is not AttributedItem and task.form.name != "one_type":
                    assert example.sentences[span.start : span.end] == span.term, task.name
                if task.family in ("NER", "Condition_Extract", "Extract"):
                    assert span.term in example.answer, task.name


def test_ner_answers_have_a_line_for_each_candidate_in_order(examples: Made) -> None:
    for task in TASKS:
        if task.family == "NER":
            for example in examples[task.name][0]:
                kinds = [line.split(": ", 1)[0] for line in example.answer.split("\n")]
                assert kinds == list(example.candidates)


def test_binary_tasks_are_balanced(examples: Made) -> None:
    for task in TASKS:
        made, labels = examples[task.name]
        if len(labels) == 2 and task.operator == "recombination":
            counts = collections.Counter(example.answer for example in made)
            assert min(counts[label] for label in labels) >= 0.2 * len(made), (task.name, counts)


def test_examples_do_not_depend_on_the_clock() -> None:
    task = next(task for task in TASKS if task.name == "EN-Reviews-CLS-pairing")
    records = task.select(products.read(task.source, 30, 0))
    first, second = (list(task.examples(records, ("yes", "no"), random.Random("s"))) for _ in range(2))
    assert first == second
    assert first != list(task.examples(records, ("yes", "no"), random.Random("t")))
