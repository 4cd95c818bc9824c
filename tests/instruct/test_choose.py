"""The choice of sources and tasks: the effect of every setting."""

import hashlib
import itertools
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.instruct import choose, make
from ecomgpt_jax.instruct.ecom_instruct import build
from ecomgpt_jax.instruct.instructions import fill
from ecomgpt_jax.instruct.sources import all_sources
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.synthetic import products
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, write_task
from ecomgpt_jax.instruct.tasks.task import Task


def settings(**fields: Any) -> DataConfig:
    return DataConfig(**({"synthetic_records": 40, "instances_per_task": 5} | fields))


def training(data: DataConfig) -> list[Task]:
    return list(choose.choose(data).training)


def held_out(data: DataConfig) -> list[Task]:
    return list(choose.choose(data).held_out)


def test_fewer_tasks_are_a_part_of_more() -> None:
    names = [[task.name for task in training(settings(num_tasks=n))] for n in (5, 20, 60, 0)]
    assert [len(part) for part in names[:3]] == [5, 20, 60]
    for few, many in itertools.pairwise(names):
        assert set(few) < set(many)
    assert set(names[0]) != {task.name for task in training(settings(num_tasks=5, seed=1))}


def test_wordings_are_those_of_all_instructions_to_train_with_whatever_is_chosen() -> None:
    found = choose.wordings(settings())
    assert found == choose.wordings(settings(plain_text=True, copying=2, tasks=("*-copying",), num_tasks=1))
    assert found == sorted(set(found))
    templates = {t for task in training(settings()) for each in task.wordings.values() for t in each}
    assert len(found) >= len(templates)
    assert all("### Response:" in wording and "{" not in wording for wording in found)
    kept_out = {task.wordings["en"][0] for task in held_out(settings())}
    heads = {wording.split("### Instruction:")[1] for wording in found}
    assert kept_out
    assert not heads & {fill(template, {}).split("### Instruction:")[-1] for template in kept_out}
    assert choose.wordings(settings(mixture="files", files=("mine.jsonl",))) == []


def test_operators() -> None:
    assert {t.operator for t in training(settings(operators=("reversal", "base")))} == {"reversal", ""}
    assert training(settings(operators=("base",))) == training(settings(chain_of_task=False))
    with pytest.raises(ConfigError, match="leave no task"):
        training(settings(operators=("pseudo_label",)))


def test_licences_choose_real_sources() -> None:
    def chosen(*licences: str) -> set[str]:
        return set(choose.source_names(settings(mixture="real", licences=licences)))

    free = chosen("redistributable")
    assert free
    assert all(all_sources.source(name).redistributable for name in free)
    assert free < chosen()
    assert chosen("MIT") | chosen("apache-2.0") == chosen("MIT", "Apache-2.0")
    assert all(all_sources.source(name).licence.startswith("MIT") for name in chosen("MIT"))
    with pytest.raises(ConfigError, match=r"'GPL' is none of redistributable, Apache-2\.0, "):
        chosen("GPL")


def test_strict_held_out_leaves_out_near_label_spaces() -> None:
    near = choose.near_sources(settings())
    assert "synthetic_sentences_en" in near  # its own NER task is held out
    assert "ZH-Fashion_Titles-NER-attribute_value_extraction" in near["synthetic_fashion_titles_zh"]
    strict = training(settings(strict_held_out=True))
    assert strict
    assert {task.source for task in training(settings())} - {task.source for task in strict} == set(near)
    few, many = (training(settings(strict_held_out=True, num_tasks=n)) for n in (5, 20))
    assert {task.name for task in few} < {task.name for task in many}


def test_strict_held_out_needs_held_out_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    monkeypatch.setattr(choose, "source_names", lambda data: [])
    with pytest.raises(ConfigError, match="ECOMGPT_EVAL"):
        training(settings(mixture="real", strict_held_out=True, sources_dir="nowhere"))


def test_chain_of_task_off_leaves_base_tasks() -> None:
    tasks = training(settings(chain_of_task=False))
    assert tasks
    assert {task.operator for task in tasks} == {""}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_languages(language: str) -> None:
    assert {task.language for task in training(settings(languages=(language,)))} == {language}


