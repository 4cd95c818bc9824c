"""Keys change with what decides the rows, and with nothing else."""

from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import keys
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, write_task


def settings(cache: Path, **fields: Any) -> DataConfig:
    return DataConfig(**({"cache_dir": str(cache), "num_tasks": 12, "instances_per_task": 6} | fields))


def test_settings_that_change_no_row_share_a_build(tmp_path: Path) -> None:
    key = keys.cache_key(settings(tmp_path))
    assert key == keys.cache_key(settings(tmp_path, length=7, packing=False, tokenizer_vocab=99))
    changes = (
        {"seed": 1},
        {"num_tasks": 3},
        {"chain_of_task": False},
        {"prompt_language": "en"},
        {"languages": ("en",)},
    )
    assert len({key, *(keys.cache_key(settings(tmp_path, **change)) for change in changes)}) == 6


def test_a_survey_hangs_on_sources_and_evaluation_and_on_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    data = settings(tmp_path, mixture="real")
    key = keys.survey_key(data, ["abo", "blurb"])
    for same in ({"seed": 1}, {"num_tasks": 3}, {"prompt_language": "en"}, {"instances_per_task": 0}):
        assert keys.survey_key(settings(tmp_path, mixture="real", **same), ["abo", "blurb"]) == key
    task = TaskFolder("EN-Shop-CLS-topic", "Classification", "{sentences}", {"default": ("good",)})
    write_task(tmp_path / "eval", task, [TaskRow("The staff was friendly.", {"default": ("good",)})])
    others = {keys.survey_key(data, ["abo"]), keys.survey_key(settings(tmp_path, plain_text=True), ["abo", "blurb"])}
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "eval"))
    others.add(keys.survey_key(data, ["abo", "blurb"]))
    assert len({key, *others}) == 4
