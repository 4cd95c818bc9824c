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
import tiny_tasks
import tokenizers
from absl import flags
from absl.testing import flagsaver
from loaded import load_checkpoint
from xla_flags import fake_devices

from ecomgpt_jax import convert
from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.data.tokenizer import load_tokenizer
from ecomgpt_jax.decoding.export_check import llama_cpp_answers
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
        capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": fake_devices(1)}, check=False,
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
        (["--from", "a", "--to", "b", "--format", "onnx"], 2, "format"),
        (["--from", "/no/such", "--to", "b", "--format", "hf"], 66, "/no/such"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, message: str) -> None:
    failed = run(*arguments)
    assert failed.returncode == code
    assert failed.stderr.startswith("error: ")
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF directory of a random BLOOM of six heads, with a tokenizer that llama.cpp has a name for."""
    folder = tmp_path_factory.mktemp("byte_level")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the red mug 12345", "马克杯"], trainer)
    (folder / "raw").mkdir()
    backend.save(str(folder / "raw/tokenizer.json"))
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "raw/tokenizer_config.json").write_text(json.dumps(roles))
    load_tokenizer(folder / "raw").save(folder / "tokenizer")
    rows = load_tokenizer(folder / "raw").size  # an engine may say ids without a token; `generate` never does
    model = ModelConfig(size="custom", embed=48, layers=2, heads=6, vocab_size=rows, layer_norm_epsilon=1e-5)
    params = jax.jit(partial(decoder.init_params, model))(jax.random.key(0))
    noise = np.random.RandomState(0)
    params = jax.tree.map(lambda leaf: leaf + 0.2 * noise.standard_normal(leaf.shape).astype(np.float32), params)
    save_hf(params, model, folder / "hf", tokenizer_dir=folder / "tokenizer", seq_length=96)
    return folder / "hf"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from=a", "--to=b", "--format=hf", "--dtype=q8_0"], "--dtype=q8_0 is of --format=gguf alone"),
        (["--from=a", "--to=b", "--format=hf", "--adapter"], "--adapter has no effect"),
        (["--from=a", "--to=b", "--format=gguf", "--adapter", "--dtype=q8_0"], "--dtype has no effect"),
        (["--from=a.gguf", "--to=b", "--format=orbax"], "converted to hf first"),
        (["--interpolate=a:b:0.5", "--to=c", "--format=hf"], "--format has no effect"),
        (["--check=a", "--dtype=q8_0", "--to=b"], "--to has no effect with --check"),
    ],
)
def test_flags_without_effect_are_refused(arguments: list[str], message: str) -> None:
    with flagsaver.flagsaver():
        flags.FLAGS(["convert", *arguments])
        with pytest.raises(ConfigError, match=message):
            convert.main([])


def test_gguf_out_and_back_is_bit_equal(byte_level: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    convert.export_gguf(str(byte_level), str(tmp_path / "gguf"), "float32")
    assert capsys.readouterr().out.count("\n") == 1
    convert.convert_gguf(str(tmp_path / "gguf/model.gguf"), str(tmp_path / "hf"), "float32")
    assert_equal(load_hf(tmp_path / "hf"), load_hf(byte_level))
    for name in ("config.json", "generation_config.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (tmp_path / "hf", byte_level))
        assert {key: ours[key] for key in theirs if key != "initializer_range"} == {
            key: value for key, value in theirs.items() if key != "initializer_range"
        }
    text = "the red mug 12345  马克杯 👍\n"
    assert load_tokenizer(tmp_path / "hf").encode(text) == load_tokenizer(byte_level).encode(text)
    modelfile = (tmp_path / "gguf/Modelfile").read_text()
    assert 'PARAMETER stop "</s>"' in modelfile
    assert "num_ctx 96" in modelfile


def test_a_chat_template_in_either_file_stands_for_the_plain_prompt(byte_level: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    for place in ("", "chat_template.jinja", "tokenizer_config.json"):
        source, target = tmp_path / f"hf{place}", tmp_path / f"gguf{place}"
        shutil.copytree(byte_level, source)
        if place.endswith(".jinja"):
            (source / place).write_text("{{ messages[0].content }}")
        elif place:
            config = json.loads((source / place).read_text()) | {"chat_template": "{{ messages[0].content }}"}
            (source / place).write_text(json.dumps(config))
        convert.export_gguf(str(source), str(target), "float32")
        assert ("TEMPLATE" in (target / "Modelfile").read_text()) == (not place), place
        assert (b"tokenizer.chat_template" in (target / "model.gguf").read_bytes()) == bool(place), place


@pytest.mark.slow
def test_llama_cpp_answers_texts_as_generate_does(byte_level: Path, tmp_path: Path) -> None:
    """50 texts in, ids out; float32, through an orbax step as well, so that both ways to a file are one."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    pieces = ["the ", "red ", "mug ", "12345 ", "马克杯", "\n"]
    texts = ["".join(pieces[(i * 7 + j * j) % 6] for j in range(1 + i % 9)) for i in range(50)]
    prompts, out = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    arguments = ["--checkpoint", str(byte_level), "--prompts", str(prompts), "--out", str(out), "--dtype", "float32"]
    subprocess.run(
        [sys.executable, "-m", "ecomgpt_jax.generate", *arguments, "--max_new_tokens", "16"],
        check=True, capture_output=True, env={**os.environ, "XLA_FLAGS": fake_devices(1)},
    )  # fmt: skip
    expected = [json.loads(line)["token_ids"] for line in out.read_text().splitlines()]
    convert.convert(str(byte_level), str(tmp_path / "orbax"), "orbax", "float32")
    convert.export_gguf(str(tmp_path / "orbax"), str(tmp_path / "gguf"), "float32")
    answers = llama_cpp_answers(tmp_path / "gguf/model.gguf", texts, 16, 96)
    same = sum([token for token in said if token != 2] == ids for said, ids in zip(answers, expected, strict=True))
    assert same >= 49  # the engine looks GELU up in a float16 table: one near tie may fall otherwise


