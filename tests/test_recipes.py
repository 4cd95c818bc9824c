import pytest

from ecomgpt_jax.config import LAYERS, resolve
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.parameters import flops_per_token, parameter_count
from ecomgpt_jax.recipes import SHAPES, recipe

COUNTS = {
    "gemma3_270m": 268_098_176, "qwen3_0_6b": 596_049_920, "qwen3_1_7b": 1_720_574_976, "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360, "llama3_2_1b": 1_235_814_400, "llama3_2_3b": 3_212_749_824,
    "smollm2_135m": 134_515_008,
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("arg", ["", "lora"])
def test_each_is_the_released_shape_with_the_papers_batch(name: str, arg: str) -> None:
    config = resolve(recipe(name, arg))
    assert parameter_count(config.model) == COUNTS[name]
    assert config.train.rows_per_device * config.train.accumulation == 32
    assert (config.lora.targets == LAYERS[config.model.family]) == (arg == "lora")
    assert config.lora.rank == (16 if arg else 0)
    with pytest.raises(ConfigError, match=rf"{name}\.py:rank"):
        recipe(name, "rank")


def test_flops_count_the_keys_inside_the_window() -> None:
    """Gemma 3 at 1,024 tokens: in 15 of 18 layers a query sees at most 512 keys."""
    model = resolve(recipe("gemma3_270m")).model
    kernels = 18 * (640 * 256 * (4 + 1 + 1 + 4) + 3 * 640 * 2048)
    full, seen = 1024 * 1025 // 2, 512 * 513 // 2 + 512 * 512
    attention = (3 * full + 15 * seen) * 2 * 4 * 256 // 1024
    assert flops_per_token(model, 1024, 0.15) == pytest.approx(6 * (kernels + attention + 0.15 * 262_144 * 640))
