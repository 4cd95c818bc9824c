"""Streams weights from the devices: the tensors of Hugging Face's files, and the rows of each in order."""

from collections.abc import Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ecomgpt_jax.model.lora import Adapters, merge_layer
from ecomgpt_jax.model.parameters import Parameter, Params, leaf_of
from ecomgpt_jax.model.tensor_stream import ROWS, Tensor


def _to_host(array: jax.Array | np.ndarray, layer: int | None) -> np.ndarray:
    """Returns an array, or one layer of it, on the host; every process must call it if the parts are on several."""
    if isinstance(array, np.ndarray) or not array.is_fully_addressable:
        part = array if layer is None else array[layer]
        return part if isinstance(part, np.ndarray) else multihost_utils.process_allgather(part, tiled=True)
    # An array keeps the host buffer of its first read for its lifetime, so a copy is read.
    if array.sharding.num_devices == 1:
        return np.asarray(jnp.copy(array if layer is None else array[layer]))
    out = np.empty(array.shape if layer is None else array.shape[1:], array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            index, data = (shard.index, shard.data) if layer is None else (shard.index[1:], shard.data[layer])
            out[index] = np.asarray(jnp.copy(data))
    return out


def tensor_pieces(params: Params, parameter: Parameter, layer: int, adapters: Adapters | None) -> Iterator[np.ndarray]:
    """Yields one tensor on the host, its adapters added in float32; the embedding of one device some rows at a time.

    Every process must call it.
    """
    if parameter.stacked and isinstance(params["blocks"], tuple):
        leaf, index = leaf_of(params["blocks"][layer], parameter.path[1:]), None
    else:
        leaf, index = leaf_of(params, parameter.path), layer if parameter.stacked else None
    if adapters is not None and parameter.stacked and parameter.inputs and parameter.path[1] in adapters.layers:
        kernel = leaf if index is None else leaf[index]
        a, b = (adapters.layers[parameter.path[1]][name][layer] for name in ("lora_a", "lora_b"))
        yield _to_host(merge_layer(kernel, a, b, adapters.scale), None)
    elif (
        len(parameter.shape) == 2
        and not parameter.stacked
        and isinstance(leaf, jax.Array)
        and leaf.sharding.num_devices == 1
    ):
        for start in range(0, len(leaf), ROWS):
            yield np.asarray(jax.lax.dynamic_slice_in_dim(leaf, start, min(ROWS, len(leaf) - start)))
    else:
        yield _to_host(leaf, index)


def hf_tensors(params: Params, table: Iterable[Parameter], adapters: Adapters | None) -> list[Tensor]:
    """Returns the tensors of a table of parameters in HF's names and layout, in order; `tensor_pieces` reads them."""

    def rows(parameter: Parameter, layer: int) -> Iterator[np.ndarray]:
        for array in tensor_pieces(params, parameter, layer, adapters):
            yield parameter.to_hf(array) if parameter.stacked else array

    return [
        Tensor(p.hf_prefix + name, p.hf_shape, partial(rows, p, layer), p.name)
        for p in table
        for layer, name in enumerate(p.hf_names)
    ]
