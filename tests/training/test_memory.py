import dataclasses

import pytest
from jax.sharding import AbstractMesh, AxisType

from ecomgpt_jax.config import MODEL_SHAPES, Config, resolve
from ecomgpt_jax.model.parameters import parameter_count
from ecomgpt_jax.parallel.mesh import AXES, mesh_shape
from ecomgpt_jax.training import memory


def sharded(size: str) -> Config:
    config = Config()
    config.model.size, config.mesh.fsdp = size, -1
    return resolve(config)


def abstract_mesh(config: Config, chips: int) -> AbstractMesh:
    return AbstractMesh(mesh_shape(config.mesh, chips), AXES, axis_types=(AxisType.Auto,) * 3)


def changed(config: Config, section: str, **fields: object) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})


@pytest.mark.parametrize("size", MODEL_SHAPES)
@pytest.mark.parametrize("chips", [1, 8, 16])
def test_state_is_twelve_bytes_a_weight(size: str, chips: int) -> None:
    """Float32 weights and two moments, in equal shares."""
    config = sharded(size)
    expected = 12 * parameter_count(config.model) / chips
    assert memory.state_bytes(config, abstract_mesh(config, chips)) == pytest.approx(expected, rel=0.05)


def test_what_makes_a_run_smaller_does_so_in_the_estimate() -> None:
    config = sharded("7b1")
    whole = memory.estimated_bytes(config, abstract_mesh(config, 8))
    assert whole > memory.state_bytes(config, abstract_mesh(config, 8))
    assert memory.estimated_bytes(config, abstract_mesh(config, 16)) < whole
    for section, smaller in (
        ("train", {"rows_per_device": 1}),
        ("model", {"remat": "full"}),
        ("model", {"remat": "selective"}),
        ("train", {"accumulation": 1}),
    ):
        assert memory.estimated_bytes(changed(config, section, **smaller), abstract_mesh(config, 8)) < whole
    more = changed(config, "train", rows_per_device=8)
    assert memory.estimated_bytes(more, abstract_mesh(config, 8)) == whole + 4 * memory.row_bytes(config)
