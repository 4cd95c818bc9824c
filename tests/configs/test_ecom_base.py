import fnmatch

import pytest

from configs import ecom_base
from ecomgpt_jax.config import resolve
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct import choice
from ecomgpt_jax.instruct.task_folder import FAMILIES


@pytest.mark.parametrize("size", ecom_base.SHAPES)
def test_every_stage_of_a_size_is_the_same_model_and_a_config_that_holds(size: str) -> None:
    stages = {stage: ecom_base.get_config(f"{size},{stage}".rstrip(",")) for stage in ("", "repeat", "tune", "few")}
    resolved = {stage: resolve(config) for stage, config in stages.items()}
    assert len({str(config.model) for config in resolved.values()}) == 1
    assert {stage: config.data.plain_text for stage, config in resolved.items()} == {
        "": True,
        "repeat": True,
        "tune": False,
        "few": False,
    }
    assert [resolved[stage].data.copying for stage in ("", "repeat", "tune", "few")] == [0, 1, 0, 4]
    assert len({config.name for config in resolved.values()}) == 4
    assert [stage for stage, config in resolved.items() if config.train.final_evaluation] == ["tune", "few"]


def test_few_tasks_are_trained_beside_copying_and_each_pattern_names_some() -> None:
    config = resolve(ecom_base.get_config("nano,few"))
    config.data.mixture = "all"
    tasks = {task.name: task for task in choice.training_tasks(config.data)}
    copying = [name for name in tasks if name.endswith("-copying")]
    assert len(copying) == len({(task.source, task.language) for task in choice.declared_tasks(config.data)})
    assert {task.family for task in tasks.values()} == set(FAMILIES)
    for pattern in ecom_base.FEW:
        assert fnmatch.filter(tasks, pattern), pattern
    everything = resolve(ecom_base.get_config("nano,tune"))
    everything.data.mixture = "all"
    assert len(tasks) - len(copying) < len(choice.training_tasks(everything.data)) / 2


@pytest.mark.parametrize("arg", ["nono", "nano,tuned"])
def test_what_there_is_not_is_named(arg: str) -> None:
    with pytest.raises(ConfigError, match=arg) as caught:
        ecom_base.get_config(arg)
    assert "\n" not in str(caught.value)
