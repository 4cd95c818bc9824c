import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model import tensor_stream
from ecomgpt_jax.model.hf_files import INDEX
from ecomgpt_jax.model.tensor_stream import Tensor, write_weights


def tensor(name: str, array: np.ndarray, pieces: int = 1) -> Tensor:
    return Tensor(name, array.shape, lambda: iter(np.array_split(array, pieces)))


def test_pieces_become_one_tensor_and_files_have_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_stream, "ROWS", 3)
    random = np.random.RandomState(0)
    arrays = {f"t{i}": random.standard_normal((7, 5)).astype(np.float32) for i in range(3)}
    tensors = [tensor(name, array, pieces=2) for name, array in arrays.items()]
    write_weights(tmp_path, tensors, np.dtype(np.float32))
    assert not (tmp_path / INDEX).exists()
    found = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    write_weights(tmp_path, tensors, np.dtype(ml_dtypes.bfloat16), max_shard_bytes=140)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 3 * 35 * 2
    assert set(index["weight_map"].values()) == {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    for name, array in arrays.items():
        found = load_file(tmp_path / index["weight_map"][name])
        assert np.array_equal(found[name], array.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (tensor("t", np.array([1, np.inf], np.float32)), "t: weights are not finite"),
        (Tensor("t", (3,), lambda: iter([np.zeros(2, np.float32)])), "t: 2 values for shape"),
    ],
)
def test_what_is_not_the_tensor_is_refused(broken: Tensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write_weights(tmp_path, [broken], np.dtype(np.float32))
