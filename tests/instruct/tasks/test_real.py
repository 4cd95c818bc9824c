"""The tasks of the real sources: their declarations, and their rows where the sources are available."""

import collections
import functools
import itertools
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from ecomgpt_jax.instruct import contamination, task_folder
from ecomgpt_jax.instruct.choose import real_tasks
from ecomgpt_jax.instruct.contamination import normalise, texts_of
from ecomgpt_jax.instruct.records import AttributedItem, Record
from ecomgpt_jax.instruct.sources import all_sources

TASKS = real_tasks()
HELD_OUT_DATASETS = {"ABSA", "Lenovo", "MEPAVE", "Multi_CPR", "OpenBG_Align", "Reddit_QA"}
# Sources that share texts with the official evaluation.
SHARING = (
    "en_amazonqa_appliances",
    "en_aste_v2",
    "en_epqa",
    "en_mams",
    "en_restaurant_acos",
    "en_subjqa",
    "en_womens_clothing_reviews",
    "zh_en_helpdesk_dialogues",
    "zh_jd_title_ner",
)


def test_numbers() -> None:
    """Exact, so that a lost task is noticed; add new ones here."""
    assert len({task.name for task in TASKS}) == len(TASKS) == 546
    assert collections.Counter(task.language for task in TASKS) == {"en": 390, "zh": 156}
    assert collections.Counter(task.operator for task in TASKS) == {
        "": 109, "simplification": 160, "reversal": 75, "recombination": 197, "pseudo_label": 5
    }  # fmt: skip
    assert collections.Counter(task.family for task in TASKS) == {
        "CLS": 263, "Extract": 155, "Generate": 95, "NER": 17, "Condition_Extract": 16
    }  # fmt: skip


def test_every_source_has_tasks_in_its_language() -> None:
    assert {task.source for task in TASKS} == set(all_sources.SOURCES)
    for task in TASKS:
        assert all_sources.SOURCES[task.source].language in (task.language, "zh+en")


def test_no_task_has_the_name_of_a_held_out_one() -> None:
    for task in TASKS:
        assert task_folder.task_fields(task.name)["dataset"] not in HELD_OUT_DATASETS


def test_restaurant_reviews_have_no_topic_labels_in_english() -> None:
    for task in TASKS:
        if task.language == "en" and "estaurant" in task.dataset.text[0]:
            assert task.form.name not in ("topics", "term_category", "topic_polarity"), task.name


def test_only_pseudo_label_tasks_read_a_models_labels() -> None:
    for task in TASKS:
        assert ("pseudo" in task.dataset.supervision) == (task.operator == "pseudo_label"), task.name
        assert "none" not in task.dataset.supervision


def sources() -> str:
    directory = os.environ.get("ECOMGPT_SOURCES")
    if not directory:
        pytest.skip("ECOMGPT_SOURCES is not set")
    return directory


@functools.cache
def records_of(source: str, directory: str) -> Sequence[Record]:
    return list(all_sources.read(all_sources.source(source), directory, verify=False))


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(all_sources.SOURCES))
def test_every_task_makes_examples(source: str) -> None:
    records = records_of(source, sources())
    for task in TASKS:
        if task.source != source:
            continue
        selected = task.select(records)
        labels = task.label_set(selected)
        shuffled = random.Random(0).sample(selected, len(selected))
        made = list(itertools.islice(task.examples(shuffled, labels, random.Random(0)), 500))
        assert len(made) >= 20, task.name
        for example in made:
            assert example.answer == example.answer.strip() != "", task.name
            assert example.sentences == example.sentences.strip() != "", task.name
            assert set(example.labels) <= set(example.candidates), task.name
            assert len(set(example.candidates)) == len(example.candidates) <= 50 or task.form.name == "topics"
            if task.family == "CLS":
                assert len(example.candidates) >= 2
                assert set(example.candidates) <= set(labels), task.name
                if task.language == "zh":
                    assert not all(label.isascii() for label in example.candidates), task.name
            for span in example.spans:
                if span.end and task.form.record is not AttributedItem and task.form.name != "one_type":
                    assert example.sentences[span.start : span.end] == span.term, task.name


@pytest.mark.slow
@pytest.mark.parametrize("source", SHARING)
def test_no_evaluation_text_is_left(source: str) -> None:
    """Looked for again, as whole texts and as sentences: inputs of evaluation rows, and listed texts if at hand."""
    directory = sources()
    evaluation = os.environ.get("ECOMGPT_EVAL")
    if not evaluation:
        pytest.skip("ECOMGPT_EVAL is not set")
    rows = [row for task in task_folder.load_tasks(evaluation) for row in task_folder.read_rows(task)]
    forbidden = {text for text in (normalise(row.sentences) for row in rows) if len(text) >= 15}
    if os.environ.get("ECOMGPT_OVERLAP"):
        listed = Path(os.environ["ECOMGPT_OVERLAP"], f"{source}.txt").read_text(encoding="utf-8").split()
        assert listed
        forbidden |= set(listed)
    exclusion = contamination.load_exclusion([evaluation])
    dropped = 0
    for record in records_of(source, directory):
        if exclusion.reason(record):
            dropped += 1
            continue
        for text in texts_of(record):
            parts = {normalise(part) for part in (text, *re.split(r"[.!?;。！？；\n]", text))}
            assert not parts & forbidden, record.id
    assert dropped