def test_sources() -> None:
    data = settings(sources=("synthetic_reviews_en",))
    assert {task.source for task in training(data)} == {"synthetic_reviews_en"}
    with pytest.raises(ConfigError, match="not a source"):
        training(settings(sources=("nowhere",)))


def test_task_patterns() -> None:
    tasks = training(settings(tasks=("EN-Reviews-*", "ZH-Items-CLS-category_check")))
    assert {task.name.split("-")[1] for task in tasks} == {"Reviews", "Items"}
    assert "ZH-Items-CLS-category_check" in {task.name for task in tasks}
    assert len(tasks) > 5
    with pytest.raises(ConfigError, match=r"'EN-Nothing-\*' fits no task.*--config\.data\.tasks= takes all"):
        training(settings(tasks=("EN-Nothing-*",)))
    both = ("EN-Reviews-*", "ZH-Reviews-*")
    english = training(settings(tasks=both, languages=("en",)))  # a pattern may be emptied by another setting
    assert {task.language for task in english} == {"en"}
    assert all(not task.operator for task in training(settings(tasks=both, chain_of_task=False)))


@pytest.mark.parametrize(
    "fields", [{"chain_of_task": False}, {"operators": ("reversal",)}, {"leave_out_abilities": ("find spans",)}]
)
def test_what_an_ablation_leaves_out_changes_no_unseen_task(fields: dict[str, Any]) -> None:
    """Or the losses of unseen tasks of its variants could not be compared; names and languages do narrow them."""
    every, part = (choose.choose(DataConfig(total_instances=100, unseen_tasks=9, **chosen)) for chosen in ({}, fields))
    assert [task.name for task in part.unseen] == [task.name for task in every.unseen] != []
    assert {task.name for task in part.training} < {task.name for task in every.training}
    assert not {task.name for task in part.training} & {task.name for task in part.unseen}
    english = choose.choose(DataConfig(total_instances=100, unseen_tasks=9, languages=("en",), **fields))
    assert {task.language for task in english.unseen} == {"en"}
    reviews = choose.choose(DataConfig(total_instances=100, unseen_tasks=3, tasks=("*-Reviews-*",), **fields))
    assert all("-Reviews-" in task.name for task in (*reviews.training, *reviews.unseen))


def test_too_many_tasks_and_none_at_all() -> None:
    with pytest.raises(ConfigError, match=r"num_tasks=9999, and the other settings leave \d+ tasks"):
        training(settings(num_tasks=9999))
    with pytest.raises(ConfigError, match="leave no task"):
        training(settings(languages=()))


def test_an_ability_can_be_left_out_with_all_tasks_that_use_it() -> None:
    every = training(DataConfig())
    kept = training(DataConfig(leave_out_abilities=("find spans", "compare texts")))
    left = {task.name for task in every} - {task.name for task in kept}
    assert left == {task.name for task in every if {"find spans", "compare texts"} & set(task.abilities)}
    assert left
    with pytest.raises(ConfigError, match="did you mean 'find spans'"):
        training(DataConfig(leave_out_abilities=("find span",)))


def test_all_is_the_real_sources_and_the_catalogue() -> None:
    data = DataConfig(mixture="all", licences=("redistributable",))
    names = choose.source_names(data)
    assert set(products.SOURCES) <= set(names)
    real = set(names) - set(products.SOURCES)
    assert real == set(choose.source_names(DataConfig(mixture="real", licences=("redistributable",))))
    assert set(make.compared_shards(choose.choose(data))) == real
    tasks = [task.name for task in (*training(data), *held_out(data))]
    assert len(set(tasks)) == len(tasks)
    assert len(held_out(data)) == 12
    texts = {task.source for task in training(DataConfig(mixture="all", plain_text=True))}
    assert texts == {*all_sources.SOURCES, *products.SOURCES}


def key_settings(cache: Path, **fields: Any) -> DataConfig:
    return DataConfig(**({"cache_dir": str(cache), "num_tasks": 12, "instances_per_task": 6} | fields))


