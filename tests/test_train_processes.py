"""Two processes on one machine against one process with as many devices; training, evaluation and files."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from xla_flags import fake_devices

from ecomgpt_jax.waiting import file_lock

ROOT = Path(__file__).parent.parent
TINY = (
    "--config=configs/demo.py", "--config.data.synthetic_records=60", "--config.data.instances_per_task=3",
    "--config.data.tokenizer_vocab=600", "--config.model.embed=32", "--config.model.layers=1",
    "--config.model.heads=2", "--config.train.rows_per_device=1", "--config.train.max_steps=4",
    "--config.train.log_every=1", "--config.train.save_every=2", "--config.eval.limit=1",
    "--config.eval.max_new_tokens=4", "--config.mesh.data=2",
)  # fmt: skip


def start(
    workdir: Path, cache: Path, devices: int, *arguments: str,
    script: Sequence[str] = ("-m", "ecomgpt_jax.train"), **environment: str,
) -> subprocess.Popen[str]:  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith("ECOMGPT_")}
    env |= {"XLA_FLAGS": fake_devices(devices)} | environment
    command = [
        sys.executable, *script, *TINY, f"--workdir={workdir}",
        f"--config.data.cache_dir={cache}", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(tmp_path: Path) -> None:
    together = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    pair = [start(tmp_path / "two", tmp_path / "cache", 1, *together, f"--process_id={i}") for i in range(2)]
    outputs = [process.communicate(timeout=1800) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert "report:" in outputs[0][0]
    assert "report:" not in outputs[1][0]
    alone = start(tmp_path / "one", tmp_path / "cache", 2)
    _, errors = alone.communicate(timeout=1800)
    assert alone.returncode == 0, errors
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert [line["step"] for line in two] == [line["step"] for line in one] == [1, 2, 3, 4]
    for ours, theirs in zip(two, one, strict=True):
        assert (ours["train/tokens"], ours["train/targets"]) == (theirs["train/tokens"], theirs["train/targets"])
    np.testing.assert_allclose(*([line["train/loss"] for line in run] for run in (two, one)), rtol=1e-5)
    held_back = [{name: value for name, value in run[-1].items() if "val/loss" in name} for run in (two, one)]
    assert len(held_back[1]) > 3
    assert held_back[0] == pytest.approx(held_back[1], rel=1e-5)
    scores = [json.loads((tmp_path / run / "evaluation/after/scores.json").read_text()) for run in ("two", "one")]
    assert scores[0]["protocol"] == scores[1]["protocol"]
    assert len(scores[0]["tasks"]) == 12
    assert (tmp_path / "two/checkpoints/4").is_dir()


@pytest.mark.slow
def test_every_process_refuses_a_workdir_where_another_training_runs(tmp_path: Path) -> None:
    together = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    with file_lock(tmp_path / "w/.lock", "the first"):
        pair = [start(tmp_path / "w", tmp_path / "cache", 1, *together, f"--process_id={i}") for i in range(2)]
        outputs = [process.communicate(timeout=1800) for process in pair]
    assert [process.returncode for process in pair] == [74, 74], outputs
    assert all("runs here; wait for it, or use another --workdir" in errors for _, errors in outputs)
    assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]


@pytest.mark.slow
def test_two_processes_killed_while_they_evaluate_decode_only_what_is_left(tmp_path: Path) -> None:
    workdir = tmp_path / "run"

    def run(kill_after: int) -> list[tuple[int, list[str]]]:
        together = [f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--config.eval.limit=3"]
        pair = [
            start(
                workdir, tmp_path / "cache", 1, *together, f"--process_id={i}",
                script=[str(ROOT / "tests/counted_train.py")], PYTHONPATH=str(ROOT), KILL_AFTER=str(kill_after),
            )
            for i in range(2)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=1800) for process in pair]
        assert all(process.returncode == 0 for process in pair) or kill_after, outputs
        return [
            (process.returncode, [line for line in output.splitlines() if line.startswith("decode")])
            for process, (output, _) in zip(pair, outputs, strict=True)
        ]

    def answers(name: str) -> list[str]:
        return (workdir / "evaluation" / name / "answers.jsonl").read_text().splitlines()

    first = run(5)
    total, kept = int(first[0][1][0].split()[1]), answers("before")
    assert first == [(-9, [f"decode {total}"])] * 2
    assert len(kept) == 5
    assert run(total - 5 + 7) == [(-9, [f"decode {total - 5}", f"decode {total}"])] * 2
    assert answers("before")[:5] == kept
    assert len(set(answers("before"))) == len(answers("before")) == total
    scored = (workdir / "evaluation/before/scores.json").stat().st_mtime_ns
    assert run(0) == [(0, [f"decode {total - 7}"])] * 2
    assert (workdir / "evaluation/before/scores.json").stat().st_mtime_ns == scored
    assert len(set(answers("after"))) == len(answers("after")) == total
