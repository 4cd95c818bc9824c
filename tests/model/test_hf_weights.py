import dataclasses
import json
from pathlib import Path

import hf_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ecomgpt_jax.config import MODEL_SHAPES, MeshConfig, ModelConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model import hf_weights
from ecomgpt_jax.model.hf_files import INDEX, Tensors
from ecomgpt_jax.model.hf_weights import hf_config, load_hf, model_config_from_hf, save_hf
from ecomgpt_jax.model.parameters import Params, param_shardings, parameter_table
from ecomgpt_jax.parallel.mesh import make_mesh

MODEL = ModelConfig(size="custom", embed=32, layers=2, heads=4, vocab_size=64, compute_dtype="float32")


@pytest.fixture
def params() -> Params:
    return hf_cases.random_params(MODEL)


@pytest.fixture
def saved(params: Params, tmp_path: Path) -> Path:
    save_hf(params, MODEL, tmp_path / "hf")
    return tmp_path / "hf"


def assert_equal(ours: Params, expected: Params) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def edit(directory: Path, change: dict[str, np.ndarray | None], file: str = "model.safetensors") -> None:
    tensors = load_file(directory / file)
    for name, tensor in change.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, directory / file)


def test_round_trip_is_bit_equal(params: Params, saved: Path, tmp_path: Path) -> None:
    loaded = load_hf(saved)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(loaded))
    assert_equal(loaded, params)
    save_hf(loaded, MODEL, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    assert model_config_from_hf(saved) == MODEL


def test_several_files_and_an_index(params: Params, tmp_path: Path) -> None:
    save_hf(params, MODEL, tmp_path / "hf", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "hf" / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    for name in names:
        tensors = load_file(tmp_path / "hf" / name)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20_000
        assert {tensor for tensor, file in index["weight_map"].items() if file == name} == set(tensors)
    assert_equal(load_hf(tmp_path / "hf"), params)
    (tmp_path / "hf" / names[1]).unlink()
    with pytest.raises(MissingInputError, match=names[1]):
        load_hf(tmp_path / "hf")


def test_onto_a_mesh(params: Params, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, read, asked = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), Tensors.read, []

    def noted(self: Tensors, name: str, rows: slice | None = None) -> np.ndarray:
        asked.append((name, rows))
        return read(self, name, rows)

    monkeypatch.setattr(hf_weights.hf_shards, "ROWS", 24)  # 24 and 8 of the 32 rows of each half
    monkeypatch.setattr(Tensors, "read", noted)
    with jax.set_mesh(mesh):  # as the training loop does
        loaded = load_hf(saved, MODEL, mesh)
    bounds = [(0, 24), (24, 32), (32, 56), (56, 64)]
    assert [rows for name, rows in asked if name == "word_embeddings.weight"] == [slice(*pair) for pair in bounds]
    assert_equal(loaded, params)
    assert jax.tree.map(lambda leaf: leaf.sharding, loaded) == param_shardings(MODEL, mesh)
    save_hf(loaded, MODEL, saved.parent / "again")
    assert_equal(load_hf(saved.parent / "again"), params)


@pytest.mark.parametrize(
    ("prefix", "head", "stored"),
    [("", False, np.float16), ("", True, jnp.bfloat16), ("transformer.", True, np.float16)],
)
def test_names_heads_and_types(params: Params, saved: Path, prefix: str, head: bool, stored: type) -> None:
    tensors = {
        prefix + name.removeprefix("transformer."): tensor.astype(stored)
        for name, tensor in load_file(saved / "model.safetensors").items()
    }
    if head:
        tensors["lm_head.weight"] = tensors[f"{prefix}word_embeddings.weight"].copy()
    save_file(tensors, saved / "model.safetensors")
    assert_equal(load_hf(saved), jax.tree.map(lambda leaf: leaf.astype(stored).astype(np.float32), params))
    assert load_hf(saved, dtype=jnp.bfloat16)["final_norm"]["scale"].dtype == jnp.bfloat16


def test_bfloat16_export(params: Params, tmp_path: Path) -> None:
    save_hf(params, MODEL, tmp_path / "hf", "bfloat16")
    assert_equal(load_hf(tmp_path / "hf"), jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(np.float32), params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_reads_the_export(params: Params, tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ids = {"bos_token_id": None, "eos_token_id": [11, 5], "pad_token_id": 9}
    save_hf(params, MODEL, tmp_path / "hf", dtype, max_shard_bytes=20_000, token_ids=ids)
    network, report = transformers.BloomForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    assert network.dtype == getattr(torch, dtype)
    for settings in (network.config, network.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (None, [11, 5], 9)
    network.save_pretrained(tmp_path / "theirs")
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)).astype(np.float32), params)
    assert_equal(load_hf(tmp_path / "theirs"), rounded)
    assert model_config_from_hf(tmp_path / "theirs") == dataclasses.replace(MODEL, compute_dtype=dtype)


@pytest.mark.parametrize("name", hf_cases.FAMILIES[1:])
def test_every_family_is_what_hf_writes_and_reads(name: str, tmp_path: Path) -> None:
    """Out, into torch without a missing or unexpected key, out by torch, in, out again: bit-equal, the same names."""
    pytest.importorskip("torch")  # transformers is there always, its models need it
    import transformers

    model = hf_cases.case_model(name)
    params = hf_cases.random_params(model)
    save_hf(params, model, tmp_path / "ours", token_ids={"eos_token_id": [1, 106]}, max_shard_bytes=50_000)
    network, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert network.config.eos_token_id == [1, 106]
    network.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        found = model_config_from_hf(tmp_path / folder)
        assert parameter_table(found)[0].shape == parameter_table(model)[0].shape
        assert (found.slides, found.rope_scaling, found.tied_head) == (
            model.slides,
            model.rope_scaling,
            model.tied_head,
        )
        assert_equal(load_hf(tmp_path / folder), params)
    save_hf(load_hf(tmp_path / "theirs"), found, tmp_path / "again")
    ours, theirs = load_file(tmp_path / "again" / "model.safetensors"), load_file(tmp_path / "theirs/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[tensor], theirs[tensor]) for tensor in ours)


def test_angles_that_old_checkpoints_stored_are_passed_over_and_a_head_must_be_there(tmp_path: Path) -> None:
    model = hf_cases.case_model("mistral")
    params = hf_cases.random_params(model)
    save_hf(params, model, tmp_path)
    edit(tmp_path, {"model.layers.0.self_attn.rotary_emb.inv_freq": weight((8,))})
    assert_equal(load_hf(tmp_path), params)
    edit(tmp_path, {"lm_head.weight": None})
    with pytest.raises(DataError, match=r"lacks 1 tensors: lm_head\.weight"):
        load_hf(tmp_path)


def weight(shape: tuple[int, ...], value: float = 0) -> np.ndarray:
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.ln_f.bias": None}, "lacks 1 tensors: ln_f.bias"),
        ({"transformer.h.2.mlp.dense_4h_to_h.bias": weight((32,))}, "unknown 1 tensors: h.2.mlp.dense_4h_to_h.bias"),
        ({"transformer.h.1.mlp.dense_4h_to_h.weight": weight((128, 32))}, "dense_4h_to_h.weight has shape"),
        ({"transformer.h.1.input_layernorm.bias": weight((32,), np.nan)}, "h.1.input_layernorm.bias.*not finite"),
        ({"transformer.ln_f.bias": np.zeros(32, np.int8)}, "ln_f.bias is I8"),
        ({"lm_head.weight": weight((64, 32))}, "lm_head.weight differs"),
        ({"lm_head.weight": weight((60, 32))}, "lm_head.weight differs"),
        ({"ln_f.bias": weight((32,))}, "ln_f.bias is also in"),
    ],
)
def test_a_wrong_tensor_is_named(saved: Path, change: dict, message: str) -> None:
    edit(saved, change)
    with pytest.raises(DataError, match=message):
        load_hf(saved)


def test_damaged_and_missing_files(saved: Path, tmp_path: Path) -> None:
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-100], b"", b"not safetensors at all", whole[:40]):
        weights.write_bytes(content)
        with pytest.raises(DataError, match=r"model\.safetensors: damaged"):
            load_hf(saved)
    weights.unlink()
    with pytest.raises(MissingInputError, match=r"neither model\.safetensors"):
        load_hf(saved)
    with pytest.raises(MissingInputError, match="nowhere"):
        load_hf(tmp_path / "nowhere")


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../model.safetensors"}}])
def test_a_wrong_index(saved: Path, index: object) -> None:
    (saved / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=INDEX):
        load_hf(saved)


