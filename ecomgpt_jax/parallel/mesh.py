"""The device mesh: three named axes, `data` and `fsdp` for the batch, `fsdp` and `tensor` for the weights."""

import contextlib
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.parallel.sharding import RULES, spec

AXES = ("data", "fsdp", "tensor")


def _shapes(devices: int, mesh: MeshConfig) -> list[tuple[int, int, int]]:
    """Returns every (data, fsdp, tensor) of that many devices, those nearest to `mesh` first."""
    shapes = [
        (devices // (fsdp * tensor), fsdp, tensor)
        for tensor in range(1, devices + 1)
        for fsdp in range(1, devices + 1)
        if devices % (fsdp * tensor) == 0
    ]
    wanted = (mesh.data, mesh.fsdp, mesh.tensor)
    return sorted(shapes, key=lambda shape: -sum(have == want for have, want in zip(shape, wanted, strict=True)))


def _listed(shapes: Sequence[tuple[int, int, int]]) -> str:
    return ", ".join(map(str, shapes[:12])) + (", …" if len(shapes) > 12 else "")


def mesh_shape(mesh: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Returns the numbers of devices along `data`, `fsdp` and `tensor`.

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
            f"{devices} devices; valid (data, fsdp, tensor): {_listed(_shapes(devices, mesh))}"
        )
    return shape


def make_mesh(mesh: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over all `devices` (default: every device of every process) with axes `data`, `fsdp`, `tensor`.

    Raises:
      ConfigError: the axes do not multiply to the number of devices, or the network that connects them does not
        support the mesh; lists shapes that fit, nearest first.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(mesh, len(devices))
    try:
        return _lay_out(shape, devices)
    except (NotImplementedError, ValueError) as error:
        fitting = [other for other in _shapes(len(devices), mesh) if _fits(other, devices)]
        raise ConfigError(
            f"config: mesh.data={shape[0]} mesh.fsdp={shape[1]} mesh.tensor={shape[2]} cannot be laid out on the "
            f"network of these {len(devices)} devices ({str(error).splitlines()[0].split('. ')[0]}); "
            f"valid (data, fsdp, tensor): {_listed(fitting)}"
        ) from error


def _lay_out(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> Mesh:
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def _fits(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> bool:
    try:
        _lay_out(shape, devices)
    except (NotImplementedError, ValueError):
        return False
    return True


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every batch array [batch, length]: rows over `data` and `fsdp`."""
    return NamedSharding(mesh, spec("batch"))


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Returns a context in which computations run on the mesh; with None, on the devices of their arguments."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def batch_shards(mesh: Mesh | None) -> int:
    """Returns the number of parts that the mesh splits a batch into; 1 without a mesh."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])


def held_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Returns the numbers, ascending, of the rows of a batch [rows, ...] that devices of this process hold.

    Processes that hold the same part of the batch, for example if `tensor` spans hosts, get the same rows.

    Raises:
      ConfigError: no device of the mesh belongs to this process.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    if not held:
        raise ConfigError(
            f"config: mesh {dict(mesh.shape)} has no device of process {jax.process_index()}; "
            "use every device of every process"
        )
    return np.unique(np.concatenate([np.arange(rows)[index] for index in held]))