def test_interpolation(byte_level: Path, tmp_path: Path) -> None:
    other = jax.tree.map(lambda leaf: 1 - leaf, load_hf(byte_level))
    save_hf(other, model_config_from_hf(byte_level), tmp_path / "b", tokenizer_dir=byte_level, seq_length=96)
    for weight, expected in (
        ("0", load_hf(byte_level)),
        ("1", other),
        ("0.25", jax.tree.map(lambda a, b: np.float32(0.75) * a + np.float32(0.25) * b, load_hf(byte_level), other)),
        ("", jax.tree.map(lambda a: np.full_like(a, 0.5), other)),
    ):
        sources = f"{byte_level}:{tmp_path / 'b'}" + (f":{weight}" if weight else "")
        convert.interpolate(sources, str(tmp_path / f"out{weight}"), "float32")
        found = load_hf(tmp_path / f"out{weight}")
        if weight in ("0", "1"):
            assert_equal(found, expected)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
    assert load_tokenizer(tmp_path / "out0.25").eos_id == 2
    for sources, message in (("a", "give BASE:TUNED"), ("a:b:2", "not between"), ("a:b:c:0.5", "give BASE:TUNED")):
        with pytest.raises(ConfigError, match=message):
            convert.interpolate(sources, str(tmp_path / "none"), "float32")


@pytest.mark.slow
def test_check_passes_on_an_export_and_names_each_fault(
    byte_level: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_tasks.write_tiny_tasks(tmp_path / "tasks")
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "tasks"))
    assert convert.check(str(byte_level), "float32") == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 9
    assert "FAILED" not in said
    assert "with the file's weights +0.0000 nats per token" in said.splitlines()[-1]
    shutil.copytree(byte_level, tmp_path / "hf")
    config = json.loads((byte_level / "config.json").read_text())
    del config["seq_length"]
    (tmp_path / "hf/config.json").write_text(json.dumps(config | {"eos_token_id": 3}))
    (tmp_path / "hf/generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.7}')
    monkeypatch.setattr(convert.check_export.__globals__["importlib"].util, "find_spec", lambda package: None)
    assert convert.check(str(tmp_path / "hf")) == 1
    said = capsys.readouterr().out
    assert "FAILED config: neither seq_length nor max_position_embeddings" in said
    assert "FAILED special tokens: generation_config.json sets temperature" in said
    with pytest.raises(MissingInputError, match="nowhere"):
        convert.check(str(tmp_path / "nowhere"))
