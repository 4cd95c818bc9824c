"""BLOOM weights in HF's layout: read strictly and written whole, one tensor at a time, through safetensors.

Reading puts each parameter straight where its sharding says: beside the result, no more than one parameter is held.
Writing streams each tensor into its file. Names, shapes and transforms come from the parameter table.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open

from ecomgpt_jax import files
from ecomgpt_jax.config import MODEL_SHAPES, ModelConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model.parameters import Parameter, Params, leaf_of, param_shardings, parameter_table, to_tree

UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PREFIX = "transformer."
_STORED = {"float32": "F32", "bfloat16": "BF16"}
_ROWS_COMPARED = 16_384  # rows of the head and the embedding held at one time to see that they are tied


def model_config_from_hf(directory: str | os.PathLike[str]) -> ModelConfig:
    """Returns the shape that an HF directory's config.json describes; the vocabulary is the embedding's row count.

    Raises:
      MissingInputError: no such directory, or no config.json in it.
      DataError: config.json is malformed, or describes what this BLOOM is not.
    """
    path = Path(directory) / "config.json"
    values = files.read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != "bloom":
        kind = values.get("model_type") if isinstance(values, dict) else None
        raise DataError(f"{path}: model_type is {kind!r}; only 'bloom' can be loaded")
    for key, expected in (("apply_residual_connection_post_layernorm", False), ("tie_word_embeddings", True)):
        if values.get(key, expected) != expected:
            raise DataError(f"{path}: {key}={values[key]!r} is not supported, only {expected}")

    def number(kind: type, *names: str, default: float | None = None) -> Any:
        value = next((values[name] for name in names if values.get(name) is not None), default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != kind(value) or value <= 0:
            raise DataError(f"{path}: {names[0]} is {value!r}; it must be a positive {kind.__name__}")
        return kind(value)

    shape = {
        "embed": number(int, "hidden_size", "n_embed"),
        "layers": number(int, "n_layer", "num_hidden_layers"),
        "heads": number(int, "n_head", "num_attention_heads"),
    }
    if shape["embed"] % shape["heads"]:
        raise DataError(f"{path}: hidden_size={shape['embed']} is not a multiple of n_head={shape['heads']}")
    return ModelConfig(
        size=next((size for size, known in MODEL_SHAPES.items() if known == shape), "custom"),
        vocab_size=number(int, "vocab_size"),
        layer_norm_epsilon=number(float, "layer_norm_epsilon", default=1e-5),
        initializer_range=number(float, "initializer_range", default=0.02),
        **shape,
    )


def _weight_files(directory: Path) -> list[Path]:
    """Returns the safetensors files of an HF directory."""
    if not directory.is_dir():
        raise MissingInputError(f"{directory}: no such directory")
    if (directory / INDEX).exists():
        index = files.read_json(directory / INDEX)
        names = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise DataError(f"{directory / INDEX}: weight_map must give a file name for each tensor")
        paths = [directory / name for name in sorted(set(names.values()))]
        for path in paths:
            if path.parent != directory:
                raise DataError(f"{directory / INDEX}: {path.name!r} lies outside the directory")
    elif (directory / "model.safetensors").exists():
        paths = [directory / "model.safetensors"]
    elif any(directory.glob("*.bin")):
        raise DataError(f"{directory}: holds only .bin weights, which are pickles; save it as safetensors first")
    else:
        raise MissingInputError(f"{directory}: neither model.safetensors nor {INDEX}")
    for path in paths:
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file, though {INDEX} names it")
    return paths


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a safetensors file for one read; left open, every page ever read would count as this process's memory."""
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise DataError(f"{path}: damaged or not a safetensors file ({error})") from None


class _Checkpoint:
    """The tensors of an HF directory by name without prefix, each read when asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._where: dict[str, tuple[Path, str]] = {}
        for path in _weight_files(directory):
            with _opened(path) as file:
                for stored in file.keys():  # noqa: SIM118 (not a dictionary)
                    name = stored.removeprefix(_PREFIX)
                    if name in self._where:
                        raise DataError(f"{path}: tensor {name} is also in {self._where[name][0].name}")
                    self._where[name] = (path, stored)
                    self.shapes[name] = tuple(file.get_slice(stored).get_shape())

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor or some of its rows, checked to be finite floating point."""
        path, stored = self._where[name]
        with _opened(path) as file:
            view = file.get_slice(stored)
            if view.get_dtype() not in ("F32", "F16", "BF16"):
                raise DataError(f"{path}: tensor {stored} is {view.get_dtype()}; only F32, F16 and BF16 are weights")
            tensor = file.get_tensor(stored) if rows is None else view[rows]
        if not np.isfinite(tensor).all():
            raise DataError(f"{path}: tensor {stored} holds values that are not finite")
        return tensor


