import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_tasks
from sessions import session_members
from xla_flags import fake_devices

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.hf_weights import load_hf, save_hf

ROOT = Path(__file__).parent.parent
EXPERIMENT = """
from ecomgpt_jax.experiment import Experiment, Variant


def get_config(arg="whole"):
    variants = (
        Variant("all", ("data.num_tasks=8",), factors=(("log2 tasks", 3.0),)),
        Variant("half", ("data.num_tasks=4",), factors=(("log2 tasks", 2.0),)),
    )
    if arg == "wrong":
        variants = (Variant("all", ("data.num_tasks=900",)),)
    return Experiment(
        name="tiny", question="Do more tasks help?", config="{config}", variants=variants,
        start=("{config}:first", "{config}:start"), seeds=(0,), overrides=("train.max_steps=3",) if arg != "long" else
        ("train.max_steps=100000", "train.epochs=2000", "train.save_every=5"), limit=2, caveats=("Far too small.",),
    )
"""
# What the cells train: the demo, shrunk until a cell takes seconds.
CONFIG = """
from configs import demo


def get_config(arg=""):
    config = demo.get_config()
    config.data.tasks = ()
    config.data.cache_dir = "{cache}"
    config.data.synthetic_records, config.data.instances_per_task, config.data.tokenizer_vocab = 60, 2, 600
    config.model.embed, config.model.layers, config.model.heads = 32, 1, 2
    config.train.rows_per_device, config.train.max_steps, config.train.log_every = 1, 2, 1
    return config
"""


def ablate(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ecomgpt_jax.ablate", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=settings(environment), capture_output=True, text=True, check=False)


def settings(environment: dict[str, str]) -> dict[str, str]:
    left_out = ("ECOMGPT_EVAL", "ECOMGPT_SOURCES")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    return {**kept, "XLA_FLAGS": fake_devices(1), **environment}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ablate")
    tiny_tasks.write_tiny_tasks(root / "tasks")
    cell = root / "cell.py"
    cell.write_text(CONFIG.replace("{cache}", str(root / "cache")))
    (root / "experiment.py").write_text(EXPERIMENT.replace("{config}", str(cell)))
    return root


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--config is missing or no experiment"),
        (("--config=configs/demo.py",), 2, "no experiment"),
        (("--config={experiment}",), 2, "--out is missing"),
        (("--config={experiment}", "--out={out}", "--seeds=a"), 2, "--seeds=a"),
        (("--config={experiment}", "--out={out}"), 66, "ECOMGPT_EVAL"),
        (("--config={experiment}", "--out={out}", "--weights=1"), 2, "--weights has no effect without --interpolate"),
        (("--interpolate=a:b", "--out={out}", "--weights=0,1.5"), 2, "--weights=0,1.5: give numbers from 0 to 1"),
        (("--interpolate=a:b:0.5", "--out={out}"), 2, "--interpolate=a:b:0.5: give BASE:TUNED"),
        (("--interpolate=a:b", "--out={out}", "--seeds=1"), 2, "--seeds has no effect with --interpolate"),
    ],
)
def test_what_is_missing_is_said_in_one_line(world: Path, arguments: tuple, code: int, words: str) -> None:
    names = {"experiment": str(world / "experiment.py"), "out": str(world / "refused")}
    result = ablate(*(argument.format(**names) for argument in arguments))
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (world / "refused").exists()


@pytest.mark.slow
def test_an_experiment_runs_to_its_table_and_is_not_run_again(world: Path) -> None:
    arguments = (f"--config={world / 'experiment.py'}", f"--out={world / 'out'}", f"--tasks={world / 'tasks'}")
    result = ablate(*arguments)
    assert result.returncode == 0, result.stderr
    results = json.loads((world / "out/results.json").read_text())
    assert [run["variant"] for run in results["runs"]] == ["all", "half", "start cell-start", "start cell-first"]
    assert list(results["variants"]) == ["all", "half", "start cell-start"]
    assert set(results["variants"]["half"]["tasks"]) == set(results["rows"])
    assert results["trend"]["log2 tasks"]["low"] <= results["trend"]["log2 tasks"]["value"]
    assert max(results["rows"].values()) == 2
    assert results["experiment"]["config"] == os.path.relpath(world / "cell.py", ROOT)
    assert "- Far too small." in (world / "out/table.md").read_text()
    assert (world / "out/figure.png").stat().st_size > 1000
    config = json.loads((world / "out/cells/half-seed0/run/config.json").read_text())
    assert config["data"]["num_tasks"] == 4
    assert config["model"]["init_from"] == str(world / "out/starts/cell-start/run")
    start = json.loads((world / "out/starts/cell-start/run/config.json").read_text())
    assert start["model"]["init_from"] == str(world / "out/starts/cell-first/run")
    assert 0 < results["loss"]["variants"]["half"]["average"]["value"] < 20
    logs = [path.read_text() for path in (world / "out").rglob("log.txt")]
    again = ablate(*arguments)
    assert again.returncode == 0, again.stderr
    assert [path.read_text() for path in (world / "out").rglob("log.txt")] == logs
    shared = ablate(arguments[0], f"--out={world / 'beside'}", arguments[2], f"--starts={world / 'out/starts'}")
    assert shared.returncode == 0, shared.stderr
    assert not (world / "beside/starts").exists()
    assert json.loads((world / "beside/results.json").read_text())["variants"] == results["variants"]
    other = ablate(*arguments, "--limit=1")
    assert other.returncode == 2
    assert "other settings" in other.stderr


