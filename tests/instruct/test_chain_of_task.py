"""The operators derive a new source's atomic tasks in one line."""

import dataclasses

from ecomgpt_jax.instruct import chain_of_task
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.tasks import aspects, entities
from ecomgpt_jax.instruct.tasks.task import NEEDS, Dataset, bind

DATASET = Dataset(name="Mine", source="mine", language="zh")


def test_each_operator_marks_its_tasks_and_names_the_parent() -> None:
    base = bind(entities.RECOGNITION, DATASET)
    for operator in ("simplification", "reversal", "recombination"):
        tasks = [task for task in chain_of_task.derived(base) if task.operator == operator]
        assert tasks
        assert {(task.parent, task.source) for task in tasks} == {(base.name, "mine")}
    assert len(chain_of_task.derived(base)) == 7


def test_forms_that_a_dataset_cannot_feed_are_left_out() -> None:
    base = bind(aspects.TUPLES, DATASET)
    bare = bind(aspects.TUPLES, dataclasses.replace(DATASET, lacks=("opinions",)))
    names = [task.form.name for task in chain_of_task.derived(bare)]
    left = {task.form.name for task in chain_of_task.derived(base)} - set(names)
    assert left == {"opinion_terms", "opinion_of_aspect", "pairing"}


def test_every_need_is_one_of_a_derived_form() -> None:
    tables = (chain_of_task.SIMPLIFICATION, chain_of_task.REVERSAL, chain_of_task.RECOMBINATION)
    used = {need for table in tables for forms in table.values() for form in forms for need in form.needs}
    assert used == set(NEEDS)


def test_every_record_type_has_forms_of_each_operator() -> None:
    types = set(Record.__subclasses__())
    for table in (chain_of_task.SIMPLIFICATION, chain_of_task.REVERSAL, chain_of_task.RECOMBINATION):
        assert {kind.__name__ for kind in table} == {kind.__name__ for kind in types}
    for operator, table in (
        ("simplification", chain_of_task.SIMPLIFICATION),
        ("reversal", chain_of_task.REVERSAL),
        ("recombination", chain_of_task.RECOMBINATION),
    ):
        for kind, forms in table.items():
            assert all(form.operator == operator and form.record is kind for form in forms)


def test_a_family_is_the_base_and_what_derives_from_it() -> None:
    tasks = chain_of_task.family(
        entities.RECOGNITION, dataclasses.replace(DATASET, lacks=("several types",)), entities.ONE_TYPE
    )
    assert (tasks[0].form, tasks[0].operator, tasks[0].parent) == (entities.RECOGNITION, "", "")
    assert [task.form.name for task in tasks].count("one_type") == 1
    assert {task.parent for task in tasks[1:]} == {tasks[0].name}


def test_pseudo_labels_make_tasks_of_their_own() -> None:
    base = bind(entities.RECOGNITION, dataclasses.replace(DATASET, lacks=("choices",)))
    tasks = chain_of_task.pseudo_label(base)
    assert [task.form.name for task in tasks] == ["recognition", "span_detection", "one_type", "span_typing"]
    assert {(task.operator, task.parent) for task in tasks} == {("pseudo_label", base.name)}
    assert {task.dataset.supervision for task in tasks} == {("pseudo",)}
    assert not {task.name for task in tasks} & {task.name for task in chain_of_task.derived(base)}
