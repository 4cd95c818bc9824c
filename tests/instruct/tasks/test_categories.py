"""Tasks that ask for a product's category."""

import random

from ecomgpt_jax.instruct.records import AttributedItem
from ecomgpt_jax.instruct.tasks import categories
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="en")
RECORDS = [
    AttributedItem(
        id=str(i),
        group=str(i),
        language="en",
        title=f"thing {i}",
        category=("Home", "Mugs") if i % 2 else ("Food", "Tea"),
        attributes=(("Size", ""), ("Color", "red")),
    )
    for i in range(20)
]


def test_coarse_is_the_root_and_fine_the_leaf() -> None:
    for form, labels in ((categories.COARSE, ("Food", "Home")), (categories.FINE, ("Mugs", "Tea"))):
        task = bind(form, DATASET)
        assert task.label_set(RECORDS) == labels
        assert [e.answer for e in task.examples(RECORDS[:2], labels, random.Random(0))] == sorted(
            labels, reverse=form is categories.FINE
        )


def test_items_are_written_with_title_and_given_attributes() -> None:
    example = next(bind(categories.FINE, DATASET).examples(RECORDS, ("Mugs", "Tea"), random.Random(0)))
    assert example.sentences == "thing 0\tColor: red"


def test_a_wrong_category_is_never_an_own_one() -> None:
    answers = set()
    for example in bind(categories.IN_CATEGORY, DATASET).examples(RECORDS, ("match", "not match"), random.Random(0)):
        category = example.sentences.rsplit("Category: ", 1)[1]
        assert (category in RECORDS[int(example.record_id)].category) == (example.answer == "match")
        answers.add(example.answer)
    assert answers == {"match", "not match"}
