"""Where every array lives: ONE table from logical axes to mesh axes, for weights and activations.

`ecomgpt_jax.model.parameters.param_shardings` applies it to the model's parameter table. An axis without a rule, and a
parameter that its mesh axis does not divide, are errors: nothing is left replicated by accident.
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecomgpt_jax.errors import ConfigError

# Logical axis -> mesh axes. Vectors as wide as `embed` (norms, output biases) are small: replicating them is cheaper
# than gathering them in every block.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "embed_vector": None,
    "heads": "tensor",
    "head_dim": None,
    "qkv": None,
    "mlp": "tensor",
    "layers": None,
    "rank": None,
}
_FIELD_OF_AXIS = {"vocab": "model.vocab_size", "embed": "model.embed", "heads": "model.heads", "mlp": "model.embed"}


def spec(*axes: str | None, name: str = "array") -> PartitionSpec:
    """Returns the partition of an array with these logical axes (None: never split).

    Raises:
      ConfigError: an axis has no rule.
    """
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise ConfigError(f"sharding: {name} has axis {axis!r}, which RULES of parallel/sharding.py does not name")
    return PartitionSpec(*(None if axis is None else RULES[axis] for axis in axes))


def array_sharding(name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of one array on `mesh`.

    Args:
      name: what to call it in an error.
      shape: its sizes.
      axes: its logical axes, one for each size.
      mesh: from `make_mesh`.

    Raises:
      ConfigError: an axis has no rule, or a size is no multiple of the mesh axes that split it.
    """
    if len(axes) != len(shape):
        raise ConfigError(f"sharding: {name} has shape {shape} but axes {axes}; name one axis for each size")
    partition = spec(*axes, name=name)
    for size, axis, mesh_axes in zip(shape, axes, partition, strict=True):
        ways = 1
        for mesh_axis in (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ():
            ways *= mesh.shape[mesh_axis]
        if size % ways:
            raise ConfigError(
                f"sharding: {name} {shape}: axis {axis!r} of {size} is not a multiple of mesh {mesh_axes}={ways}; "
                f"make {_FIELD_OF_AXIS.get(axis, axis)} a multiple of {ways} or lower mesh.{mesh_axes}"
            )
    return NamedSharding(mesh, partition)


def ambient_mesh() -> jax.sharding.AbstractMesh | None:
    """Returns the mesh of the enclosing `jax.set_mesh`, or None outside one."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to its rule under `jax.set_mesh`; outside one it returns `x` as it is."""
    return x if ambient_mesh() is None else jax.lax.with_sharding_constraint(x, spec(*axes))
