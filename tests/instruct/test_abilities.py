"""Abilities, and the tasks that use them."""

from ecomgpt_jax.instruct.abilities import ability_graph, kind_of, links
from ecomgpt_jax.instruct.choose import real_tasks
from ecomgpt_jax.instruct.tasks import synthetic

TASKS = {
    "EN-A-NER-recognition": ("", ("find", "type"), False, 5),
    "EN-B-NER-recognition_2": ("", ("find", "type"), True, 0),
    "EN-A-Extract-span_detection": ("simplification", ("find",), False, 7),
    "EN-A-CLS-check": ("recombination", ("judge",), False, 2),
    "EN-Mine-CLS-own": ("", (), False, 1),
}


def entries() -> dict:
    names = ("operator", "abilities", "held_out", "train")
    return {name: dict(zip(names, values, strict=True)) for name, values in TASKS.items()}


def test_reuse_is_counted() -> None:
    graph = ability_graph(entries())
    assert [(a.name, len(a.atomic), len(a.base), len(a.held_out), a.reused) for a in graph] == [
        ("find", 1, 1, 1, 2),
        ("type", 0, 1, 1, 2),
        ("judge", 1, 0, 0, 0),
    ]
    assert [(a.atomic_rows, a.base_rows) for a in graph] == [(7, 5), (0, 5), (2, 0)]


def test_links() -> None:
    assert kind_of("EN-B-NER-recognition_2") == "recognition"
    assert links(ability_graph(entries())) == {("find", "recognition"): 2, ("type", "recognition"): 2}


def test_tasks_without_abilities_have_no_graph() -> None:
    assert ability_graph({"EN-Mine-CLS-own": {"operator": "", "held_out": False, "train": 1}}) == []


def test_every_task_names_abilities_and_most_of_a_base_task_is_practised_by_an_atomic_one() -> None:
    for tasks in (real_tasks(), synthetic.tasks()):
        stats = {
            t.name: {"operator": t.operator, "abilities": t.abilities, "held_out": t.held_out, "train": 1}
            for t in tasks
        }
        assert all(entry["abilities"] for entry in stats.values())
        reused = [ability for ability in ability_graph(stats) if ability.reused]
        assert sum(bool(ability.atomic) for ability in reused) >= len(reused) - 2
