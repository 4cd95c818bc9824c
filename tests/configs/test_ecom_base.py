import pytest

from configs import ecom_base
from ecomgpt_jax.config import resolve
from ecomgpt_jax.errors import ConfigError


@pytest.mark.parametrize("size", ecom_base.SHAPES)
def test_every_stage_of_a_size_is_the_same_model_and_a_config_that_holds(size: str) -> None:
    stages = {stage: ecom_base.get_config(f"{size},{stage}".rstrip(",")) for stage in ("", "repeat", "find", "tune")}
    resolved = {stage: resolve(config) for stage, config in stages.items()}
    assert len({str(config.model) for config in resolved.values()}) == 1
    assert {stage: config.data.plain_text for stage, config in resolved.items()} == {
        "": True,
        "repeat": True,
        "find": True,
        "tune": False,
    }
    assert [resolved[stage].data.copying for stage in ("", "repeat", "find")] == [0, 1, 4]
    assert len({config.name for config in resolved.values()}) == 4
    assert [stage for stage, config in resolved.items() if config.train.final_evaluation] == ["tune"]


@pytest.mark.parametrize("arg", ["nono", "nano,tuned"])
def test_what_there_is_not_is_named(arg: str) -> None:
    with pytest.raises(ConfigError, match=arg) as caught:
        ecom_base.get_config(arg)
    assert "\n" not in str(caught.value)
