"""Reads weights in HF's layout strictly and writes them atomically, one tensor at a time, through safetensors.

Reading copies each tensor directly to the devices of its parameter's sharding (the embedding, which is a large share of
a small model, some rows at a time); writing streams each into its file. Besides the devices' arrays at most two tensors
are in memory. Names, shapes and transforms come from the parameter table.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from ecomgpt_jax import files
from ecomgpt_jax.config import ModelConfig, check_shape
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.model import hf_shards
from ecomgpt_jax.model.families import FAMILIES, OF_MODEL_TYPE
from ecomgpt_jax.model.hf_config import number
from ecomgpt_jax.model.hf_files import Tensors, check_tensors, copy_tokenizer, own_dtype
from ecomgpt_jax.model.hf_shards import hf_tensors
from ecomgpt_jax.model.lora import Adapters
from ecomgpt_jax.model.parameters import (
    Parameter,
    Params,
    layer_sharding,
    leaf_of,
    param_shardings,
    parameter_table,
    to_layers,
    to_tree,
)
from ecomgpt_jax.model.tensor_stream import MAX_SHARD_BYTES, STORED, write_weights
from ecomgpt_jax.parallel.host_memory import return_freed_memory


def model_config_from_hf(directory: str | os.PathLike[str]) -> ModelConfig:
    """Returns the shape that an HF directory's config.json describes; the vocabulary is the embedding's row count.

    The family follows from its model_type. The compute dtype is the checkpoint's own (`own_dtype`), and float32 for
    float16.

    Raises:
      MissingInputError: no such directory, or no config.json in it.
      DataError: config.json is malformed, or describes a network of no family; names the key.
    """
    path = Path(directory) / "config.json"
    values = files.read_json(path)
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in OF_MODEL_TYPE:
        raise DataError(f"{path}: model_type is {kind!r}; only {', '.join(map(repr, OF_MODEL_TYPE))} can be loaded")
    family, where = OF_MODEL_TYPE[kind], str(path)
    model = ModelConfig(
        family=family,
        vocab_size=number(values, where, int, "vocab_size"),
        initializer_range=number(values, where, float, "initializer_range", default=0.02),
        compute_dtype="bfloat16" if own_dtype(directory) == "bfloat16" else "float32",
        **FAMILIES[family].shape_from_hf(values, where),
    )
    try:
        check_shape(model)
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from None
    return model


def _check(checkpoint: Tensors, table: Iterable[Parameter]) -> None:
    """Checks that the tensors of a checkpoint are exactly those of the table; it may also contain a tied head.

    Angles of the rotation in older checkpoints are ignored: they follow from config.json.
    """
    shapes = {name: parameter.hf_shape for parameter in table for name in parameter.hf_names}
    head, angles = "lm_head.weight", {name for name in checkpoint.shapes if name.endswith("rotary_emb.inv_freq")}
    check_tensors(checkpoint.directory, shapes, checkpoint.shapes, {head} | angles)
    if head in checkpoint.shapes and head not in shapes:
        (embedding,) = next(parameter for parameter in table if parameter.name == "embedding/table").hf_names
        vocab = shapes[embedding][0]
        tied = checkpoint.shapes[head] == shapes[embedding] and all(
            np.array_equal(checkpoint.read(head, rows), checkpoint.read(embedding, rows))
            for rows in (slice(i, min(i + hf_shards.ROWS, vocab)) for i in range(0, vocab, hf_shards.ROWS))
        )
        if not tied:
            raise DataError(f"{checkpoint.directory}: lm_head.weight differs from the embedding, but the head is tied")


def _place(tensor: np.ndarray, sharding: Sharding, dtype: Any) -> jax.Array:
    """Copies a host array to the devices of a sharding; each process copies its own parts."""
    return jax.make_array_from_callback(
        tensor.shape, sharding, lambda index: np.asarray(tensor[index], dtype, copy=None)
    )


@lru_cache(maxsize=64)
def _stacking(shape: tuple[int, ...], dtype: Any, sharding: Sharding) -> tuple[Callable, Callable]:
    """Returns programs that make an empty stacked array, and copy one layer into it in place."""
    put = partial(jax.lax.dynamic_update_index_in_dim, axis=0)
    return (
        jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding),
        jax.jit(put, out_shardings=sharding, donate_argnums=0),
    )


@partial(jax.jit, donate_argnums=0)
def _put_rows(part: jax.Array, rows: jax.Array, start: jax.typing.ArrayLike) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(part, rows, start, axis=0)


def _load_matrix(checkpoint: Tensors, parameter: Parameter, sharding: Sharding, dtype: Any) -> jax.Array:
    """Reads the embedding some rows at a time into the arrays of the devices; each process reads only their rows."""
    holders: dict[tuple[int, int], list[tuple[jax.Device, slice]]] = {}
    for device, (rows, columns) in sharding.addressable_devices_indices_map(parameter.shape).items():
        holders.setdefault(rows.indices(parameter.shape[0])[:2], []).append((device, columns))
    shape, parts = sharding.shard_shape(parameter.shape), {}
    with jax.set_mesh(Mesh(np.empty((), object), ())):  # a part is on one device, whatever the caller's mesh
        for (begin, end), devices in holders.items():
            parts |= {device: jnp.zeros(shape, dtype, device=device) for device, _ in devices}
            for start in range(begin, end, hf_shards.ROWS):
                rows = checkpoint.read(parameter.hf_name, slice(start, min(start + hf_shards.ROWS, end)))
                for device, columns in devices:
                    piece = jax.device_put(np.ascontiguousarray(rows[:, columns]).astype(dtype, copy=False), device)
                    parts[device] = jax.block_until_ready(_put_rows(parts[device], piece, start - begin))
    return jax.make_array_from_single_device_arrays(parameter.shape, sharding, list(parts.values()))


def _load_parameter(
    checkpoint: Tensors, parameter: Parameter, sharding: Sharding, dtype: Any, layered: bool
) -> jax.Array | list[jax.Array]:
    """Reads a parameter tensor by tensor; the tensor of each block is copied into the stacked array on the devices."""
    if not parameter.stacked:
        if len(parameter.shape) == 2:
            return _load_matrix(checkpoint, parameter, sharding, dtype)
        return _place(parameter.from_hf(checkpoint.read(parameter.hf_name)), sharding, dtype)
    place = layer_sharding(sharding)
    if layered:
        read = (parameter.from_hf(checkpoint.read(name)) for name in parameter.hf_names)
        return [jax.block_until_ready(_place(layer, place, dtype)) for layer in read]
    make_empty, put_layer = _stacking(parameter.shape, jnp.dtype(dtype), sharding)
    stacked = make_empty()
    for index, name in enumerate(parameter.hf_names):
        layer = _place(parameter.from_hf(checkpoint.read(name)), place, dtype)
        stacked = jax.block_until_ready(put_layer(stacked, layer, index))  # otherwise all would be in host memory
    return stacked


def load_hf(
    directory: str | os.PathLike[str], model: ModelConfig | None = None, mesh: Mesh | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32, *, layered: bool = False,
) -> Params:  # fmt: skip
    """Reads an HF checkpoint: one file or several with an index, names with or without prefix.

    Args:
      directory: holds config.json and the weights (`hf_files.py`), in float32, float16 or bfloat16.
      model: the shape to expect; None: config.json's.
      mesh: devices of the weights, sharded by parallel/sharding.py; None: the default device.
      dtype: of the returned arrays.
      layered: one pytree per block instead of stacked arrays (`parameters.Params`).

    Raises:
      MissingInputError: the directory or a file does not exist.
      DataError: a tensor is missing, unknown, misshapen, not finite, or a file is damaged; names the tensor.
      ConfigError: the mesh does not divide a parameter.
    """
    directory = Path(directory)
    model = model_config_from_hf(directory) if model is None else model
    table = parameter_table(model)
    shardings = None if mesh is None else param_shardings(model, mesh)
    one_device = SingleDeviceSharding(jax.local_devices()[0])
    checkpoint = Tensors(directory)
    _check(checkpoint, table)
    leaves = {}
    for parameter in tqdm.tqdm(table, desc="load weights", unit="parameter", disable=None, delay=2):
        sharding = one_device if shardings is None else leaf_of(shardings, parameter.path)
        leaves[parameter.path] = _load_parameter(checkpoint, parameter, sharding, dtype, layered)
        return_freed_memory()
    return to_layers(leaves) if layered else to_tree(leaves)


def hf_config(
    model: ModelConfig, dtype: str, token_ids: Mapping[str, Any] | None = None, seq_length: int = 0
) -> dict[str, Any]:
    """Returns the config.json of a model of this shape.

    A role that `token_ids` ({"eos_token_id": id or ids, ...}) does not name is written as null, since HF would assume
    an id. Servers use `seq_length` as the context; 0 omits it.
    """
    return {
        **FAMILIES[model.family].hf_config(model, seq_length),
        "torch_dtype": dtype,
        **{f"{role}_token_id": (token_ids or {}).get(f"{role}_token_id") for role in ("unk", "bos", "eos", "pad")},
    }


def _check_params(params: Params, model: ModelConfig) -> None:
    expected = {parameter.path: parameter.shape for parameter in parameter_table(model)}
    if isinstance(params["blocks"], tuple):
        blocks = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((model.layers, *leaf.shape), leaf.dtype), params["blocks"]
        )
        if len(blocks) != model.layers or any(block != blocks[0] for block in blocks):
            raise DataError(
                f"params blocks: {len(blocks)} blocks or their shapes; the model needs {model.layers} alike"
            )
        params = params | {"blocks": blocks[0]}
    have = {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for path in expected.keys() | have.keys():
        shape = have[path].shape if path in have else None
        if shape != expected.get(path):
            raise DataError(f"params {'/'.join(path)}: shape {shape}, the model needs {expected.get(path)}")


def save_hf(
    params: Params, model: ModelConfig, directory: str | os.PathLike[str], dtype: str = "float32",
    tokenizer_dir: str | os.PathLike[str] | None = None, max_shard_bytes: int = MAX_SHARD_BYTES, card: str = "",
    adapters: Adapters | None = None, token_ids: Mapping[str, Any] | None = None, seq_length: int = 0,
) -> None:  # fmt: skip
    """Writes a checkpoint for HF's `AutoModelForCausalLM.from_pretrained` and `load_hf`, completely or not at all.

    Args:
      params: the weights, stacked or layered.
      model: their shape.
      directory: must not exist or be empty.
      dtype: `float32` or `bfloat16`, of the stored weights.
      tokenizer_dir: directory with tokenizer files to copy and the ids of special tokens in generation_config.json (as
        `Tokenizer.save` writes it); None: weights only.
      max_shard_bytes: of the tensors in one file; several files get an index.
      card: text of the model card (README.md); empty: none.
      adapters: added to each kernel in float32 as it is written.
      token_ids: ids of special tokens, if there is no `tokenizer_dir` (see `hf_config`).
      seq_length: positions that the weights were trained on; 0: unknown.

    Raises:
      ConfigError: an unknown dtype, or the directory is in use.
      MissingInputError: `tokenizer_dir` has no tokenizer.json or no generation_config.json.
      DataError: the weights do not have the model's shape or are not finite.
    """
    directory = Path(directory)
    if dtype not in STORED:
        raise ConfigError(f"dtype {dtype!r} is none of {', '.join(STORED)}")
    # Only process 0 checks: another one may still find a directory that process 0 has removed, and would stop alone.
    if jax.process_index() == 0 and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory}: exists already; choose another place or remove it")
    _check_params(params, model)
    stored = np.dtype(jnp.dtype(dtype))
    tensors = hf_tensors(params, parameter_table(model), adapters)
    if jax.process_index() != 0:
        for tensor in tensors:
            for _ in tensor.pieces():  # process 0 reads the other processes' parts
                pass
        return
    with files.new_directory(directory) as scratch:
        if tokenizer_dir is not None:
            token_ids = copy_tokenizer(Path(tokenizer_dir), scratch)
        write_weights(scratch, tensors, stored, max_shard_bytes)
        files.write_json(scratch / "config.json", hf_config(model, dtype, token_ids, seq_length))
        if token_ids:
            files.write_json(scratch / "generation_config.json", token_ids)
        if card:
            files.write_text(scratch / "README.md", card)