def _check(checkpoint: _Checkpoint, table: Iterable[Parameter]) -> None:
    """Refuses a checkpoint whose tensors are not exactly those of the table; a tied head may be there as well."""
    shapes = {name: parameter.hf_shape for parameter in table for name in parameter.hf_names}
    extra = set(checkpoint.shapes) - set(shapes) - {"lm_head.weight"}
    for problem, names in (("lacks", set(shapes) - set(checkpoint.shapes)), ("has unknown", extra)):
        if names:
            first = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
            raise DataError(f"{checkpoint.directory}: checkpoint {problem} {len(names)} tensors: {first}")
    for name, shape in shapes.items():
        if (found := checkpoint.shapes[name]) != shape:
            raise DataError(f"{checkpoint.directory}: tensor {name} has shape {found}, the model needs {shape}")
    if "lm_head.weight" in checkpoint.shapes:
        embedding, head = "word_embeddings.weight", "lm_head.weight"
        vocab = shapes[embedding][0]
        tied = checkpoint.shapes[head] == shapes[embedding] and all(
            np.array_equal(checkpoint.read(head, rows), checkpoint.read(embedding, rows))
            for rows in (slice(i, min(i + _ROWS_COMPARED, vocab)) for i in range(0, vocab, _ROWS_COMPARED))
        )
        if not tied:
            raise DataError(f"{checkpoint.directory}: lm_head.weight differs from the embedding; BLOOM's head is tied")


def _load_parameter(checkpoint: _Checkpoint, parameter: Parameter, sharding: Sharding, dtype: Any) -> jax.Array:
    """Reads each tensor of a parameter once, into the parts that this host's devices hold."""
    shape = sharding.shard_shape(parameter.shape)
    indices = {str(index): index for index in sharding.addressable_devices_indices_map(parameter.shape).values()}
    parts = {key: np.empty(shape, dtype) for key in indices}
    for layer, name in enumerate(parameter.hf_names):
        tensor = parameter.from_hf(checkpoint.read(name))
        for key, index in indices.items():
            if parameter.stacked:
                parts[key][layer] = tensor[index[1:]]
            else:
                parts[key][...] = tensor[index]
    return jax.make_array_from_callback(parameter.shape, sharding, lambda index: parts[str(index)])


