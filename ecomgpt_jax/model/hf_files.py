"""The weight files of a Hugging Face directory, and their tensors one at a time.

`.bin` files are pickles; torch opens them, restricted to tensors (`weights_only`) and memory-mapped, and only if there
are no safetensors.
"""

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ecomgpt_jax import files
from ecomgpt_jax.errors import DataError, MissingInputError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
BIN_INDEX, BIN_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
_PREFIX = re.compile(r"^(transformer|model)\.")
_WIDEST_FIRST = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CHUNK = 1 << 24  # elements checked at a time


def find_weight_files(directory: Path) -> list[Path]:
    """Returns the weight files of an HF directory, safetensors before .bin.

    Raises:
      MissingInputError: no such directory, no weights in it, or an index names a file that does not exist.
      DataError: an index is malformed or names a file outside the directory.
    """
    if not directory.is_dir():
        raise MissingInputError(f"{directory}: no such directory")
    for index, single in ((INDEX, SINGLE), (BIN_INDEX, BIN_SINGLE)):
        if (directory / index).exists():
            return _listed(directory, directory / index)
        if (directory / single).exists():
            return [directory / single]
    raise MissingInputError(f"{directory}: neither {SINGLE} nor {INDEX}, nor .bin weights")


def _listed(directory: Path, index: Path) -> list[Path]:
    values = files.read_json(index)
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise DataError(f"{index}: weight_map must give a file name for each tensor")
    paths = [directory / files.safe_name(name, str(index)) for name in sorted(set(names.values()))]
    for path in paths:
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file, though {index.name} names it")
    return paths


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Opens a file for one read; while it is open, all pages read count as memory of this process.

    Raises:
      DataError: it is damaged or no safetensors file.
    """
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise DataError(f"{path}: damaged or not a safetensors file ({error})") from None


def _pickled(path: Path) -> dict[str, Any]:
    """Returns the torch tensors of a .bin file, memory-mapped."""
    if importlib.util.find_spec("torch") is None:
        raise MissingInputError(f"{path}: .bin weights need torch; install ecomgpt_jax[torch], or save safetensors")
    import torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and its unpickler raise many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{path}: refused, not a plain file of tensors ({reason})") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise DataError(f"{path}: refused, contains objects other than tensors")
    return tensors


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.contiguous().numpy()


def is_finite(tensor: np.ndarray) -> bool:
    """Returns whether all values are finite, without a second array of the tensor's size."""
    flat = tensor.reshape(-1)
    if flat.dtype == ml_dtypes.bfloat16:  # all ones in the exponent: infinity or nan
        bits = flat.view(np.uint16)
        return not any(((bits[i : i + _CHUNK] & 0x7F80) == 0x7F80).any() for i in range(0, flat.size, _CHUNK))
    return all(np.isfinite(flat[i : i + _CHUNK]).all() for i in range(0, flat.size, _CHUNK))


def bare_name(stored: str) -> str:
    """Returns a tensor's name without the prefix that HF's class with a head adds."""
    return _PREFIX.sub("", stored)


class Tensors:
    """The tensors of an HF directory by name without prefix, each read on request.

    Attributes:
      directory: their directory.
      shapes: shape of each.
      kinds: the set of stored types, as safetensors names them.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: set[str] = set()
        self._where: dict[str, tuple[Path, str]] = {}
        for path in find_weight_files(self.directory):
            if path.suffix == ".bin":
                tensors = _pickled(path)
                self.kinds |= {_kind(tensor) for tensor in tensors.values()}
                self._note(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
                continue
            with open_safetensors(path) as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                self.kinds |= {view.get_dtype() for view in slices.values()}
                self._note(path, {name: tuple(view.get_shape()) for name, view in slices.items()})

    def _note(self, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        for stored, shape in shapes.items():
            name = bare_name(stored)
            if name in self._where:
                raise DataError(f"{path}: tensor {name} is also in {self._where[name][0].name}")
            self._where[name], self.shapes[name] = (path, stored), shape

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Returns a tensor or a range of its rows in its stored dtype.

        Raises:
          DataError: it is not floating point, or holds values that are not finite.
        """
        path, stored = self._where[name]
        if path.suffix == ".bin":
            found = _pickled(path)[stored]
            _check_kind(path, stored, _kind(found))
            tensor = _to_numpy(found if rows is None else found[rows])
        else:
            with open_safetensors(path) as file:
                view = file.get_slice(stored)
                _check_kind(path, stored, view.get_dtype())
                tensor = file.get_tensor(stored) if rows is None else view[rows]
        if not is_finite(tensor):
            raise DataError(f"{path}: tensor {stored} holds values that are not finite")
        return tensor


