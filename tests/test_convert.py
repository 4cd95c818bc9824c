import dataclasses
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from loaded import load_checkpoint

from ecomgpt_jax import convert
from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.data.tokenizer import load_tokenizer
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf, save_hf
from ecomgpt_jax.model.loading import tokenizer_directory
from ecomgpt_jax.model.parameters import Params

MODEL = ModelConfig(size="custom", embed=32, layers=2, heads=4, vocab_size=64, layer_norm_epsilon=1e-6)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF directory with a tokenizer."""
    folder = tmp_path_factory.mktemp("convert")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "[END]": 5, "mug": 40}, unk_token="[UNK]"))
    backend.add_special_tokens(["[UNK]", "[END]"])
    (folder / "raw").mkdir()
    backend.save(str(folder / "raw/tokenizer.json"))
    (folder / "raw/tokenizer_config.json").write_text('{"eos_token": "[END]", "unk_token": "[UNK]"}')
    (folder / "raw/chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "raw/generation_config.json").write_text('{"eos_token_id": [5, 40]}')
    load_tokenizer(folder / "raw").save(folder / "tokenizer")
    save_hf(
        jax.jit(partial(decoder.init_params, MODEL))(jax.random.key(0)),
        MODEL,
        folder / "hf",
        tokenizer_dir=folder / "tokenizer",
        seq_length=96,
    )
    return folder / "hf"


def assert_equal(ours: Params, expected: Params) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_hf_to_orbax_and_back_is_bit_equal(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert.convert(str(source), str(tmp_path / "orbax"), "orbax", "float32")
    assert "with its tokenizer" in capsys.readouterr().out
    params, model = load_checkpoint(str(tmp_path / "orbax"))
    assert (model.embed, model.vocab_size, model.layer_norm_epsilon) == (32, 64, 1e-6)
    assert_equal(params, load_hf(source))
    convert.convert(str(tmp_path / "orbax"), str(tmp_path / "hf"), "hf", "float32")
    ids = {"bos_token_id": None, "eos_token_id": [5, 40], "pad_token_id": 5, "unk_token_id": 0}
    assert json.loads((tmp_path / "hf/config.json").read_text())["seq_length"] == 96
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "hf" / name).read_text())
        assert {key: values[key] for key in ids} == ids
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "hf" / name).read_bytes() == (source / name).read_bytes()
    assert tokenizer_directory(tmp_path / "orbax").samefile(tmp_path / "orbax" / "tokenizer")


@pytest.mark.parametrize("layout", ["hf", "orbax"])
def test_bfloat16(source: Path, tmp_path: Path, layout: str) -> None:
    convert.convert(str(source), str(tmp_path / "out"), layout, "bfloat16")
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16).astype(np.float32), load_hf(source))
    assert_equal(load_checkpoint(str(tmp_path / "out"))[0], expected)
    size = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert size < (source / "model.safetensors").stat().st_size


def test_without_a_tokenizer_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_hf(jax.jit(partial(decoder.init_params, MODEL))(jax.random.key(0)), MODEL, tmp_path / "hf")
    convert.convert(str(tmp_path / "hf"), str(tmp_path / "out"), "orbax", "float32")
    assert "no tokenizer found" in capsys.readouterr().out


def test_weights_without_a_tokenizer_keep_the_ids_of_their_config(tmp_path: Path) -> None:
    params = jax.jit(partial(decoder.init_params, MODEL))(jax.random.key(0))
    save_hf(params, MODEL, tmp_path / "hf", token_ids={"eos_token_id": [7, 9]})
    convert.convert(str(tmp_path / "hf"), str(tmp_path / "out"), "hf", "bfloat16")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"], "seq_length" in config) == ([7, 9], None, False)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "hf")
    path = tmp_path / "hf/tokenizer.json"
    path.write_text(path.read_text().replace('"mug": 40', '"mug": 64'))
    with pytest.raises(DataError, match="ids go up to 64, the model has only 64 embeddings"):
        convert.convert(str(tmp_path / "hf"), str(tmp_path / "out"), "hf", "float32")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_or_half_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    for layout in ("hf", "orbax"):
        with pytest.raises(ConfigError, match="exists already"):
            convert.convert(str(source), str(tmp_path / "used"), layout, "float32")
    with pytest.raises(MissingInputError, match="nowhere"):
        convert.convert(str(tmp_path / "nowhere"), str(tmp_path / "out"), "hf", "float32")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_bytes((source / "config.json").read_bytes())
    (tmp_path / "damaged" / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged"):
        convert.convert(str(tmp_path / "damaged"), str(tmp_path / "out"), "orbax", "float32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "used"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ecomgpt_jax.convert", *arguments],
        capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""}, check=False,
    )  # fmt: skip


def test_command(source: Path, tmp_path: Path) -> None:
    done = run("--from", str(source), "--to", str(tmp_path / "out"), "--format", "hf", "--dtype", "bfloat16")
    said = [line for line in done.stderr.splitlines() if "waiting for" not in line]  # a slow machine compiles for long
    assert (done.returncode, said) == (0, [])
    expected = dataclasses.replace(model_config_from_hf(source), compute_dtype="bfloat16")
    assert model_config_from_hf(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from", "a", "--to", "b"], 2, "--format is required"),
        (["--from", "a", "--to", "b", "--format", "gguf"], 2, "format"),
        (["--from", "/no/such", "--to", "b", "--format", "hf"], 66, "/no/such"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, message: str) -> None:
    failed = run(*arguments)
    assert failed.returncode == code
    assert failed.stderr.startswith("error: ")
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1
