"""Which sources and which tasks: every setting does what it says."""

import itertools
from typing import Any

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct import choice, mixture
from ecomgpt_jax.instruct.instructions import fill
from ecomgpt_jax.instruct.sources import catalogue as real_sources
from ecomgpt_jax.instruct.synthetic import catalogue as synthetic_sources


def settings(**fields: Any) -> DataConfig:
    return DataConfig(**({"synthetic_records": 40, "instances_per_task": 5} | fields))


def test_fewer_tasks_are_a_part_of_more() -> None:
    names = [[task.name for task in choice.training_tasks(settings(num_tasks=n))] for n in (5, 20, 60, 0)]
    assert [len(part) for part in names[:3]] == [5, 20, 60]
    for few, many in itertools.pairwise(names):
        assert set(few) < set(many)
    assert set(names[0]) != {task.name for task in choice.training_tasks(settings(num_tasks=5, seed=1))}


def test_wordings_are_those_of_all_instructions_to_train_with_whatever_is_chosen() -> None:
    found = choice.wordings(settings())
    assert found == choice.wordings(settings(plain_text=True, copying=2, tasks=("*-copying",), num_tasks=1))
    assert found == sorted(set(found))
    templates = {t for task in choice.training_tasks(settings()) for each in task.wordings.values() for t in each}
    assert len(found) >= len(templates)
    assert all("### Response:" in wording and "{" not in wording for wording in found)
    held_out = {task.wordings["en"][0] for task in choice.held_out_tasks(settings())}
    heads = {wording.split("### Instruction:")[1] for wording in found}
    assert held_out
    assert not heads & {fill(template, {}).split("### Instruction:")[-1] for template in held_out}
    assert choice.wordings(settings(mixture="files", files=("mine.jsonl",))) == []


def test_operators() -> None:
    assert {t.operator for t in choice.training_tasks(settings(operators=("reversal", "base")))} == {"reversal", ""}
    assert choice.training_tasks(settings(operators=("base",))) == choice.training_tasks(settings(chain_of_task=False))
    with pytest.raises(ConfigError, match="leave no task"):
        choice.training_tasks(settings(operators=("pseudo_label",)))


def test_licences_choose_real_sources() -> None:
    def chosen(*licences: str) -> set[str]:
        return set(choice.source_names(settings(mixture="real", licences=licences)))

    free = chosen("redistributable")
    assert free
    assert all(real_sources.source(name).redistributable for name in free)
    assert free < chosen()
    assert chosen("MIT") | chosen("apache-2.0") == chosen("MIT", "Apache-2.0")
    assert all(real_sources.source(name).licence.startswith("MIT") for name in chosen("MIT"))
    with pytest.raises(ConfigError, match=r"'GPL' is none of redistributable, Apache-2\.0, "):
        chosen("GPL")


def test_strict_held_out_leaves_out_near_label_spaces() -> None:
    near = choice.near_sources(settings())
    assert "synthetic_sentences_en" in near  # its own NER task is held out
    assert "ZH-Fashion_Titles-NER-attribute_value_extraction" in near["synthetic_fashion_titles_zh"]
    strict = choice.training_tasks(settings(strict_held_out=True))
    assert strict
    assert {task.source for task in choice.training_tasks(settings())} - {task.source for task in strict} == set(near)
    few, many = (choice.training_tasks(settings(strict_held_out=True, num_tasks=n)) for n in (5, 20))
    assert {task.name for task in few} < {task.name for task in many}


def test_strict_held_out_needs_held_out_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    monkeypatch.setattr(choice, "source_names", lambda data: [])
    with pytest.raises(ConfigError, match="ECOMGPT_EVAL"):
        choice.training_tasks(settings(mixture="real", strict_held_out=True, sources_dir="nowhere"))


def test_chain_of_task_off_leaves_base_tasks() -> None:
    tasks = choice.training_tasks(settings(chain_of_task=False))
    assert tasks
    assert {task.operator for task in tasks} == {""}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_languages(language: str) -> None:
    assert {task.language for task in choice.training_tasks(settings(languages=(language,)))} == {language}


def test_sources() -> None:
    data = settings(sources=("synthetic_reviews_en",))
    assert {task.source for task in choice.training_tasks(data)} == {"synthetic_reviews_en"}
    with pytest.raises(ConfigError, match="no source"):
        choice.training_tasks(settings(sources=("nowhere",)))


def test_task_patterns() -> None:
    tasks = choice.training_tasks(settings(tasks=("EN-Reviews-*", "ZH-Items-CLS-category_check")))
    assert {task.name.split("-")[1] for task in tasks} == {"Reviews", "Items"}
    assert "ZH-Items-CLS-category_check" in {task.name for task in tasks}
    assert len(tasks) > 5
    with pytest.raises(ConfigError, match=r"'EN-Nothing-\*' fits no task"):
        choice.training_tasks(settings(tasks=("EN-Nothing-*",)))
    both = ("EN-Reviews-*", "ZH-Reviews-*")
    english = choice.training_tasks(
        settings(tasks=both, languages=("en",))
    )  # a pattern may be emptied by another setting
    assert {task.language for task in english} == {"en"}
    assert all(not task.operator for task in choice.training_tasks(settings(tasks=both, chain_of_task=False)))


def test_too_many_tasks_and_none_at_all() -> None:
    with pytest.raises(ConfigError, match=r"num_tasks=9999, and the other settings leave \d+ tasks"):
        choice.training_tasks(settings(num_tasks=9999))
    with pytest.raises(ConfigError, match="leave no task"):
        choice.training_tasks(settings(languages=()))


def test_an_ability_can_be_left_out_with_all_tasks_that_use_it() -> None:
    every = choice.training_tasks(DataConfig())
    kept = choice.training_tasks(DataConfig(leave_out_abilities=("find spans", "compare texts")))
    left = {task.name for task in every} - {task.name for task in kept}
    assert left == {task.name for task in every if {"find spans", "compare texts"} & set(task.abilities)}
    assert left
    with pytest.raises(ConfigError, match="did you mean 'find spans'"):
        choice.training_tasks(DataConfig(leave_out_abilities=("find span",)))


def test_all_is_the_real_sources_and_the_catalogue() -> None:
    data = DataConfig(mixture="all", licences=("redistributable",))
    names = choice.source_names(data)
    assert set(synthetic_sources.SOURCES) <= set(names)
    real = set(names) - set(synthetic_sources.SOURCES)
    assert real == set(choice.source_names(DataConfig(mixture="real", licences=("redistributable",))))
    assert set(mixture.surveyed(data)) == real
    tasks = [task.name for task in (*choice.training_tasks(data), *choice.held_out_tasks(data))]
    assert len(set(tasks)) == len(tasks)
    assert len(choice.held_out_tasks(data)) == 12
    texts = {task.source for task in choice.training_tasks(DataConfig(mixture="all", plain_text=True))}
    assert texts == {*real_sources.SOURCES, *synthetic_sources.SOURCES}
