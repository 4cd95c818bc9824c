import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecomgpt_jax.training.checkpoint import load_model_config

ROOT = Path(__file__).parent.parent
TOKEN = "hf_" + "pLaNtEd0" * 4
TINY = (
    "--config=configs/demo.py",
    f"--config.name=demo-{TOKEN}",
    "--config.data.synthetic_records=60",
    "--config.data.instances_per_task=3",
    "--config.data.tokenizer_vocab=600",
    "--config.model.embed=32",
    "--config.model.layers=1",
    "--config.model.heads=2",
    "--config.train.rows_per_device=1",
    "--config.train.max_steps=3",
    "--config.train.log_every=1",
    "--config.eval.limit=1",
    "--config.eval.every=2",
    "--config.eval.max_new_tokens=4",
)


def train(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ECOMGPT_")} | environment
    command = [sys.executable, "-m", "ecomgpt_jax.train", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    workdir, cache = tmp_path_factory.mktemp("run") / "w", tmp_path_factory.mktemp("cache")
    result = train(*TINY, f"--workdir={workdir}", f"--config.data.cache_dir={cache}", HF_TOKEN=TOKEN)
    assert result.returncode == 0, result.stderr
    return workdir, cache, result


def test_a_planted_token_is_found_nowhere(run: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    workdir, cache, result = run
    files = [path for folder in (workdir, cache) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in result.stdout + result.stderr
    assert "demo-[masked]" in (workdir / "config.json").read_text()  # it was there to be found


def test_a_run_leaves_what_is_promised(run: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    workdir, _, result = run
    config = json.loads((workdir / "config.json").read_text())
    assert (config["model"]["embed"], config["model"]["vocab_size"]) == (32, 640)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["train/loss"] > 0 for line in lines)
    scored = [[name for name in line if name.startswith("eval/")] for line in lines]
    assert [len(names) for names in scored] == [0, 3 * 13, 0]
    assert "eval/EN-Sentences-NER-NER/score" in scored[1]
    assert "eval/average/micro-f1" in scored[1]
    page = (workdir / "report" / "index.html").read_text()
    assert page.count("<details>") == 8
    assert "Held-out" in page
    for line in lines:
        assert 0 < line["perf/packing_fill"] <= 1
        parts = [line[f"perf/{name}_seconds"] for name in ("data", "step", "host")]
        assert sum(parts) == pytest.approx(line["perf/seconds"])
    assert (workdir / "checkpoints" / "3").is_dir()
    assert (workdir / "tokenizer" / "tokenizer.json").is_file()
    for name in ("before", "after"):
        assert len(json.loads((workdir / "evaluation" / name / "scores.json").read_text())["tasks"]) == 12
    assert load_model_config(workdir / "hf").embed == 32
    card = (workdir / "hf" / "README.md").read_text()
    assert json.loads((workdir / "evaluation/after/scores.json").read_text())["protocol"]["sha256"] in card
    assert "<svg" in (workdir / "report" / "index.html").read_text()
    assert "better than before training on" in result.stdout
    assert result.stdout.splitlines()[-1] == f"report: {workdir / 'report' / 'index.html'}"


def test_started_again_it_trains_no_further(run: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    workdir, cache, _ = run
    before = (workdir / "metrics.jsonl").read_text()
    result = train(*TINY, f"--workdir={workdir}", f"--config.data.cache_dir={cache}", "--resume=require")
    assert result.returncode == 0, result.stderr
    assert (workdir / "metrics.jsonl").read_text() == before


def test_another_runs_checkpoint_can_be_started_from(
    run: tuple[Path, Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    workdir, cache, _ = run
    result = train(
        *TINY, f"--workdir={tmp_path / 'next'}", f"--config.data.cache_dir={cache}", "--nocot", "--nopacking",
        f"--config.model.init_from={workdir}", "--config.train.max_steps=1", "--config.train.final_evaluation=false",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "next/config.json").read_text())
    assert config["data"]["chain_of_task"] is False
    first = json.loads((tmp_path / "next/metrics.jsonl").read_text().splitlines()[0])["train/loss"]
    start = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])["train/loss"]
    assert first < start


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--config.model.layrs=3",), 2, "did you mean 'model.layers'"),
        (("--config.mesh.tensor=5",), 2, "mesh.tensor"),
        (("--config.mesh.data=3",), 2, "valid (data, fsdp, tensor)"),
        (("--resume=require",), 66, "no checkpoint"),
        (("--resume=sometimes",), 2, "auto, never, require"),
        (("--config.model.init_from=/nowhere/at/all",), 66, "/nowhere/at/all"),
        (("--config.model.tokenizer=/nowhere/at/all",), 66, "/nowhere/at/all"),
        (
            (
                "--config.data.mixture=real",
                "--config.data.tasks=()",
                "--noconfig.train.final_evaluation",
                "--config.eval.every=0",
            ),
            66,
            "ECOMGPT_SOURCES",
        ),
        (("--config.data.mixture=real",), 66, "ECOMGPT_EVAL"),
        (("--config.model.vocab_size=64",), 65, "64"),
        (("--languages=de",), 2, "de"),
        (("--config.data.sources=no_such_source",), 2, "no_such_source"),
        (("stray",), 2, "stray"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path,
    run: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:  # fmt: skip
    result = train(*TINY, f"--workdir={tmp_path / 'w'}", f"--config.data.cache_dir={run[1]}", *arguments)
    assert (result.returncode, words in result.stderr) == (code, True), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not (tmp_path / "w").exists()


def test_dry_run_says_what_would_happen_and_writes_no_workdir(
    run: tuple[Path, Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    _, cache, _ = run
    result = train(
        *TINY, "--dry_run", f"--workdir={tmp_path / 'dry'}", f"--config.data.cache_dir={cache}", "--config.lora.rank=2",
        "--config.model.tokenizer=", "--config.name=hf_abcdefghijklmnopqrstuvwxyz",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    config, end = json.JSONDecoder().raw_decode(result.stdout)
    assert (config["name"], config["model"]["embed"], config["model"]["vocab_size"]) == ("[masked]", 32, 640)
    table = result.stdout[end:]
    assert "language  family" in table
    assert "plan: 3 steps of " in table
    assert "1,024 trained" in table  # 2 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32): inputs and outputs of four layers
    assert not (tmp_path / "dry").exists()
    assert "\x1b" not in result.stdout + result.stderr
