"""The device mesh: three named axes, `data` and `fsdp` for the batch, `fsdp` and `tensor` for the weights."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.parallel.sharding import spec

AXES = ("data", "fsdp", "tensor")


def _valid_shapes(devices: int, mesh: MeshConfig) -> str:
    shapes = [
        (devices // (fsdp * tensor), fsdp, tensor)
        for tensor in range(1, devices + 1)
        for fsdp in range(1, devices + 1)
        if devices % (fsdp * tensor) == 0
    ]
    wanted = (mesh.data, mesh.fsdp, mesh.tensor)
    shapes.sort(key=lambda shape: -sum(have == want for have, want in zip(shape, wanted, strict=True)))
    return ", ".join(map(str, shapes[:12])) + (", …" if len(shapes) > 12 else "")


def mesh_shape(mesh: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Returns how many devices lie along `data`, `fsdp` and `tensor`.

    Raises:
      ConfigError: the axes do not multiply to the number of devices; lists shapes that do, nearest first.
    """
    data, fsdp = mesh.data, mesh.fsdp
    if fsdp < 0:
        data = max(1, data)
        fsdp = max(1, devices // (data * mesh.tensor))
    elif data < 0:
        data = max(1, devices // (fsdp * mesh.tensor))
    shape = (data, fsdp, mesh.tensor)
    if math.prod(shape) != devices:
        raise ConfigError(
            f"config: mesh.data={mesh.data} mesh.fsdp={mesh.fsdp} mesh.tensor={mesh.tensor} does not use exactly "
            f"{devices} devices; valid (data, fsdp, tensor): {_valid_shapes(devices, mesh)}"
        )
    return shape


def make_mesh(mesh: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over all `devices` (default: every device of every process) with axes `data`, `fsdp`, `tensor`.

    Raises:
      ConfigError: the axes do not multiply to the number of devices; lists shapes that do, nearest first.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(mesh, len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every batch array [batch, length]: rows over `data` and `fsdp`."""
    return NamedSharding(mesh, spec("batch"))
