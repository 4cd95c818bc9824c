"""Forms, datasets, candidates."""

import dataclasses
import random

import pytest

from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.tasks import classification, entities
from ecomgpt_jax.instruct.tasks.task import (
    MATCH,
    Dataset,
    binary_example,
    bind,
    distinct,
    numbered,
    others,
    show,
    words,
)


def test_many_candidates_are_sampled_with_the_gold_ones() -> None:
    labels = tuple(f"label {i}" for i in range(200))
    sizes = set()
    for seed in range(40):
        shown = show(labels, labels[:2], random.Random(seed))
        assert set(labels[:2]) <= set(shown)
        sizes.add(len(shown))
    assert sizes == {8, 50}


def test_nouns_fill_the_wordings_of_both_languages() -> None:
    dataset = Dataset(
        name="X", source="x", language="en", text=("product title", "商品标题"), label=("brand", "brands", "品牌")
    )
    task = bind(entities.RECOGNITION, dataset)
    assert task.wordings["en"][0].startswith(
        "### Instruction:\n{sentences}\nExtract the brands {label_set} from the product"
    )
    assert all("商品标题" in text for text in task.wordings["zh"])


def test_fixed_labels_may_be_of_another_language() -> None:
    assert Dataset("X", "zh_x", fixed_labels="en").in_language(MATCH) == MATCH["en"]
    assert Dataset("X", "zh_x").in_language(MATCH) == MATCH["zh"]


def test_unlabelled_records_are_passed_over() -> None:
    common = {"group": "1", "language": "en", "text": "x", "labels": {"k": ("a",)}}
    records = [LabelledText(id="1", **common), LabelledText(id="2", supervision="none", **common)]
    task = bind(classification.CLASSIFICATION, Dataset(name="X", source="x", language="en", kind="k"))
    assert [record.id for record in task.select(records)] == ["1"]


def test_others_come_from_other_groups() -> None:
    records = [LabelledText(id=str(i), group=str(i // 3), language="en", text="x", labels={}) for i in range(9)]
    for seed in range(20):
        found = others(records, 4, 2, random.Random(seed))
        assert len({record.id for record in found}) == len(found)
        assert not {record.group for record in found} & {"1"}
    assert others(records[:3], 0, 2, random.Random(0)) == []


@pytest.mark.parametrize(("items", "expected"), [("abab", ("a", "b")), ("", ())])
def test_distinct(items: str, expected: tuple[str, ...]) -> None:
    assert distinct(items) == expected


def test_a_dataset_takes_its_language_its_annotation_and_its_view() -> None:
    def record(id_: str, language: str = "en", supervision: str = "gold") -> LabelledText:
        return LabelledText(
            id=id_, group=id_, language=language, supervision=supervision, text=id_, labels={"k": ("a",)}
        )

    records = [record("1"), record("2", "zh"), record("3", supervision="pseudo"), record("4", supervision="weak")]
    plain = Dataset(name="X", source="x", language="en", kind="k")
    assert [r.id for r in bind(classification.CLASSIFICATION, plain).select(records)] == ["1", "4"]
    pseudo = dataclasses.replace(plain, supervision=("pseudo",))
    assert [r.id for r in bind(classification.CLASSIFICATION, pseudo).select(records)] == ["3"]
    late = dataclasses.replace(plain, view=lambda seen: [r for r in seen if r.id > "1"])
    assert [r.id for r in bind(classification.CLASSIFICATION, late).select(records)] == ["4"]


def test_spelling_is_for_labels_without_a_name() -> None:
    dataset = Dataset(name="X", source="x", language="en", rename={"A#B": "first", "C": ""}, spelling=words)
    assert [dataset.display_label(label) for label in ("A#B", "C", "D#E_F")] == ["first", "", "d e f"]


def test_the_article_fits_the_noun() -> None:
    dataset = Dataset(name="X", source="x", language="en", text=("address", "地址"))
    wordings = bind(entities.COMPOSITION, dataset).wordings["en"]
    assert any("Write an address" in text for text in wordings)
    assert not any("a address" in text for text in wordings)
    plain = Dataset(name="X", source="x", language="en", text=("title", "标题"))
    assert any("Write a title" in text for text in bind(entities.COMPOSITION, plain).wordings["en"])


def test_a_task_without_a_parent_is_a_base_task() -> None:
    plain = Dataset(name="X", source="x", language="en")
    task = bind(entities.COMPOSITION, plain)
    assert (task.operator, task.parent, task.form.make) == ("", "", entities.COMPOSITION.make)
    assert bind(entities.COMPOSITION, plain, parent="P").operator == "reversal"


def test_a_dataset_feeds_forms_that_need_nothing_it_lacks() -> None:
    plain = Dataset("X", "en_x")
    assert plain.language == "en"
    assert plain.feeds(entities.TYPE_LISTING)
    assert not Dataset("X", "zh_x", lacks=("choices",)).feeds(entities.TYPE_LISTING)
    assert not plain.feeds(classification.COARSE_CLASSIFICATION)
    assert Dataset("X", "en_x", coarse="topic").feeds(classification.COARSE_CLASSIFICATION)


def test_unknown_needs_and_languages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"choice: not in NEEDS .*choices"):
        Dataset("X", "en_x", lacks=("choice",))
    with pytest.raises(ValueError, match="opinion: not in NEEDS"):
        dataclasses.replace(entities.CHECK, needs=("opinion",))
    with pytest.raises(ValueError, match="language 'x' is neither"):
        Dataset("X", "x_y")


def test_one_of_two_labels_is_right_and_both_orders_are_shown() -> None:
    rng = random.Random(0)
    made = [binary_example("r", "text", ("yes", "no"), truth, rng) for truth in (True, False) * 20]
    assert [example.answer for example in made] == ["yes", "no"] * 20
    assert all(example.labels == (example.answer,) for example in made)
    assert {example.candidates for example in made} == {("yes", "no"), ("no", "yes")}


def test_a_list_has_a_number_a_line() -> None:
    assert numbered(["a", "b"]) == "1. a\n2. b"
