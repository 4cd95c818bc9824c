"""Sharding of every array: one table from logical axes to mesh axes, for weights and activations.

`ecomgpt_jax.model.parameters.param_shardings` applies it to the model's parameter table. An axis without a rule, and a
parameter that its mesh axis does not divide, are errors, so nothing is replicated by accident.
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ecomgpt_jax.errors import ConfigError

# Logical axis -> mesh axes. Vectors as wide as `embed` (norms, output biases) are small: replicating them is cheaper
# than gathering them in every block.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "group_batch": "data",  # rows of all devices that share one copy of the weights
    "length": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "embed_vector": None,
    "heads": "tensor",
    "kv_heads": "tensor",  # if there are fewer heads than devices, each device holds all (`replicates`)
    "head_dim": None,
    "qkv": None,
    "mlp": "tensor",
    "layers": None,
    "rank": None,
}
_WEIGHT_AXES = ("fsdp", "tensor")
_WHOLE_SHARE = 0.02  # of the weights may be replicated: the vectors
_WHOLE_WEIGHTS = 4096  # the same for small models, of which vectors are a larger share
_FIELD_OF_AXIS = {"vocab": "model.vocab_size", "embed": "model.embed", "heads": "model.heads", "mlp": "model.embed"}
_FIELD_OF_AXIS |= {"kv_heads": "model.kv_heads"}


def spec(*axes: str | None, name: str = "array") -> PartitionSpec:
    """Returns the partition of an array with these logical axes (None: never split).

    Raises:
      ConfigError: an axis has no rule.
    """
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise ConfigError(f"sharding: {name} has axis {axis!r}, which RULES of parallel/sharding.py does not name")
    return PartitionSpec(*(None if axis is None else RULES[axis] for axis in axes))


def replicates(shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh | AbstractMesh) -> bool:
    """Returns whether an array's `kv_heads` are fewer than the devices that share them, so that each holds all."""
    if "kv_heads" not in axes:
        return False
    size, ways = shape[list(axes).index("kv_heads")], mesh.shape[RULES["kv_heads"]]
    return size % ways != 0 and ways % size == 0


def array_sharding(
    name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh | AbstractMesh
) -> NamedSharding:
    """Returns the sharding of one array on `mesh`.

    Args:
      name: of the array, for error messages.
      shape: its sizes.
      axes: its logical axes, one for each size.
      mesh: from `make_mesh`.

    Raises:
      ConfigError: an axis has no rule, or a size is not a multiple of the mesh axes that split it.
    """
    if len(axes) != len(shape):
        raise ConfigError(f"sharding: {name} has shape {shape} but axes {axes}; name one axis for each size")
    if replicates(shape, axes, mesh):
        axes = tuple("head_dim" if axis == "kv_heads" else axis for axis in axes)  # head_dim is never split
    partition = spec(*axes, name=name)
    for size, axis, mesh_axes in zip(shape, axes, partition, strict=True):
        ways = 1
        for mesh_axis in (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ():
            ways *= mesh.shape[mesh_axis]
        if size % ways:
            raise ConfigError(
                f"sharding: {name} {shape}: axis {axis!r} of {size} is not a multiple of mesh {mesh_axes}={ways}; "
                f"set mesh.{mesh_axes}={math.gcd(size, ways)} (mesh.data=-1 takes the devices left over), or make "
                f"{_FIELD_OF_AXIS.get(axis, axis)} a multiple of {ways} where the weights are fresh"
            )
    return NamedSharding(mesh, partition)


def check_split(arrays: Sequence[tuple[tuple[int, ...], NamedSharding]], mesh: Mesh | AbstractMesh) -> None:
    """Checks that no device of the mesh holds much more than an equal share of the weights.

    Args:
      arrays: shape and sharding of each.
      mesh: whose `fsdp` and `tensor` axes split them.

    Raises:
      ConfigError: each device holds over 2 % of all weights beyond an equal share.
    """
    ways = math.prod(size for axis, size in mesh.shape.items() if axis in _WEIGHT_AXES)
    total = sum(math.prod(shape) for shape, _ in arrays)
    held = sum(math.prod(sharding.shard_shape(shape)) for shape, sharding in arrays)
    whole = held - total / ways
    if whole > max(_WHOLE_SHARE * total, _WHOLE_WEIGHTS):
        raise ConfigError(
            f"sharding: each device would hold {whole / total:.1%} of the weights beyond its 1/{ways} (at most "
            f"{_WHOLE_SHARE:.0%}); RULES of parallel/sharding.py must split them over fsdp and tensor"
        )


def ambient_mesh() -> AbstractMesh | None:
    """Returns the mesh of the enclosing `jax.set_mesh`, or None outside one."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def ambient_platform() -> str:
    """Returns `cpu`, `gpu` or `tpu`: the platform of the ambient mesh, or of the default device outside one."""
    mesh = ambient_mesh()
    return mesh.abstract_device.platform if mesh and mesh.abstract_device else jax.default_backend()


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation to its rule under `jax.set_mesh`; outside one returns `x` unchanged."""
    mesh = ambient_mesh()
    if mesh is None:
        return x
    if replicates(x.shape, axes, mesh):
        axes = tuple(None if axis == "kv_heads" else axis for axis in axes)
    return jax.lax.with_sharding_constraint(x, spec(*axes))
