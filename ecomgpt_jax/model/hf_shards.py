"""Weights streamed from the devices into safetensors files: which tensor goes where, and its bytes in order."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_files import PREFIX, is_finite
from ecomgpt_jax.model.lora import Adapters, merge_layer
from ecomgpt_jax.model.parameters import Parameter, Params, leaf_of

STORED = {"float32": "F32", "bfloat16": "BF16"}
ROWS = 16_384  # rows of the embedding that the host holds at one time


def _to_host(array: jax.Array | np.ndarray, layer: int | None) -> np.ndarray:
    """Returns an array, or one layer of it, on the host; every process takes part where the parts lie on several."""
    if isinstance(array, np.ndarray) or not array.is_fully_addressable:
        part = array if layer is None else array[layer]
        return part if isinstance(part, np.ndarray) else multihost_utils.process_allgather(part, tiled=True)
    # An array keeps what it was read into as long as it lives, so a copy of it is read.
    if array.sharding.num_devices == 1:
        return np.asarray(jnp.copy(array if layer is None else array[layer]))
    out = np.empty(array.shape if layer is None else array.shape[1:], array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            index, data = (shard.index, shard.data) if layer is None else (shard.index[1:], shard.data[layer])
            out[index] = np.asarray(jnp.copy(data))
    return out


def tensor_pieces(params: Params, parameter: Parameter, layer: int, adapters: Adapters | None) -> Iterator[np.ndarray]:
    """Yields one tensor on the host, its adapters added in float32, the embedding of one device some rows at a time.

    Every process takes part.
    """
    if parameter.stacked and isinstance(params["blocks"], tuple):
        leaf, index = leaf_of(params["blocks"][layer], parameter.path[1:]), None
    else:
        leaf, index = leaf_of(params, parameter.path), layer if parameter.stacked else None
    if adapters is not None and parameter.stacked and parameter.inputs and parameter.path[1] in adapters.layers:
        kernel = leaf if index is None else leaf[index]
        a, b = (adapters.layers[parameter.path[1]][name][layer] for name in ("lora_a", "lora_b"))
        yield _to_host(merge_layer(kernel, a, b, adapters.scale), None)
    elif parameter.name == "embedding/table" and isinstance(leaf, jax.Array) and leaf.sharding.num_devices == 1:
        for start in range(0, len(leaf), ROWS):
            yield np.asarray(jax.lax.dynamic_slice_in_dim(leaf, start, min(ROWS, len(leaf) - start)))
    else:
        yield _to_host(leaf, index)


def write_shard(
    path: Path,
    tensors: list[tuple[str, Parameter, int]],
    dtype: np.dtype,
    read: Callable[[Parameter, int], Iterator[np.ndarray]],
) -> None:
    """Streams tensors into one safetensors file: length of the header, the header as JSON, the bytes in order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter, _ in tensors:
        start, end = end, end + math.prod(parameter.hf_shape) * dtype.itemsize
        header[name] = {"dtype": STORED[dtype.name], "shape": parameter.hf_shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, parameter, layer in tensors:
            for array in read(parameter, layer):
                if not is_finite(array):
                    raise DataError(f"{parameter.name}: weights of {name} are not finite; nothing was exported")
                rows = parameter.to_hf(array) if parameter.stacked else array
                for start in range(0, len(rows), ROWS):  # or a wider dtype would take the whole tensor once more
                    piece = np.ascontiguousarray(rows[start : start + ROWS].astype(dtype, copy=False))
                    file.write(piece.view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def plan_shards(table: Iterable[Parameter], itemsize: int, limit: int) -> list[list[tuple[str, Parameter, int]]]:
    """Deals the tensors out over files of at most `limit` bytes (a larger tensor has one of its own)."""
    shards: list[list[tuple[str, Parameter, int]]] = []
    room = 0
    for parameter in table:
        size = math.prod(parameter.hf_shape) * itemsize
        for layer, name in enumerate(parameter.hf_names):
            if not shards or size > room:
                shards.append([])
                room = limit
            shards[-1].append((PREFIX + name, parameter, layer))
            room -= size
    return shards
