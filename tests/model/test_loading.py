"""Loading every kind of checkpoint: dtype, mesh, layers, tokenizer, fingerprint."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loaded import load_checkpoint
from safetensors.numpy import load_file, save_file

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model import decoder, hf_weights, loading
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.parameters import Params, param_shardings, split_layers
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.saving import save_orbax_params

MODEL = ModelConfig(size="custom", embed=32, layers=3, heads=4, vocab_size=384, compute_dtype="float32")
ONE, EIGHT = MeshConfig(data=1), MeshConfig(data=1, fsdp=4, tensor=2)


def mesh_of(mesh: MeshConfig) -> jax.sharding.Mesh:
    return make_mesh(mesh, jax.devices()[:1] if mesh is ONE else None)


@pytest.fixture(scope="module")
def params() -> Params:
    fresh = decoder.init_params(MODEL, jax.random.key(0))
    noise = np.random.default_rng(0)  # norms and biases too, or a lost one would not be noticed
    return jax.tree.map(lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape).astype("f4"), fresh)


@pytest.fixture(scope="module")
def places(params: Params, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights as a Hugging Face directory of each dtype, a step directory and a workdir."""
    folder = tmp_path_factory.mktemp("places")
    for dtype in ("float32", "bfloat16"):
        save_hf(params, MODEL, folder / dtype, dtype)
    save_orbax_params(params, MODEL, folder / "run" / "checkpoints" / "5")
    return {
        "float32": folder / "float32", "bfloat16": folder / "bfloat16", "step": folder / "run" / "checkpoints" / "5",
        "workdir": folder / "run",
    }  # fmt: skip


def rewrite(source: Path, target: Path, kind: object = None, **changes: object) -> Path:
    """Copies a Hugging Face directory with other config keys (None: without the key) and another tensor type."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (target / "config.json").write_text(json.dumps(config))
    tensors = load_file(source / "model.safetensors")
    tensors = {name: tensor if kind is None else tensor.astype(kind) for name, tensor in tensors.items()}
    save_file(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("mesh", [ONE, EIGHT], ids=["one device", "eight"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["float32", "step", "workdir"])
def test_weights_are_in_the_dtype_and_place_that_were_asked_for(
    params: Params, places: dict[str, Path], kind: str, dtype: str, mesh: MeshConfig
) -> None:
    mesh = mesh_of(mesh)
    found = loading.find_checkpoint(places[kind], dtype)
    loaded = loading.load_params(found, mesh)
    assert len(loaded["blocks"]) == MODEL.layers
    model = ModelConfig(**{**vars(MODEL), "compute_dtype": dtype})
    expected = split_layers(jax.device_put(params, param_shardings(MODEL, mesh)), model)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype == jnp.dtype(dtype)
        assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
        np.testing.assert_array_equal(ours, theirs)
    stacked = loading.load_params(found, mesh, layered=False)
    jax.tree.map(np.testing.assert_array_equal, stacked, jax.tree.map(lambda leaf: leaf.astype(dtype), params))


@pytest.mark.parametrize(
    ("kind", "changes", "expected", "reason"),
    [
        (None, {}, "float32", "the checkpoint's own"),
        (None, {"torch_dtype": None, "dtype": "bfloat16"}, "bfloat16", "the checkpoint's own"),
        (None, {"torch_dtype": "bfloat16"}, "bfloat16", "the checkpoint's own"),
        (None, {"torch_dtype": None}, "float32", "the checkpoint's own"),
        (jnp.bfloat16, {"torch_dtype": None}, "bfloat16", "the checkpoint's own"),
        (np.float16, {"torch_dtype": None}, "float32", "it holds float16"),
        (np.float16, {"torch_dtype": "float16"}, "float32", "it holds float16"),
    ],
)
def test_a_hugging_face_directory_says_its_dtype(
    places: dict[str, Path], tmp_path: Path, kind: object, changes: dict, expected: str, reason: str
) -> None:
    found = loading.find_checkpoint(rewrite(places["float32"], tmp_path / "hf", kind, **changes))
    assert (found.model.compute_dtype, found.reason) == (expected, reason)
    assert f" in {expected} ({reason}); 1 x " in loading.describe(found, mesh_of(ONE))
    other = loading.find_checkpoint(tmp_path / "hf", "bfloat16")
    assert (other.model.compute_dtype, other.reason) == ("bfloat16", "as asked for")


def test_a_dtype_that_is_none_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype 'float16' is none of"):
        loading.find_checkpoint(places["float32"], "float16")
    with pytest.raises(DataError, match=r"config\.json: dtype 'float64' is none of"):
        loading.find_checkpoint(rewrite(places["float32"], tmp_path / "hf", torch_dtype="float64"))


def test_a_run_says_its_compute_dtype_and_leaves_its_kernel_behind(params: Params, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        model = ModelConfig(**{**vars(MODEL), "compute_dtype": dtype, "attention": "splash"})
        save_orbax_params(params, model, tmp_path / dtype)
        found = loading.find_checkpoint(tmp_path / dtype)
        assert (found.model.compute_dtype, found.model.attention) == (dtype, "auto")
        assert found.reason == "compute dtype of the run"


@pytest.mark.parametrize("kind", ["float32", "step"])
@pytest.mark.parametrize(
    ("mesh", "words"), [(MeshConfig(1, 1, 8), "'heads' of 4"), (MeshConfig(1, 5, 1), "'embed' of 32")]
)
def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_read(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, mesh: MeshConfig, words: str
) -> None:
    for module, reader in ((hf_weights, "Tensors"), (loading, "read_params")):
        monkeypatch.setattr(module, reader, lambda *arguments: pytest.fail("weights were read"))
    mesh = make_mesh(mesh, jax.devices()[: mesh.fsdp * mesh.tensor])
    with pytest.raises(ConfigError, match=words):
        loading.load_params(loading.find_checkpoint(places[kind]), mesh)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such directory"):
        loading.find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="no checkpoint in it"):
        loading.find_checkpoint(tmp_path)
    with pytest.raises(MissingInputError, match=r"no tokenizer\.json"):
        loading.tokenizer_directory(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(DataError, match="not valid JSON"):
        loading.find_checkpoint(tmp_path)


def test_the_tokenizer_of_a_run_is_found_from_its_steps(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}")
    for path in (tmp_path, tmp_path / "checkpoints/4", tmp_path / "tokenizer"):
        assert loading.tokenizer_directory(path) == tmp_path / "tokenizer"


def test_load_checkpoint_keeps_what_the_checkpoint_says_of_its_dtype(params: Params, places: dict[str, Path]) -> None:
    for kind in ("step", "float32"):
        loaded, model = load_checkpoint(places[kind])
        assert model == MODEL
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
    loaded, model = load_checkpoint(places["bfloat16"])
    assert (model.compute_dtype, loaded["embedding"]["table"].dtype) == ("bfloat16", jnp.float32)
