import pytest

from configs import own_data
from ecomgpt_jax.config import resolve, unused
from ecomgpt_jax.errors import ConfigError


def test_task_folders_are_trained_on_without_the_example_file() -> None:
    data = resolve(own_data.get_config("folder")).data
    assert (data.mixture, data.files) == ("folder", ())
    assert unused(own_data.get_config("folder")) == []
    with pytest.raises(ConfigError, match=r"own_data\.py:files: .* folder"):
        own_data.get_config("files")