def _kind(tensor: Any) -> str:
    """Returns safetensors' name of a torch tensor's type, or torch's name of types that are not used here."""
    name = str(tensor.dtype)
    return {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}.get(name, name)


def _check_kind(path: Path, stored: str, kind: str) -> None:
    if kind not in ("F32", "F16", "BF16"):
        raise DataError(f"{path}: tensor {stored} is {kind}; only F32, F16 and BF16 are weights")


def check_tensors(
    where: object, needed: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], allowed: Set[str]
) -> None:
    """Checks that tensors are exactly those of a model.

    Args:
      where: the file or directory, for errors.
      needed: shape of each tensor of the model.
      found: shape of each tensor that is stored.
      allowed: names of further tensors that may exist.

    Raises:
      DataError: one is missing, unknown or misshapen.
    """
    for problem, names in (("lacks", needed.keys() - found), ("has unknown", found.keys() - needed - allowed)):
        if names:
            first = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
            raise DataError(f"{where}: {problem} {len(names)} tensors: {first}")
    for name, shape in needed.items():
        if found[name] != shape:
            raise DataError(f"{where}: tensor {name} has shape {found[name]}, the model needs {shape}")


def own_dtype(directory: str | os.PathLike[str]) -> str:
    """Returns the dtype of an HF checkpoint: `dtype` or `torch_dtype` of config.json, else the widest of its tensors.

    Raises:
      MissingInputError: no config.json, or it names no dtype and there are no weights.
      DataError: the dtype is none of float32, float16, bfloat16.
    """
    path = Path(directory) / "config.json"
    values = files.read_json(path)
    named = next((values[key] for key in ("dtype", "torch_dtype") if values.get(key) is not None), None)
    if named is None:
        kinds = Tensors(directory).kinds
        named = next((dtype for kind, dtype in _WIDEST_FIRST.items() if kind in kinds), ", ".join(sorted(kinds)))
    if named not in _WIDEST_FIRST.values():
        raise DataError(f"{path}: dtype {named!r} is none of {', '.join(_WIDEST_FIRST.values())}")
    return named


def trained_length(directory: str | os.PathLike[str]) -> int:
    """Returns the positions that an HF checkpoint was trained on; 0 if its config.json does not state them.

    BLOOM calls them `seq_length`, the rotary families `max_position_embeddings`.

    Raises:
      MissingInputError: no config.json.
      DataError: the value is not a number of positions.
    """
    path = Path(directory) / "config.json"
    values = files.read_json(path)
    name = "seq_length" if values.get("seq_length") is not None else "max_position_embeddings"
    found = values.get(name) or 0
    if type(found) is not int or found < 0:
        raise DataError(f"{path}: {name} is {found!r}; it must be a positive int")
    return found


def copy_tokenizer(source: Path, target: Path) -> dict[str, Any]:
    """Copies an HF tokenizer's files into an existing directory; returns generation_config.json's ids of its tokens.

    Raises:
      MissingInputError: `source` has no tokenizer.json or no generation_config.json.
    """
    for name in ("tokenizer.json", "generation_config.json"):
        if not (source / name).is_file():
            raise MissingInputError(f"{source}: no {name} to copy")
    files.copy_tokenizer_files(source, target)
    return files.read_json(source / "generation_config.json")