@pytest.mark.slow
def test_a_curve_between_a_base_and_a_lora_run(world: Path, tmp_path: Path) -> None:
    """A workdir is converted once with its adapters merged, and no mixture stays; 0 and 1 are the ends themselves."""
    model = ModelConfig(size="custom", embed=32, layers=1, heads=2, vocab_size=16_384, compute_dtype="float32")
    params = jax.jit(partial(decoder.init_params, model))(jax.random.key(0))
    save_hf(params, model, tmp_path / "base", tokenizer_dir=ROOT / "configs/nano", seq_length=96)
    config = world / "cell.py"
    lora = [f"--config.{field}" for field in ("lora.rank=4", "optimizer.learning_rate=0.1", "train.max_steps=4")]
    train = [f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--config.model.init_from={tmp_path / 'base'}"]
    subprocess.run(
        [sys.executable, "-m", "ecomgpt_jax.train", *train, *lora, "--config.train.final_evaluation=false"],
        cwd=ROOT, env=settings({}), check=True, capture_output=True,
    )  # fmt: skip
    curve = f"--interpolate={tmp_path / 'base'}:{tmp_path / 'run'}"
    arguments = (curve, "--weights=0,0.5,1", "--limit=1", f"--tasks={world / 'tasks'}", f"--out={tmp_path / 'out'}")
    result = ablate(*arguments)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results["variants"]) == ["weight-0", "weight-0.5", "weight-1"]
    assert results["trend"] == {}
    losses = [results["loss"]["variants"][name]["average"]["value"] for name in results["variants"]]
    assert len(set(losses)) == 3
    assert (tmp_path / "out/figure.png").stat().st_size > 1000
    assert not list((tmp_path / "out").glob("cells/*/run"))
    assert (tmp_path / "out/ends/log.txt").read_text().count("ecomgpt_jax.convert") == 1
    ours, theirs = (load_hf(tmp_path / place) for place in ("out/ends/tuned", "base"))
    assert not np.array_equal(ours["blocks"]["qkv"]["kernel"], theirs["blocks"]["qkv"]["kernel"])
    logs = (tmp_path / "out/cells/weight-1-seed0/log.txt").read_text()
    assert ablate(*arguments).returncode == 0
    assert (tmp_path / "out/cells/weight-1-seed0/log.txt").read_text() == logs


@pytest.mark.slow
def test_a_cell_that_fails_stops_it_with_the_cells_own_line(world: Path) -> None:
    arguments = (f"--config={world / 'experiment.py'}:wrong", f"--out={world / 'wrong'}", f"--tasks={world / 'tasks'}")
    result = ablate(*arguments)
    assert result.returncode == 2
    assert "data.num_tasks=900" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_told_to_stop_it_ends_its_child_and_goes_on_later(world: Path) -> None:
    out = world / "stopped"
    command = [
        sys.executable, "-m", "ecomgpt_jax.ablate", f"--config={world / 'experiment.py'}:long", f"--out={out}",
        f"--tasks={world / 'tasks'}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, env=settings({}), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics = out / "cells/all-seed0/run/metrics.jsonl"
    while not metrics.is_file() and process.poll() is None:
        time.sleep(0.5)
    assert metrics.is_file()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75
    assert "start the same command again" in errors
    assert session_members(process.pid) == [], "nothing that it started goes on"
    assert not (out / "cells/all-seed0/cost.json").exists()
    assert (out / "starts/cell-start/cost.json").is_file()
