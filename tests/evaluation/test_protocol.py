import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.evaluation.protocol import (
    TaskPrompts,
    build_prompts,
    describe,
    find_tasks_dir,
    prompt_tokens,
    released_candidates,
)
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, gold_answer, gold_labels, load_tasks

HASH = """
import sys
from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.evaluation.protocol import build_prompts, describe
from ecomgpt_jax.instruct.task_folder import load_tasks
print(describe([build_prompts(task) for task in load_tasks(sys.argv[1])], EvalConfig())["sha256"])
"""


class Characters:
    """A tokenizer with one id per character."""

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]

    def cut(self, prompt: list[int], limit: int) -> list[int]:
        return prompt[-limit:]


@pytest.fixture
def tasks(tmp_path: Path) -> list[TaskFolder]:
    tiny_tasks.write_tiny_tasks(tmp_path)
    return load_tasks(tmp_path)


def digest(tasks: list[TaskFolder], limit: int = 0, **settings: object) -> str:
    settings = EvalConfig(limit=limit, **settings)
    return describe([build_prompts(task, limit) for task in tasks], settings)["sha256"]


def test_prompts_are_the_released_ones(tasks: list[TaskFolder]) -> None:
    part = build_prompts(next(task for task in tasks if task.name == "EN-Shop-NER-parts"))
    assert part.prompts[0] == (
        "Below is an instruction that describes the named entity recognition task. Write a response that appropriately "
        "completes the request.\nThe Acme drill has a keyless chuck\nExtract Brand, Part. \n### Response:"
    )
    assert part.golds == tuple(gold_answer(part.task, row) for row in part.rows)


def test_a_limit_changes_no_prompt(tasks: list[TaskFolder]) -> None:
    for task in tasks:
        assert build_prompts(task, 2).prompts == build_prompts(task).prompts[:2]


def test_long_prompts_lose_their_beginning_and_are_counted() -> None:
    ids, cut = prompt_tokens(Characters(), ["abcdef", "abc", "abcd"], 3)
    assert ids == [[ord(c) for c in "def"], [ord(c) for c in "abc"], [ord(c) for c in "bcd"]]
    assert cut == [True, False, True]


def test_the_hash_sees_what_matters_and_nothing_else(tasks: list[TaskFolder], tmp_path: Path) -> None:
    same = digest(tasks)
    assert digest(tasks[::-1]) == same
    assert digest(tasks, batch=3) == same
    assert digest(tasks, tasks_dir="elsewhere") == same
    assert digest(tasks, max_prompt_tokens=799) != same
    assert digest(tasks, num_beams=4) != same
    assert digest(tasks, limit=1) != same
    assert digest(tasks[1:]) != same
    changed = [dataclasses.replace(tasks[0], template=tasks[0].template + " "), *tasks[1:]]
    assert digest(changed) != same
    copied = tmp_path / "copy"
    tiny_tasks.write_tiny_tasks(copied)
    assert digest(load_tasks(copied)) == same


def test_released_draws_are_as_the_authors_make_them(tmp_path: Path) -> None:
    labels = tuple(f"label {number:03d}" for number in range(167))
    task = TaskFolder("ZH-Made-CLS-fine", "d", "{sentences}{label_set}", {"default": labels})
    rows = [TaskRow(f"row {index}", {"default": (labels[index % 167],)}) for index in range(3000)]
    drawn = [released_candidates(task, index, row, "released:1") for index, row in enumerate(rows)]
    sizes = [len(shown) for shown in drawn]
    assert all(row.labels["default"][0] in shown for row, shown in zip(rows, drawn, strict=True))
    assert (min(sizes), max(sizes)) == (1, 50)
    assert all(len(set(shown)) == len(shown) for shown in drawn)
    assert 0.012 < sizes.count(1) / 3000 < 0.032  # 1 / 50, and the cut that holds nothing but the gold label
    assert 23 < sum(sizes) / 3000 < 27
    places = [shown.index(row.labels["default"][0]) / len(shown) for row, shown in zip(rows, drawn, strict=True)]
    assert 0.43 < sum(places) / 3000 < 0.53, "the gold label stands anywhere"
    assert len({label for shown in drawn for label in shown}) == 167
    again = [released_candidates(task, index, row, "released:1") for index, row in enumerate(rows[:9])]
    other = [released_candidates(task, index, row, "released:2") for index, row in enumerate(rows[:9])]
    assert again == drawn[:9] != other


def test_released_prompts_have_a_hash_of_their_own(tasks: list[TaskFolder]) -> None:
    def parts(protocol: str) -> list[TaskPrompts]:
        return [build_prompts(task, protocol=protocol) for task in tasks]

    hashes = {
        describe(parts(name), EvalConfig(protocol=name))["sha256"] for name in ("greedy", "released:0", "released:1")
    }
    assert len(hashes) == 3
    for fixed, drawn in zip(parts("greedy"), parts("released:0"), strict=True):
        assert (fixed.prompts == drawn.prompts) == (fixed.task.family != "CLS")
        assert fixed.golds == drawn.golds
        if drawn.task.family == "CLS":
            assert all(
                task_labels in p for task_labels, p in zip(map(", ".join, drawn.shown), drawn.prompts, strict=True)
            )
    assert describe(parts("released:0"), EvalConfig(protocol="released:0", num_beams=4))["name"] == "released:0"


def test_letters_are_a_protocol_of_their_own(tasks: list[TaskFolder]) -> None:
    names = ("greedy", "greedy:letters", "constrained:letters", "likelihood:letters", "constrained", "likelihood")
    described = [
        describe([build_prompts(task, protocol=name) for task in tasks], EvalConfig(protocol=name)) for name in names
    ]
    assert [each["name"] for each in described] == list(names)
    assert len({each["sha256"] for each in described}) == len(names)
    beams = EvalConfig(protocol="greedy:letters", num_beams=4)
    assert (
        describe([build_prompts(task, protocol="greedy:letters") for task in tasks], beams)["name"] == "beam4:letters"
    )
    for task in tasks:
        fixed, lettered = build_prompts(task), build_prompts(task, protocol="greedy:letters")
        assert lettered.golds == fixed.golds
        assert (lettered.prompts == fixed.prompts) == (task.family != "CLS")
        if task.family != "CLS":
            assert lettered.responses() == lettered.golds
            continue
        assert len(set(lettered.shown)) > 1, "the order is drawn per row"
        for index, (labels, names) in enumerate(zip(lettered.candidates(), lettered.names(), strict=True)):
            assert sorted(labels) == sorted(fixed.candidates()[index])
            shown = ", ".join(f"{name}. {label}" for name, label in zip(names, labels, strict=True))
            assert shown in lettered.prompts[index]
            gold = [names[labels.index(label)] for label in gold_labels(task, lettered.rows[index])]
            assert lettered.responses()[index] == ", ".join(gold)
        assert build_prompts(task, 2, "greedy:letters").prompts == lettered.prompts[:2]


def test_the_hash_does_not_depend_on_the_hash_seed(tasks: list[TaskFolder], tmp_path: Path) -> None:
    found = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", HASH, str(tmp_path)]
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip())
    assert found == {digest(tasks)}


def test_where_tasks_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setenv("ECOMGPT_EVAL", str(there))
    assert find_tasks_dir(EvalConfig(tasks_dir=str(here))) == str(here)
    assert find_tasks_dir(EvalConfig()) == str(there)
    monkeypatch.delenv("ECOMGPT_EVAL")
    with pytest.raises(MissingInputError, match="ECOMGPT_EVAL"):
        find_tasks_dir(EvalConfig())
