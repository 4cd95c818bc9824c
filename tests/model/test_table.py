import numpy as np
import pytest

from ecomgpt_jax.config import LAYERS
from ecomgpt_jax.model.parameters import parameter_table
from tests.model import hf_cases


@pytest.mark.parametrize("name", hf_cases.FAMILIES)
def test_a_family_has_unique_names_a_round_trip_and_the_layers_that_adapters_may_name(name: str) -> None:
    model = hf_cases.case_model(name)
    table, random = parameter_table(model), np.random.RandomState(0)
    names = [hf_name for parameter in table for hf_name in parameter.hf_names]
    assert len(set(names)) == len(names)
    assert len({parameter.path for parameter in table}) == len(table)
    for parameter in table:
        array = random.standard_normal(parameter.layer_shape)
        tensor = parameter.to_hf(array)
        assert tensor.shape == parameter.hf_shape
        np.testing.assert_array_equal(parameter.from_hf(tensor), array)
    assert {p.path[1] for p in table if p.stacked and p.inputs} == set(LAYERS[model.family])
