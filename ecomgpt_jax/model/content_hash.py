"""A hash of the values of weights, independent of their sharding: one pass over each array on its devices.

Each value is mixed with its position in the array into 32 bits (the finaliser of MurmurHash3, a bijection for a given
position, so one changed value always changes the sum), and summed modulo 2^32, once directly and once times an odd
number of the position. Sums of integers do not round and do not depend on their order, so mesh, hosts and file layout
have no influence. Two arrays that differ in more than one value have equal sums with a probability of about 2^-64; the
hash is not cryptographic.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.host_memory import return_freed_memory

_PIECE = 1 << 22  # values mixed in one call: its temporaries are a few times 16 MiB


def _mix(bits: jax.Array) -> jax.Array:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


@jax.jit
def _sums(piece: jax.Array, first: np.uint32, strides: np.ndarray) -> jax.Array:
    """Returns [2] uint32 of an array; `first` is the position of its first value, `strides` those of its axes."""
    position = jnp.full(piece.shape, first, jnp.uint32)
    for axis in range(piece.ndim):
        position += jax.lax.broadcasted_iota(jnp.uint32, piece.shape, axis) * strides[axis]
    bits = jax.lax.bitcast_convert_type(piece.astype(jnp.float32), jnp.uint32)
    mixed = _mix(bits ^ _mix(position + jnp.uint32(0x9E3779B9)))
    odd = (position * jnp.uint32(0x9E3779B1)) | jnp.uint32(1)
    return jnp.stack([mixed.sum(dtype=jnp.uint32), (mixed * odd).sum(dtype=jnp.uint32)])


def _pieces(array: jax.Array, first: int, strides: Sequence[int]) -> Iterator[tuple[jax.Array, int, Sequence[int]]]:
    """Yields arguments of `_sums` for parts of an array on one device, none much larger than `_PIECE`."""
    if array.size <= _PIECE:
        yield array, first, strides
        return
    rows = max(1, _PIECE * len(array) // array.size)
    for index in range(0, len(array), rows):
        start = first + index * strides[0]
        if rows == 1 and array.ndim > 1:
            yield from _pieces(jax.lax.dynamic_index_in_dim(array, index, keepdims=False), start, strides[1:])
        else:
            yield jax.lax.dynamic_slice_in_dim(array, index, min(rows, len(array) - index)), start, strides


def _sums_here(array: jax.Array, first: int) -> np.ndarray:
    """Returns the sums over the parts of an array that this process holds, each part once over all processes."""
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    parts = [(array, first)]
    if len(array.sharding.device_set) > 1:
        parts = [
            (shard.data, first + sum((at.start or 0) * stride for at, stride in zip(shard.index, strides, strict=True)))
            for shard in array.addressable_shards
            if shard.replica_id == 0
        ]
    total = np.zeros(2, np.uint32)
    with jax.set_mesh(Mesh(np.empty((), object), ())):  # a part is on one device, whatever the caller's mesh
        for piece, at, steps in (found for part, start in parts for found in _pieces(part, start, strides)):
            total += np.asarray(_sums(piece, np.uint32(at % 2**32), np.array(steps, np.int64).astype(np.uint32)))
    return total


def content_hash(params: Params) -> str:
    """Returns 64 hexadecimal digits that are the same for the same names, shapes and values, and only for those.

    A value is hashed as float32: bfloat16 weights and the same numbers in float32 have one hash, and so have stacked
    and layered params. Every process of a run must call this.
    """
    tree = dict(params)
    if isinstance(params["blocks"], tuple):
        tree["blocks"] = jax.tree.map(lambda *leaves: list(leaves), *params["blocks"])
    names, sums = [], []
    # jax flattens dictionaries in order of their keys.
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: isinstance(node, list)):
        layers = leaf if isinstance(leaf, list) else [leaf]
        shape = (len(leaf), *leaf[0].shape) if isinstance(leaf, list) else leaf.shape
        names.append(f"{jax.tree_util.keystr(path)} {shape} ")
        sums.append(sum(_sums_here(layer, index * layer.size) for index, layer in enumerate(layers)))
    return_freed_memory()
    total = np.stack(sums)
    if jax.process_count() > 1:
        total = multihost_utils.process_allgather(total).sum(axis=0, dtype=np.uint32)
    return hashlib.sha256("".join(names).encode() + total.tobytes()).hexdigest()
