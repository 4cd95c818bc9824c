"""A hash of the values of weights, whatever lies where: one pass over each array on the devices that hold it.

Each value is mixed with its position in the array into 32 bits (the finaliser of MurmurHash3, a bijection for a given
position, so one changed value always changes the sum), and summed modulo 2^32, once as it is and once times an odd
number of the position. Sums of integers have no rounding and no order: mesh, hosts and the file's layout do not matter.
Two arrays that differ in more than one value agree in both sums with a chance of about 2^-64; nothing here withstands
somebody who looks for such a pair.
"""

import hashlib
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.model.parameters import Params


def _mix(bits: jax.Array) -> jax.Array:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


@jax.jit
def _sums(array: jax.Array, first: jax.typing.ArrayLike = 0) -> jax.Array:
    """Returns [2] uint32 of an array of any shape, in float32 or bfloat16; `first` is its first value's position."""
    position = jnp.full(array.shape, first, jnp.uint32)
    for axis in range(array.ndim):
        stride = jnp.uint32(math.prod(array.shape[axis + 1 :]) % 2**32)
        position += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * stride
    bits = jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)
    mixed = _mix(bits ^ _mix(position + jnp.uint32(0x9E3779B9)))
    odd = (position * jnp.uint32(0x9E3779B1)) | jnp.uint32(1)
    return jnp.stack([mixed.sum(dtype=jnp.uint32), (mixed * odd).sum(dtype=jnp.uint32)])


def _layered_sums(leaves: Sequence[jax.Array]) -> np.ndarray:
    firsts = (np.uint32(index * leaf.size % 2**32) for index, leaf in enumerate(leaves))
    return np.sum([_sums(leaf, first) for leaf, first in zip(leaves, firsts, strict=True)], axis=0, dtype=np.uint32)


def content_hash(params: Params) -> str:
    """Returns 64 hexadecimal digits that are the same for the same names, shapes and values, and only for those.

    A value is hashed as float32: bfloat16 weights and the same numbers in float32 have one hash, and so have stacked
    and layered params. Every process of a run must call this.
    """
    tree = dict(params)
    if isinstance(params["blocks"], tuple):
        tree["blocks"] = jax.tree.map(lambda *leaves: list(leaves), *params["blocks"])
    found = hashlib.sha256()
    # Dictionaries come in order of their keys.
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: isinstance(node, list)):
        layered = isinstance(leaf, list)
        shape, sums = ((len(leaf), *leaf[0].shape), _layered_sums(leaf)) if layered else (leaf.shape, _sums(leaf))
        found.update(f"{jax.tree_util.keystr(path)} {shape} ".encode() + np.asarray(sums).tobytes())
    return found.hexdigest()