def test_settings_that_change_no_row_share_a_build(tmp_path: Path) -> None:
    key = choose.cache_key(key_settings(tmp_path))
    assert key == choose.cache_key(key_settings(tmp_path, length=7, packing=False, tokenizer_vocab=99))
    changes = (
        {"seed": 1},
        {"num_tasks": 3},
        {"chain_of_task": False},
        {"prompt_language": "en"},
        {"languages": ("en",)},
    )
    assert len({key, *(choose.cache_key(key_settings(tmp_path, **change)) for change in changes)}) == 6


def test_an_edited_file_of_a_source_is_found_though_the_data_set_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sources" / "en_mams" / "a.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"right")
    monkeypatch.setitem(FILES, "en_mams", {"a.txt": hashlib.sha256(b"right").hexdigest()})
    data = key_settings(tmp_path, mixture="real", sources=("en_mams",), sources_dir=str(file.parents[1]))
    built = tmp_path / "datasets" / choose.cache_key(data) / "built.json"
    built.parent.mkdir(parents=True)
    built.write_text("{}")
    after = time.time() + 60
    os.utime(built, (after, after))
    with monkeypatch.context() as patched:
        patched.setattr(all_sources, "file_sha256", lambda path: pytest.fail("read, though nothing changed since"))
        choose.check_sources(data, built)
    os.utime(built, (0, 0))
    choose.check_sources(data, built)
    file.write_bytes(b"wrong")  # of the same size
    with pytest.raises(DataError, match=r"a\.txt: sha256"):
        choose.check_sources(data, built)
    with pytest.raises(DataError, match=r"a\.txt: sha256"):
        build(data)


def test_what_repeats_depends_on_sources_and_evaluation_and_on_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    data = key_settings(tmp_path, mixture="real")
    key = choose.repeats_key(data, ["abo", "blurb"])
    for same in ({"seed": 1}, {"num_tasks": 3}, {"prompt_language": "en"}, {"instances_per_task": 0}):
        assert choose.repeats_key(key_settings(tmp_path, mixture="real", **same), ["abo", "blurb"]) == key
    task = TaskFolder("EN-Shop-CLS-topic", "Classification", "{sentences}", {"default": ("good",)})
    write_task(tmp_path / "eval", task, [TaskRow("The staff was friendly.", {"default": ("good",)})])
    others = {
        choose.repeats_key(data, ["abo"]),
        choose.repeats_key(key_settings(tmp_path, plain_text=True), ["abo", "blurb"]),
    }
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "eval"))
    others.add(choose.repeats_key(data, ["abo", "blurb"]))
    assert len({key, *others}) == 4


@pytest.mark.parametrize("fields", [{"num_tasks": 9, "strict_held_out": True}, {"mixture": "all", "num_tasks": 9}])
def test_another_process_gets_the_same_choice(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose.choose(settings(**fields))
    monkeypatch.setattr(choose, "select_names", lambda *arguments: pytest.fail("chosen again"))
    monkeypatch.setattr(choose, "near_sources", lambda data: pytest.fail("sources are read again"))
    found = pickle.loads(pickle.dumps(choice))
    assert found == choice
    assert len(found.training) == 9 < len(found.declared)
    assert bool(found.near) == choice.data.strict_held_out


def test_the_choice_of_task_folders_and_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["EN-Mine-CLS-mood", "EN-Mine-CLS-topic", "ZH-Mine-CLS-mood"]
    for name in names:
        rows = [TaskRow("x", {"default": ("good",)})]
        write_task(tmp_path, TaskFolder(name, "mood", "{sentences}", {"default": ("good",)}), rows, rows)
    data = settings(mixture="folder", tasks_dir=str(tmp_path), languages=("en",))
    choice = choose.choose(data)
    assert [
        f"{name}/meta-info.json: test_prompt.instruction does not end" in text
        for name, text in zip(names, caplog.messages, strict=True)
    ] == [True] * 3
    assert sorted(task.name for task in choice.declared) == names
    assert sorted(task.name for task in choice.training) == names[:2]
    assert pickle.loads(pickle.dumps(choice)) == choice
    own = choose.choose(settings(mixture="files", files=("mine.jsonl",)))
    assert (own.declared, own.training, own.held_out) == ((), (), ())
    assert make.shards(own) == [make.FILES]
