import os

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import choose
from ecomgpt_jax.instruct.label_space import NEAR, means, nearness, spaces_of
from ecomgpt_jax.instruct.task_folder import TaskFolder

TOPICS = ("Food", "Service", "Price", "Ambience")


@pytest.mark.parametrize(
    ("own", "held_out", "same"),
    [
        ("food quality", "Food", True),
        ("prices", "Price", True),
        ("品牌", "商品品牌", True),
        ("商品", "商品名", True),
        ("Component", "Product", False),
        ("seafood", "Food", False),
        ("色", "颜色", False),
        ("", "Food", False),
    ],
)
def test_labels_that_mean_the_same(own: str, held_out: str, same: bool) -> None:
    assert means(own, held_out) is same


def test_nearness() -> None:
    assert nearness(TOPICS, TOPICS) == 1
    assert nearness(("food quality", "service speed", "prices", "place"), TOPICS) == pytest.approx(0.75)
    assert nearness((*TOPICS, *(f"label {i}" for i in range(96))), TOPICS) < NEAR  # a large set that holds them all
    assert nearness(("red", "blue", "green"), TOPICS) == 0
    assert nearness(("match", "not match"), ("match", "not match")) == 0  # an answer, not a label space


def test_translations_count_and_other_grains_do_not() -> None:
    sets = {"en": ("a", "b"), "zh": ("甲", "乙"), "fine": ("c", "d", "e")}
    assert spaces_of(TaskFolder("EN-A-NER-x", "x", "{sentences}", sets, "en")) == [("a", "b"), ("甲", "乙")]
    assert spaces_of(TaskFolder("EN-A-Extract-x", "x", "{sentences}")) == []


@pytest.mark.slow
@pytest.mark.skipif(not {"ECOMGPT_SOURCES", "ECOMGPT_EVAL"} <= set(os.environ), reason="needs sources and evaluation")
def test_what_is_near_in_the_real_sources() -> None:
    assert sorted(choose.near_sources(DataConfig(mixture="real"))) == [
        "en_query_segmentation",
        "zh_advertise_gen",
        "zh_ecommerce_ner",
    ]
