import dataclasses
import re

import jax
import pytest
from toy import toy_config, toy_rows

from ecomgpt_jax.config import Config
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import loop, run_summary

STATS = {
    "tasks": {
        "a": {"language": "en", "family": "NER", "train": 1200, "test": 3},
        "b": {"language": "en", "family": "NER", "train": 4, "test": 0},
        "c": {"language": "zh", "family": "CLS", "train": 5, "test": 6},
    },
    "files": {"mine.jsonl": "7 records"},
}


def test_the_table_sums_tasks_of_a_language_and_family() -> None:
    lines = [line.split() for line in run_summary.data_table(STATS).splitlines()]
    assert lines[1:] == [["en", "NER", "2", "1,204", "3"], ["zh", "CLS", "1", "5", "6"]]


def test_lost_text_and_own_files_are_mentioned() -> None:
    config, rows = toy_config(), toy_rows(4)
    cut = dataclasses.replace(rows, store=dataclasses.replace(rows.store, cut_prompts=3))
    assert "lost" not in run_summary.data_lines(STATS, rows, config)
    assert "3 prompts lost their beginning" in run_summary.data_lines(STATS, cut, config)
    assert run_summary.data_lines(STATS, rows, config).splitlines()[1] == "mine.jsonl: 7 records"


def test_tasks_without_training_instances_are_counted_apart() -> None:
    unseen = {"d": {"language": "zh", "family": "CLS", "train": 0, "test": 6}}
    stats = STATS | {"tasks": STATS["tasks"] | unseen}
    assert run_summary.data_lines(STATS, toy_rows(4), toy_config()).startswith("data: 3 tasks, ")
    assert run_summary.data_lines(stats, toy_rows(4), toy_config()).startswith("data: 3 tasks and 1 kept out, ")


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("train.max_steps", "train.max_steps=9999: train.epochs=2 are"),
        ("train.profile_steps", "train.profile_steps=9999:"),
        ("eval.every", "eval.every=9999: the run has"),
        ("train.validate_every", "train.validate_every=9999: no instance is held back"),
        ("data.tokenizer_vocab", "data.tokenizer_vocab=9999: the texts give 300 tokens"),
    ],
)
def test_a_setting_without_effect_has_a_line(field: str, line: str) -> None:
    asked, section, name = toy_config(), *field.split(".")
    mesh = make_mesh(asked.mesh)
    rows = toy_rows(loop.rows_per_step(asked, mesh))
    before = run_summary.idle_settings(asked, asked, rows, mesh, 300, validated=False)
    setattr(getattr(asked, section), name, 9999)
    added = [found for found in run_summary.idle_settings(asked, asked, rows, mesh, 300, False) if found not in before]
    assert len(added) == 1
    assert added[0].startswith(line)


def test_a_shape_that_the_initial_weights_replace_has_a_line() -> None:
    config, asked = toy_config(), Config()
    asked.model.size, asked.model.embed = "custom", 64
    asked.model.init_from = config.model.init_from = "there"
    mesh = make_mesh(config.mesh)
    lines = run_summary.idle_settings(asked, config, toy_rows(loop.rows_per_step(config, mesh)), mesh, 300, True)
    assert "model.embed=64: replaced by 32, that of model.init_from" in lines


def test_plan_and_devices_are_one_line_each() -> None:
    config = toy_config()
    mesh = make_mesh(config.mesh)
    plan = run_summary.plan_line(config, toy_rows(loop.rows_per_step(config, mesh)), mesh)
    assert plan.startswith("plan: ")
    assert "\n" not in plan
    assert re.search(r"each stage takes about loading [\d.]+, training [\d.]+, evaluation [\d.]+ GiB$", plan)
    config.lora.rank = 2
    plan = run_summary.plan_line(config, toy_rows(loop.rows_per_step(config, mesh)), mesh)
    assert re.search(r"loading [\d.]+, training [\d.]+, merging [\d.]+, evaluation [\d.]+ GiB$", plan)
    assert run_summary.device_line(config, mesh).startswith(f"devices: {jax.device_count()} x cpu, mesh data=")
