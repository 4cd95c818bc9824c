import fnmatch

import pytest

from configs import ecom_base
from ecomgpt_jax.config import DataConfig, resolve
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct import choose
from ecomgpt_jax.instruct.task_folder import FAMILIES


@pytest.mark.parametrize("size", ecom_base.SHAPES)
def test_every_stage_of_a_size_is_the_same_model_and_a_config_that_holds(size: str) -> None:
    stages = {stage: ecom_base.get_config(f"{size},{stage}".rstrip(",")) for stage in ecom_base.STAGES}
    resolved = {stage: resolve(config) for stage, config in stages.items()}
    assert len({str(config.model) for config in resolved.values()}) == 1
    assert {stage: config.data.plain_text for stage, config in resolved.items()} == {
        "": True,
        "tune": False,
        "repeat": True,
        "follow": False,
        "few": False,
    }
    assert [resolved[stage].data.copying for stage in ecom_base.STAGES] == [0, 0, 1, 4, 4]
    assert len({config.name for config in resolved.values()}) == len(ecom_base.STAGES)
    assert [stage for stage, config in resolved.items() if config.train.final_evaluation] == ["tune", "follow", "few"]


def test_following_is_taught_without_the_sources_and_without_chain_of_task_tasks() -> None:
    data = resolve(ecom_base.get_config("nano,follow")).data
    tasks = choose.choose(data).training
    assert {task.operator for task in tasks} == {""}
    assert {task.source for task in tasks} <= {task.source for task in choose.declared_tasks(DataConfig())}
    assert {task.language for task in tasks} == {"en", "zh"}


def test_few_tasks_are_trained_beside_copying_and_each_pattern_names_some() -> None:
    config = resolve(ecom_base.get_config("nano,few"))
    config.data.mixture = "all"
    tasks = {task.name: task for task in choose.choose(config.data).training}
    copying = [name for name in tasks if name.endswith("-copying")]
    assert len(copying) == len({(task.source, task.language) for task in choose.declared_tasks(config.data)})
    assert {task.family for task in tasks.values()} == set(FAMILIES)
    for pattern in ecom_base.FEW:
        assert fnmatch.filter(tasks, pattern), pattern
    everything = resolve(ecom_base.get_config("nano,tune"))
    everything.data.mixture = "all"
    assert len(tasks) - len(copying) < len(choose.choose(everything.data).training) / 2


@pytest.mark.parametrize("arg", ["nono", "nano,tuned"])
def test_what_there_is_not_is_named(arg: str) -> None:
    with pytest.raises(ConfigError, match=arg) as caught:
        ecom_base.get_config(arg)
    assert "\n" not in str(caught.value)
