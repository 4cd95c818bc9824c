import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model import interpolation
from ecomgpt_jax.model.interpolation import write_average


def checkpoint(folder: Path, seed: int, shape: tuple[int, ...] = (40, 6), dtype: type = np.float32) -> Path:
    random = np.random.RandomState(seed)
    folder.mkdir()
    tensors = {f"model.t{i}": random.standard_normal(shape).astype(dtype) for i in range(3)}
    tensors["model.t0"][:2] = -0.0  # which a sum with zero would not keep
    save_file(tensors | {"lm_head.weight": random.standard_normal((5,)).astype(dtype)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_ends_are_bit_equal_and_the_middle_is_the_mean(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpolation, "CHUNK", 42)
    kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    ends = [checkpoint(tmp_path / name, seed, dtype=kind) for seed, name in enumerate(("base", "tuned", "third"))]
    files = [load_file(end / "model.safetensors") for end in ends]
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.25, 0.75, 0.0), (1 / 3, 1 / 3, 1 / 3)):
        target = tmp_path / str(weights)
        target.mkdir()
        write_average(ends, weights, target, dtype)
        for name, found in load_file(target / "model.safetensors").items():
            if 1.0 in weights:
                expected = files[weights.index(1.0)][name]
            else:
                parts = (weight * file[name].astype(np.float64) for weight, file in zip(weights, files, strict=True))
                expected = sum(parts).astype(np.float32).astype(kind)
            if 1.0 in weights:
                assert found.tobytes() == expected.tobytes()
            np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=1e-2, atol=1e-6)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    ends = [checkpoint(tmp_path / "a", 0), checkpoint(tmp_path / "b", 1, (40, 5))]
    with pytest.raises(DataError, match=r"not the same tensors as .*a: t0"):
        write_average(ends, (0.5, 0.5), tmp_path, "float32")


def test_no_more_than_two_tensors_are_in_memory(tmp_path: Path) -> None:
    ends = [checkpoint(tmp_path / name, seed, (2048, 1024)) for seed, name in enumerate("abcd")]
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    write_average(ends, (0.25,) * 4, tmp_path / "out", "float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * 2048 * 1024 * 4
