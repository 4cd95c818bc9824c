"""Real sources of products."""

import random

from ecomgpt_jax.instruct.records import AttributedItem
from ecomgpt_jax.instruct.tasks import real_items

TASKS = {task.name: task for task in real_items.tasks()}
COPY = AttributedItem(
    id="1",
    group="1",
    language="zh",
    title="",
    category=("裙",),
    attributes=(("风格", "复古"), ("颜色", "红色")),
    description="复古的连衣裙。",
)


def test_copy_is_written_from_attributes_without_a_title() -> None:
    task = TASKS["ZH-AdvertiseGen-Generate-description"]
    (example,) = task.examples([COPY], (), random.Random(0))
    assert (example.sentences, example.answer) == ("风格: 复古; 颜色: 红色", "复古的连衣裙。")
    assert task.operator == ""


def test_values_are_found_in_the_copy() -> None:
    (record,) = TASKS["ZH-AdvertiseGen_Values-NER-recognition"].select([COPY])
    assert [(span.type, span.term) for span in record.spans] == [("风格", "复古")]


def test_slots_have_readable_names() -> None:
    for slots in (real_items.LAPTOP_SLOTS, real_items.TV_SLOTS):
        assert len(set(slots.values())) == len(slots)
    record = AttributedItem(
        id="1",
        group="1",
        language="en",
        title="atlas 39",
        attributes=(("isforbusinesscomputing", "true"), ("pricerange", "budget")),
        description="the atlas 39 is a budget laptop.",
    )
    (example,) = TASKS["EN-RNNLG_Laptop_Facts-Generate-attribute_reading"].examples(
        TASKS["EN-RNNLG_Laptop_Facts-Generate-attribute_reading"].select([record]), (), random.Random(0)
    )
    assert example.answer == "name: atlas 39; for business computing: true; price range: budget"


def test_the_taxonomy_has_its_own_forms() -> None:
    names = {task.form.name for task in TASKS.values() if task.source == "en_google_taxonomy"}
    assert names == {
        "category_path", "root_category", "parent_category", "subcategory", "kind_check", "path_ordering",
    }  # fmt: skip
