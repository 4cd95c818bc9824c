"""Tasks over category trees."""

import random

from ecomgpt_jax.instruct.records import AttributedItem
from ecomgpt_jax.instruct.tasks import taxonomy
from ecomgpt_jax.instruct.tasks.task import Dataset, Example, Form, bind

DATASET = Dataset(name="X", source="x", language="en", text=("category", "类目"))
PATHS = [
    ("Animals",),
    ("Animals", "Birds"),
    ("Animals", "Birds", "Cages"),
    ("Animals", "Cats", "Beds"),
    ("Animals", "Dogs", "Leads"),
    ("Home", "Kitchen", "Pans"),
    ("Home", "Bath", "Towels"),
]
RECORDS = [
    AttributedItem(id=str(i), group=str(i), language="en", title=path[-1], category=path)
    for i, path in enumerate(PATHS)
]


def made(form: Form, seed: int = 0) -> list[Example]:
    task = bind(form, DATASET)
    return list(task.examples(RECORDS, task.label_set(RECORDS), random.Random(seed)))


def test_path_and_its_reversal() -> None:
    assert made(taxonomy.PATH)[1][1:3] == ("Cages", "Animals > Birds > Cages")
    assert made(taxonomy.CHILD)[1][1:3] == ("Animals > Birds", "Cages")
    assert len(made(taxonomy.PATH)) == len(PATHS) - 1, "a root has no path"


def test_root_is_among_the_candidates() -> None:
    for example in made(taxonomy.ROOT):
        assert example.answer == PATHS[int(example.record_id)][0]
        assert set(example.candidates) == {"Animals", "Home"}


def test_only_the_parent_is_right() -> None:
    examples = [example for seed in range(5) for example in made(taxonomy.PARENT, seed)]
    assert examples
    for example in examples:
        path = PATHS[int(example.record_id)]
        assert set(example.candidates) & set(path) == {path[-2]} == {example.answer}
        assert set(example.candidates) <= set(taxonomy.parents_of(RECORDS, DATASET))


def test_kind_check_is_true_to_the_tree() -> None:
    answers = set()
    for seed in range(5):
        for example in made(taxonomy.IS_A, seed):
            path, broad = PATHS[int(example.record_id)], example.sentences.rsplit(": ", 1)[1]
            assert (broad in path[:-1]) == (example.answer == "yes")
            answers.add(example.answer)
    assert answers == {"yes", "no"}


def test_ordering_keeps_every_step() -> None:
    for example in made(taxonomy.ORDER):
        assert sorted(example.sentences.split("\n")) == sorted(example.answer.split(" > "))
        assert example.answer == " > ".join(PATHS[int(example.record_id)])
