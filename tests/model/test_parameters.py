import dataclasses

import numpy as np
import pytest

from ecomgpt_jax.config import MODEL_SHAPES, ModelConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.parameters import flops_per_token, parameter_count, parameter_table


def released(size: str) -> ModelConfig:
    return ModelConfig(size=size, **MODEL_SHAPES[size])


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("560m", 559_214_592),
        ("1b1", 1_065_314_304),
        ("1b7", 1_722_408_960),
        ("3b", 3_002_557_440),
        ("7b1", 7_069_016_064),
    ],
)
def test_counts_of_the_released_sizes(size: str, count: int) -> None:
    assert parameter_count(released(size)) == count


def test_flops_of_560m_by_hand() -> None:
    layers, embed, length, vocab = 24, 1024, 1024, 250_880
    forward = 24 * layers * embed**2 + 2 * layers * embed * (length + 1) + 0.15 * 2 * vocab * embed
    assert flops_per_token(released("560m"), length, 0.15) == pytest.approx(3 * forward)
    assert flops_per_token(released("560m"), length) == pytest.approx(3.504e9, rel=1e-3)


def test_hf_layout_round_trips() -> None:
    model = ModelConfig(size="custom", embed=12, layers=2, heads=3, vocab_size=10)
    random = np.random.RandomState(0)
    for parameter in parameter_table(model):
        array = random.standard_normal(parameter.layer_shape)
        tensor = parameter.to_hf(array)
        assert tensor.shape == parameter.hf_shape
        np.testing.assert_array_equal(parameter.from_hf(tensor), array)


def test_hf_layout_of_the_fused_projection() -> None:
    """HF views the output of query_key_value as [heads, 3, head_dim] (modeling_bloom.py, `_reshape`)."""
    model = ModelConfig(size="custom", embed=12, layers=1, heads=3, vocab_size=10)
    kernel = next(p for p in parameter_table(model) if p.name == "blocks/qkv/kernel")
    array = np.random.RandomState(0).standard_normal(kernel.layer_shape)
    x = np.random.RandomState(1).standard_normal(12)
    fused = (kernel.to_hf(array) @ x).reshape(3, 3, 4)
    np.testing.assert_allclose(fused, np.einsum("e,ehtd->htd", x, array))


def test_names_are_unique() -> None:
    table = parameter_table(ModelConfig(size="custom", embed=12, layers=2, heads=3, vocab_size=10))
    names = [name for parameter in table for name in parameter.hf_names]
    assert len(set(names)) == len(names)
    assert len({parameter.path for parameter in table}) == len(table)


@pytest.mark.parametrize("field", ["embed", "layers", "heads", "vocab_size"])
def test_an_unresolved_model_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"model.{field}"):
        parameter_table(dataclasses.replace(released("560m"), **{field: 0}))
