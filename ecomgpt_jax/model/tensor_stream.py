"""Writes safetensors files in pieces, so that no whole tensor needs to be in memory."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tqdm

from ecomgpt_jax import files
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_files import INDEX, SINGLE, is_finite
from ecomgpt_jax.parallel.host_memory import return_freed_memory

STORED = {"float32": "F32", "bfloat16": "BF16"}
ROWS = 16_384  # rows of an embedding in host memory at a time
MAX_SHARD_BYTES = 5 * 10**9


class Tensor(NamedTuple):
    """A tensor to write: its name in the file, its shape, an iterator over its rows, and its name in errors."""

    name: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[np.ndarray]]
    origin: str = ""


def write_file(path: Path, tensors: Iterable[Tensor], dtype: np.dtype) -> None:
    """Streams tensors into one safetensors file: length of the header, the header as JSON, the bytes in order.

    Raises:
      DataError: a tensor has values that are not finite, or their number differs from its shape.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    tensors, end = list(tensors), 0
    for name, shape, *_ in tensors:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": STORED[dtype.name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape, pieces, origin in tensors:
            written = 0
            for array in pieces():
                if not is_finite(array):
                    of = f"{origin}: weights of {name}" if origin else f"{name}: weights"
                    raise DataError(f"{of} are not finite; nothing was exported")
                written += array.size
                for start in range(0, len(array), ROWS):  # a wider dtype would need a second whole tensor
                    piece = np.ascontiguousarray(array[start : start + ROWS].astype(dtype, copy=False))
                    file.write(piece.view(np.uint8).data)
            if written != math.prod(shape):
                raise DataError(f"{name}: {written:,} values for shape {shape}; nothing was exported")
            return_freed_memory()
        file.flush()
        os.fsync(file.fileno())


def write_weights(
    directory: Path, tensors: Sequence[Tensor], dtype: np.dtype, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes the weights of a Hugging Face directory: one file, or several of at most `max_shard_bytes` with an index.

    Raises:
      DataError: see `write_file`.
    """
    shards = plan_shards(tensors, dtype.itemsize, max_shard_bytes)
    count = len(shards)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)] if count > 1 else [SINGLE]
    bar = tqdm.tqdm(zip(names, shards, strict=True), "write weights", count, unit="file", disable=None, delay=2)
    for name, shard in bar:
        write_file(directory / name, shard, dtype)
    if count > 1:
        where = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = dtype.itemsize * sum(math.prod(tensor.shape) for tensor in tensors)
        files.write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def plan_shards(tensors: Iterable[Tensor], itemsize: int, limit: int) -> list[list[Tensor]]:
    """Distributes tensors over files of at most `limit` bytes (a larger tensor has a separate file)."""
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * itemsize
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= size
    return shards
