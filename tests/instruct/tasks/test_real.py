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
from ecomgpt_jax.instruct.chain_of_task import RECOMBINATION, REVERSAL, SIMPLIFICATION, derived
from ecomgpt_jax.instruct.choose import real_tasks
from ecomgpt_jax.instruct.contamination import normalise, texts_of
from ecomgpt_jax.instruct.records import AttributedItem, Record
from ecomgpt_jax.instruct.sources import all_sources

TASKS = real_tasks()
OPERATORS = (SIMPLIFICATION, REVERSAL, RECOMBINATION)
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


# Forms of the operators that are not derived, by the names of the data sets that lack something.
_OF_PAIRS = ("opinion_terms", "opinion_of_aspect", "pairing", "term_category", "topics")
_NO_DETAIL = ("text_writing", "same_label", "labelled_text_selection", "coarse_classification")
LEFT_OUT = {
    ("opinion_terms", "opinion_of_aspect", "pairing", "aspect_terms", "aspect_polarity", "term_category",
     "review_selection"): "ASAP",
    _OF_PAIRS: "MAMS TV_Tshirt Hu_Liu Product_Aspects",
    ("term_category", "topics"): "Restaurant_ACOS MEMD_Restaurant ASTE_Laptop DMASTE Dianping_ASTE",
    ("attribute_listing", "value_typing", "title_category", "category_check"): "Flipkart",
    ("attribute_listing", "value_typing", "title_category", "category_check", "title_writing", "title_from_category",
     "description"): "Walmart_Amazon_Brand",
    ("description",): "AE_110K OA_Mine",
    ("turn_function",): "Bitext",
    ("coarse_classification",): "Bank_Sentiment Walmart_Amazon_Category PriceRunner_Category Shopping_Category "
    "App_Category Alexa_Rating Amazon_Rating Amazon_Domain Amazon_Review_Category Clothing_Rating",
    ("coarse_classification", "text_writing"): "Product_Domain EPQA_Source HetPQA_Source",
    ("coarse_classification", "text_writing", "labelled_text_selection"): "RNNLG_Laptop_Act RNNLG_TV_Act",
    _NO_DETAIL: "Requested_Slot Beer_Style AmazonQA_Verdict",
    ("coarse_classification", "two_options"): "EPRSTMT Hotel_Reviews Waimai Shopping_Sentiment Alexa_Sentiment "
    "Clothing_Recommendation Pros_Cons",
    ("coarse_classification", "two_options", "same_label"): "AmazonQA_Type",
    ("coarse_classification", "two_options", "text_writing"): "ASAP_Rating",
    ("text_writing",): "DMASTE_Category Flipkart_Category Clothing_Class",
    ("answerable", "evidence", "evidence_selection"): "AmazonQA",
    ("evidence", "evidence_selection"): "EPQA HetPQA",
    ("composition",): "Bank_Comments",
    ("composition", "text_selection"): "Restaurant_Slots AdvertiseGen_Values RNNLG_Laptop_Values RNNLG_TV_Values",
    ("span_detection",): "Bitext_Slots",
    ("span_detection", "one_type", "span_typing", "type_listing"): "COTE_Dianping COTE_Mafengwo",
    ("type_listing", "composition", "text_selection"): "Grocery_Queries",
    ("shared_words",): "PriceRunner_Names QBQTC Clothing_Title SemiPQA",
    ("shared_words", "rewriting", "selection"): "EPQA_Evidence HetPQA_Evidence",
    ("shared_words", "rewriting", "selection", "pair_check"): "Review_Pairs",
}  # fmt: skip


def test_what_a_dataset_lacks_leaves_out_these_forms_and_no_others() -> None:
    """Review_Pairs has no derived task at all; data sets with neither are bound to single forms."""
    families = {task.dataset.name for task in TASKS if task.operator} | {"Review_Pairs"}
    found = {
        (base.dataset.name, form.name)
        for base in TASKS
        for form in (form for table in OPERATORS for form in table[base.form.record])
        if not base.operator and base.dataset.name in families and not base.dataset.feeds(form)
    }
    assert found == {(name, form) for forms, names in LEFT_OUT.items() for name in names.split() for form in forms}
    names = {task.name for task in TASKS}
    for base in (task for task in TASKS if task.dataset.lacks and not task.operator):
        assert not {task.name for task in derived(base)} - names


# What the records themselves show of a data set: need -> values, one of which is not empty.
SHOWN = {
    "aspects": lambda r: [t.aspect for t in r.tuples],
    "opinions": lambda r: [t.opinion for t in r.tuples],
    "categories": lambda r: [t.category for t in r.tuples],
    "description": lambda r: [r.description],
    "context": lambda r: [r.context],
    "answer spans": lambda r: r.spans,
    "turn functions": lambda r: r.turn_labels,
    "several spans": lambda r: r.spans[1:],
}


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(all_sources.SOURCES))
def test_what_a_dataset_lacks_is_what_its_records_do_not_have(source: str) -> None:
    records = records_of(source, sources())
    names = {task.name for task in TASKS}
    for base in TASKS:
        atomic = {task.name for task in derived(base)}
        if base.source != source or base.operator or not atomic or not atomic <= names:
            continue
        selected, kind = base.select(records), base.form.record
        needs = {need for table in OPERATORS for form in table[kind] for need in form.needs}
        missing = {need for need in needs & SHOWN.keys() if not any(any(SHOWN[need](r)) for r in selected)}
        if "several types" in needs and len({span.type for r in selected for span in r.spans}) < 2:
            missing.add("several types")
        assert missing == needs & (SHOWN.keys() | {"several types"}) & set(base.dataset.lacks), base.name


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
