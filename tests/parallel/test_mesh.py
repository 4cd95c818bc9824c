import dataclasses
import re

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.parallel import mesh as mesh_lib
from ecomgpt_jax.parallel.mesh import AXES, batch_sharding, batch_shards, held_rows, make_mesh, mesh_shape


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


@dataclasses.dataclass(frozen=True)
class Chip:
    """What jax asks of a TPU v6e when it lays out a mesh; four chips to a host."""

    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    slice_index: int = 0

    @property
    def id(self) -> int:
        return 4 * self.coords[1] + self.coords[0]

    @property
    def process_index(self) -> int:
        return 2 * (self.coords[1] // 2) + self.coords[0] // 2


CHIPS = [Chip((x, y, 0)) for y in range(4) for x in range(4)]


@pytest.mark.parametrize("shape", [(1, 8, 2), (2, 8, 1), (8, -1, 2)])
def test_a_mesh_that_the_network_does_not_have(shape: tuple[int, int, int]) -> None:
    """A 4x4 torus has no axis of eight chips; what is named instead can be made."""
    with pytest.raises(ConfigError, match=r"16 devices \(Failed to .*valid \(data, fsdp, tensor\): \(") as error:
        make_mesh(MeshConfig(*shape), CHIPS)
    shapes = re.findall(r"\((\d+), (\d+), (\d+)\)", str(error.value))
    assert len(shapes) == 6
    for valid in shapes:
        assert make_mesh(MeshConfig(*map(int, valid)), CHIPS).size == 16


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 2, 4), (1, 1, 8)])
def test_one_process_holds_all_rows(shape: tuple[int, int, int]) -> None:
    """`tests/training/test_hosts.py` asks two processes."""
    mesh = make_mesh(MeshConfig(*shape))
    assert batch_shards(mesh) == shape[0] * shape[1]
    assert held_rows(mesh, 16).tolist() == list(range(16))


def test_a_process_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    sharding = type("Sharding", (), {"addressable_devices_indices_map": lambda self, shape: {}})()
    monkeypatch.setattr(mesh_lib, "batch_sharding", lambda mesh: sharding)
    with pytest.raises(ConfigError, match="no device of process 0"):
        held_rows(make_mesh(MeshConfig()), 16)