def load_hf(
    directory: str | os.PathLike[str], model: ModelConfig | None = None, mesh: Mesh | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Params:  # fmt: skip
    """Reads an HF BLOOM checkpoint (safetensors, one file or several with an index; names with or without prefix).

    Args:
      directory: holds config.json and the weights, in float32, float16 or bfloat16.
      model: the shape to expect; None: config.json's.
      mesh: where to put the weights, sharded as parallel/sharding.py says; None: on the default device.
      dtype: of the returned arrays.

    Raises:
      MissingInputError: the directory or a file is not there.
      DataError: a tensor is missing, unknown, misshapen, not finite, or a file is damaged; the tensor is named.
      ConfigError: the mesh does not divide a parameter.
    """
    directory = Path(directory)
    model = model_config_from_hf(directory) if model is None else model
    table = parameter_table(model)
    shardings = None if mesh is None else param_shardings(model, mesh)
    one_device = SingleDeviceSharding(jax.local_devices()[0])
    checkpoint = _Checkpoint(directory)
    _check(checkpoint, table)
    leaves = {}
    for parameter in table:
        sharding = one_device if shardings is None else leaf_of(shardings, parameter.path)
        leaves[parameter.path] = _load_parameter(checkpoint, parameter, sharding, dtype)
    return to_tree(leaves)


def hf_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Returns the config.json of a BloomForCausalLM of this shape."""
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": model.vocab_size,
        "hidden_size": model.embed,
        "n_layer": model.layers,
        "n_head": model.heads,
        "layer_norm_epsilon": model.layer_norm_epsilon,
        "initializer_range": model.initializer_range,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "pretraining_tp": 1,
        "slow_but_exact": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": dtype,
        "unk_token_id": UNK_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }


def _write_shard(path: Path, tensors: list[tuple[str, Parameter, int]], params: Params, dtype: np.dtype) -> None:
    """Streams tensors into one safetensors file: length of the header, the header as JSON, the bytes in order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter, _ in tensors:
        start, end = end, end + math.prod(parameter.hf_shape) * dtype.itemsize
        header[name] = {"dtype": _STORED[dtype.name], "shape": parameter.hf_shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, parameter, layer in tensors:
            leaf = leaf_of(params, parameter.path)
            array = np.asarray(leaf[layer] if parameter.stacked else leaf)
            if not np.isfinite(array).all():
                raise DataError(f"{parameter.name}: weights of {name} are not finite; nothing was exported")
            tensor = np.ascontiguousarray(parameter.to_hf(array).astype(dtype))
            file.write(tensor.view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _plan_shards(table: Iterable[Parameter], itemsize: int, limit: int) -> list[list[tuple[str, Parameter, int]]]:
    """Deals the tensors out over files of at most `limit` bytes (a larger tensor has one of its own)."""
    shards: list[list[tuple[str, Parameter, int]]] = []
    room = 0
    for parameter in table:
        size = math.prod(parameter.hf_shape) * itemsize
        for layer, name in enumerate(parameter.hf_names):
            if not shards or size > room:
                shards.append([])
                room = limit
            shards[-1].append((_PREFIX + name, parameter, layer))
            room -= size
    return shards


def _check_params(params: Params, model: ModelConfig) -> None:
    expected = {parameter.path: parameter.shape for parameter in parameter_table(model)}
    have = {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for path in expected.keys() | have.keys():
        shape = have[path].shape if path in have else None
        if shape != expected.get(path):
            raise DataError(f"params {'/'.join(path)}: shape {shape}, the model needs {expected.get(path)}")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies an HF tokenizer's files into an existing directory.

    Raises:
      MissingInputError: `source` has no tokenizer.json.
    """
    if not (source / "tokenizer.json").is_file():
        raise MissingInputError(f"{source}: no tokenizer.json to copy")
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def save_hf(
    params: Params, model: ModelConfig, directory: str | os.PathLike[str], dtype: str = "float32",
    tokenizer_dir: str | os.PathLike[str] | None = None, max_shard_bytes: int = 5 * 10**9,
) -> None:  # fmt: skip
    """Writes a checkpoint that HF's `BloomForCausalLM.from_pretrained` and `load_hf` read, whole or not at all.

    Args:
      params: the weights; every shard must be on this host.
      model: their shape.
      directory: where to; must not exist or be empty.
      dtype: `float32` or `bfloat16`, of the stored weights.
      tokenizer_dir: directory whose tokenizer files to copy along; None: weights only.
      max_shard_bytes: tensors in one file; the tensors of more than one file are listed in an index.

    Raises:
      ConfigError: an unknown dtype, or the directory is in use.
      MissingInputError: `tokenizer_dir` has no tokenizer.json.
      DataError: the weights do not have the model's shape or are not finite.
    """
    directory = Path(directory)
    if dtype not in _STORED:
        raise ConfigError(f"dtype {dtype!r} is none of {', '.join(_STORED)}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory}: exists already; choose another place or remove it")
    _check_params(params, model)
    stored = np.dtype(jnp.dtype(dtype))
    shards = _plan_shards(parameter_table(model), stored.itemsize, max_shard_bytes)
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        weight_map = {}
        for i, tensors in enumerate(shards, start=1):
            name = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
            _write_shard(scratch / name, tensors, params, stored)
            weight_map.update({tensor: name for tensor, _, _ in tensors})
        if len(shards) > 1:
            size = stored.itemsize * sum(math.prod(p.shape) for p in parameter_table(model))
            files.write_json(scratch / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        files.write_json(scratch / "config.json", hf_config(model, dtype))
        ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
        files.write_json(scratch / "generation_config.json", ids)
        if tokenizer_dir is not None:
            copy_tokenizer(Path(tokenizer_dir), scratch)
        scratch.chmod(0o755)
        scratch.replace(directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
