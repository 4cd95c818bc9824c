import dataclasses
import runpy
from collections.abc import Sequence
from pathlib import Path

import pytest

from ecomgpt_jax.config import Config, resolve
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.experiment import Experiment, Variant, cells

TWO = Experiment(
    name="two",
    question="Which?",
    config="configs/demo.py",
    variants=(
        Variant("all"),
        Variant("short", ("data.num_tasks=20",), start=("configs/demo.py", "configs/demo.py:other")),
    ),
    seeds=(0, 3),
    start=("configs/demo.py",),
    overrides=("train.max_steps=5",),
)


def test_cells_run_seed_by_seed_and_hold_all_that_is_set() -> None:
    made = cells(TWO)
    assert [cell.folder for cell in made] == ["all-seed0", "short-seed0", "all-seed3", "short-seed3"]
    assert made[3].overrides == ("train.max_steps=5", "data.num_tasks=20", "data.seed=3", "train.seed=3")
    assert [cell.start for cell in made[:2]] == [("configs/demo.py",), ("configs/demo.py", "configs/demo.py:other")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variants": ()}, "at least one variant"),
        ({"seeds": ()}, "one seed"),
        ({"seeds": (1, 1)}, "twice"),
        ({"variants": (Variant("a"), Variant("a"))}, "twice"),
        ({"variants": (Variant("../a"),)}, "not a name"),
        ({"variants": (Variant("a", ("data.num_task=3",)),)}, "did you mean 'data.num_tasks'"),
        ({"overrides": ("data.num_tasks",)}, "<field>=<value>"),
    ],
)
def test_what_cannot_be_run_is_refused(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cells(dataclasses.replace(TWO, **change))


def declared(argument: str) -> Experiment:
    path = Path(__file__).parent.parent / "configs" / "ablations.py"
    return runpy.run_path(str(path))["get_config"](argument)


@pytest.mark.parametrize("size", ["nano", "micro", "mini"])
@pytest.mark.parametrize(
    "name",
    ["cot", "task_scaling", "instances", "prompt_language", "language", "dependency", "domain", "size",
     "packing", "loss_on_prompt", "learning_rate"],
)  # fmt: skip
def test_every_cell_of_every_declared_experiment_is_a_valid_run(
    name: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOMGPT_GENERAL", "general.jsonl")
    experiment = declared(f"{name},{size}")
    for cell in cells(experiment):
        assert cell.start
        for config in (*cell.start, cell.config):
            path, _, argument = config.partition(":")
            base = runpy.run_path(path)["get_config"](argument)
            if config == cell.config:
                _override(base, cell.overrides)
            resolved = resolve(base)
            assert resolved.data.plain_text == (config in cell.start and not config.endswith(",follow"))
    factors = [dict(variant.factors) for variant in experiment.variants]
    assert len({tuple(each) for each in factors}) == 1  # all or none


def _override(config: Config, overrides: Sequence[str]) -> None:
    for override in overrides:
        path, _, value = override.partition("=")
        section, field = path.split(".")
        part = getattr(config, section)
        kind = type(getattr(part, field))
        read = {tuple: lambda text: tuple(text.split(",")), bool: lambda text: text == "true"}.get(kind, kind)
        setattr(part, field, read(value))


@pytest.mark.parametrize("name", ["cot", "instances"])
@pytest.mark.parametrize("size", ["nano", "mini"])
def test_two_cores_get_what_they_can_finish(name: str, size: str) -> None:
    few = [str(cell.overrides) for cell in cells(declared(f"{name},{size}")) if "num_tasks=20" in str(cell.overrides)]
    assert len(few) == (15 if (name, size) == ("instances", "nano") else 0)


@pytest.mark.parametrize("argument", ["cott", "cot,macro"])
def test_an_unknown_experiment_or_size_names_those_there_are(argument: str) -> None:
    with pytest.raises(ConfigError, match="experiments are cot"):
        declared(argument)


def test_the_domain_experiment_needs_its_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_GENERAL", raising=False)
    with pytest.raises(ConfigError, match="ECOMGPT_GENERAL"):
        declared("domain")
