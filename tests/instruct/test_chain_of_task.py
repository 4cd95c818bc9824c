"""The operators derive a new source's atomic tasks in one line."""

from ecomgpt_jax.instruct import chain_of_task
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.tasks import aspects, entities
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

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
    names = [task.form.name for task in chain_of_task.derived(base, without=("opinion_terms", "pairing"))]
    assert len(names) == len(chain_of_task.derived(base)) - 2
    assert "opinion_terms" not in names


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
    base = bind(entities.RECOGNITION, DATASET)
    tasks = chain_of_task.family(base, entities.ONE_TYPE, without=("one_type",))
    assert tasks[0] is base
    assert [task.form.name for task in tasks].count("one_type") == 1
    assert {task.parent for task in tasks[1:]} == {base.name}


def test_pseudo_labels_make_tasks_of_their_own() -> None:
    base = bind(entities.RECOGNITION, DATASET)
    tasks = chain_of_task.pseudo_label(base, without=("type_listing",))
    assert [task.form.name for task in tasks] == ["recognition", "span_detection", "one_type", "span_typing"]
    assert {(task.operator, task.parent) for task in tasks} == {("pseudo_label", base.name)}
    assert {task.dataset.supervision for task in tasks} == {("pseudo",)}
    assert not {task.name for task in tasks} & {task.name for task in chain_of_task.derived(base)}
