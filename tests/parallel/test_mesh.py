import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.parallel.mesh import AXES, batch_sharding, make_mesh, mesh_shape


@pytest.mark.parametrize(
    ("config", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((-1, 2, 2), (2, 2, 2)), ((1, 4, 2), (1, 4, 2)), ((-1, 1, 8), (1, 1, 8))],
)
def test_shapes(config: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    mesh = make_mesh(MeshConfig(*config))
    assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert set(mesh.devices.flat) == set(jax.devices())


def test_given_devices() -> None:
    assert make_mesh(MeshConfig(), jax.devices()[:1]).devices.tolist() == [[[jax.devices()[0]]]]


@pytest.mark.parametrize("config", [(3, 1, 1), (-1, 3, 1), (-1, 4, 4), (4, 1, 1), (2, 2, 4), (-1, 16, 1)])
def test_devices_that_do_not_divide(config: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"8 devices; valid \(data, fsdp, tensor\): .*\(\d, \d, \d\)") as error:
        make_mesh(MeshConfig(*config))
    shapes = [tuple(map(int, part.split(", "))) for part in str(error.value).split("tensor): ")[1][1:-1].split("), (")]
    assert len(shapes) == 10
    assert all(a * b * c == 8 for a, b, c in shapes)


def test_batches() -> None:
    assert batch_sharding(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))).spec == PartitionSpec(("data", "fsdp"))


@pytest.mark.parametrize(
    ("config", "devices", "shape"),
    [
        ((-1, -1, 1), 8, (1, 8, 1)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((-1, -1, 4), 16, (1, 4, 4)),
        ((-1, 2, 1), 1024, (512, 2, 1)),
    ],
)
def test_mesh_shape(config: tuple[int, int, int], devices: int, shape: tuple[int, int, int]) -> None:
    assert mesh_shape(MeshConfig(*config), devices) == shape
