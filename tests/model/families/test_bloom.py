import numpy as np
import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.attention import alibi_slopes
from ecomgpt_jax.model.families import bloom
from tests.model import hf_cases

MODEL = hf_cases.case_model("heads12_length300")


def test_config_round_trip() -> None:
    values = bloom.hf_config(MODEL, 300)
    shape = bloom.shape_from_hf(values, "config.json")
    assert {name: getattr(MODEL, name) for name in shape} == shape
    assert values["seq_length"] == 300
    with pytest.raises(DataError, match="multiple"):
        bloom.shape_from_hf(values | {"n_head": 7}, "config.json")


def test_attention_is_alibi_alone() -> None:
    np.testing.assert_array_equal(bloom.slopes(MODEL), alibi_slopes(12))
    assert bloom.thetas(MODEL) is None
