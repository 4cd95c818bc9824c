import json
import pickle
from pathlib import Path

import hf_cases
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model import hf_files
from ecomgpt_jax.model.hf_weights import load_hf, save_hf

MODEL = ModelConfig(size="custom", embed=32, layers=2, heads=4, vocab_size=64)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_hf(hf_cases.random_params(MODEL), MODEL, tmp_path / "hf")
    return tmp_path / "hf"


def as_bin(directory: Path, kind: str = "float32", parts: int = 1) -> Path:
    """Turns the safetensors of a directory into .bin weights, as the authors' release has them."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in load_file(directory / hf_files.SINGLE).items()}
    (directory / hf_files.SINGLE).unlink()
    names = [hf_files.BIN_SINGLE] if parts == 1 else [f"pytorch_model-{i + 1:05}.bin" for i in range(parts)]
    where = {name: names[i % parts] for i, name in enumerate(tensors)}
    for file in names:
        kept = {name: tensor.to(getattr(torch, kind)) for name, tensor in tensors.items() if where[name] == file}
        torch.save(kept, directory / file)
    if parts > 1:
        (directory / hf_files.BIN_INDEX).write_text(json.dumps({"weight_map": where}))
    return directory


@pytest.mark.parametrize(("kind", "parts"), [("float32", 1), ("float16", 2), ("bfloat16", 3)])
def test_bin_weights_are_those_of_safetensors(saved: Path, kind: str, parts: int) -> None:
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jax.numpy.dtype(kind)).astype("f4"), load_hf(saved))
    jax.tree.map(np.testing.assert_array_equal, load_hf(as_bin(saved, kind, parts)), expected)


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("how", ["zip", "plain"])
def test_a_hostile_pickle_is_refused_and_not_run(saved: Path, tmp_path: Path, how: str) -> None:
    torch = pytest.importorskip("torch")
    as_bin(saved)
    if how == "zip":
        torch.save({"word_embeddings.weight": Evil(tmp_path / "canary")}, saved / hf_files.BIN_SINGLE)
    else:
        (saved / hf_files.BIN_SINGLE).write_bytes(pickle.dumps(Evil(tmp_path / "canary")))
    with pytest.raises(DataError, match=r"pytorch_model\.bin: refused") as caught:
        load_hf(saved)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "canary")))  # the control: it would have acted
    assert (tmp_path / "canary").exists()


def test_other_things_than_tensors_are_refused(saved: Path) -> None:
    torch = pytest.importorskip("torch")
    as_bin(saved)
    torch.save({"word_embeddings.weight": [1, 2]}, saved / hf_files.BIN_SINGLE)
    with pytest.raises(DataError, match="objects other than tensors"):
        load_hf(saved)


def test_without_torch_it_says_what_to_install(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / hf_files.SINGLE).rename(saved / hf_files.BIN_SINGLE)
    monkeypatch.setattr(hf_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match=r"ecomgpt_jax\[torch\]"):
        load_hf(saved)


@pytest.mark.parametrize(
    "name", ["../x", "..", "/etc/passwd", "a/b", "a\\b", ".x", "", "x\0", "x\ny", "~/x"]
)  # fmt: skip
def test_an_index_cannot_point_elsewhere(saved: Path, name: str) -> None:
    (saved / hf_files.INDEX).write_text(json.dumps({"weight_map": {"word_embeddings.weight": name}}))
    with pytest.raises(DataError, match="not a safe name"):
        hf_files.find_weight_files(saved)


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_is_not_finite_is_seen(kind: type) -> None:
    tensor = np.linspace(-3, 3, 24).astype(kind).reshape(4, 6)
    tensor[0, 0] = np.finfo(np.float16).max if kind is np.float16 else 3e38
    assert hf_files.is_finite(tensor)
    for value in (np.nan, np.inf, -np.inf):
        spoilt = tensor.copy()
        spoilt[2, 3] = value
        assert not hf_files.is_finite(spoilt)
        assert not hf_files.is_finite(spoilt.T)


def test_the_prefix_goes_once_and_from_the_beginning_alone() -> None:
    stored = ("transformer.h.0.ln.bias", "model.model.norm.weight", "lm_head.weight", "h.model.bias", "remodel.x")
    bare = ["h.0.ln.bias", "model.norm.weight", "lm_head.weight", "h.model.bias", "remodel.x"]
    assert [hf_files.bare_name(name) for name in stored] == bare