def test_another_shape_than_expected(saved: Path) -> None:
    with pytest.raises(DataError, match=r"word_embeddings.weight has shape \(64, 32\), the model needs \(128, 32\)"):
        load_hf(saved, ModelConfig(size="custom", embed=32, layers=2, heads=4, vocab_size=128))


def test_config_of_the_release(tmp_path: Path) -> None:
    """The keys of bigscience/bloomz-560m's config.json, which are older than those of `save_pretrained`."""
    values = {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250_880}
    values["torch_dtype"] = "float16"
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert model_config_from_hf(tmp_path) == ModelConfig(size="560m", compute_dtype="float32", **MODEL_SHAPES["560m"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "opt"}, "opt"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual"),
        ({"tie_word_embeddings": False}, "tie_word"),
        ({"n_layer": 0}, "n_layer"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"hidden_size": 30}, "multiple"),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon"),
    ],
)
def test_a_config_that_is_no_bloom(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**hf_config(MODEL, "float32"), **change}))
    with pytest.raises(DataError, match=message):
        model_config_from_hf(tmp_path)


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"config\.json"):
        model_config_from_hf(tmp_path)


def test_one_process_of_many_neither_looks_nor_writes(
    params: Params, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could still see the directory that process 0 has just removed."""
    before = {path: path.stat().st_mtime_ns for path in saved.iterdir()}
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    save_hf(params, MODEL, saved)
    assert {path: path.stat().st_mtime_ns for path in saved.iterdir()} == before


def test_export_is_whole_or_not_at_all(params: Params, saved: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="exists already"):
        save_hf(params, MODEL, saved)
    with pytest.raises(ConfigError, match="float64"):
        save_hf(params, MODEL, tmp_path / "new", "float64")
    with pytest.raises(MissingInputError, match=r"tokenizer\.json"):
        save_hf(params, MODEL, tmp_path / "new", tokenizer_dir=tmp_path)
    params["blocks"]["qkv"]["bias"][1, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"blocks/qkv/bias.*h\.1\.self_attention"):
        save_hf(params, MODEL, tmp_path / "new")
    del params["blocks"]["qkv"]["bias"]
    with pytest.raises(DataError, match="blocks/qkv/bias"):
        save_hf(params, MODEL, tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_export_takes_the_tokenizer_along(params: Params, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "other.txt"):
        (source / name).write_text(name)
    with pytest.raises(MissingInputError, match=r"no generation_config\.json"):
        save_hf(params, MODEL, tmp_path / "hf", tokenizer_dir=source)
    (source / "generation_config.json").write_text('{"eos_token_id": [9, 5], "pad_token_id": 7}')
    (tmp_path / "hf").mkdir()
    save_hf(params, MODEL, tmp_path / "hf", tokenizer_dir=source)
    assert (tmp_path / "hf" / "tokenizer.json").read_text() == "tokenizer.json"
    assert (tmp_path / "hf" / "tokenizer_config.json").exists()
    assert not (tmp_path / "hf" / "other.txt").exists()
    config, generation = (
        json.loads((tmp_path / "hf" / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    assert (config["eos_token_id"], config["pad_token_id"], config["bos_token_id"]) == ([9, 5], 7, None)
    assert generation == {"eos_token_id": [9, 5], "pad_token_id": 7}
