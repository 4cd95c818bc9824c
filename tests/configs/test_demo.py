from pathlib import Path

import pytest

from configs import demo
from ecomgpt_jax.config import resolve
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.loading import find_checkpoint


def test_fresh_weights_are_the_default_and_nano_starts_from_the_published_base() -> None:
    fresh, nano = resolve(demo.get_config()), resolve(demo.get_config("nano"))
    assert fresh.model.init_from == ""
    assert Path(nano.model.init_from).name == "nano_base"
    assert find_checkpoint(nano.model.init_from).model.embed == 192
    assert (fresh.data.tasks, fresh.eval) == (nano.data.tasks, nano.eval)
    assert fresh.name != nano.name


def test_the_quickstart_takes_the_base() -> None:
    script = Path(demo.__file__).parent.parent / "scripts" / "quickstart.sh"
    assert "--config configs/demo.py:nano --workdir runs/demo" in script.read_text()


def test_another_start_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"demo\.py:mini: .* nano") as caught:
        demo.get_config("mini")
    assert "\n" not in str(caught.value)
