import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.evaluation.scores import write_predictions

EVAL = os.environ.get("ECOMGPT_EVAL", "")


def score(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ecomgpt_jax.score", *map(str, arguments)]
    environment = {**{k: v for k, v in os.environ.items() if k != "ECOMGPT_EVAL"}, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    for task, _ in tiny_tasks.write_tiny_tasks(tmp_path / "tasks"):
        write_predictions(tmp_path / "predictions" / f"{task.name}.jsonl", build_prompts(task).golds)
    return tmp_path


def test_scores_are_written_and_missing_files_named(world: Path) -> None:
    (world / "predictions" / "EN-Shop-CLS-topic.jsonl").rename(world / "predictions" / "EN-Shop-CLS-topics.jsonl")
    arguments = ("--tasks", world / "tasks", "--predictions", world / "predictions", "--out", world / "o" / "s.json")
    done = score(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not scored: EN-Shop-CLS-topic (no EN-Shop-CLS-topic.jsonl)" in done.stdout
    near = "did you mean 'EN-Shop-CLS-topic'?"
    assert f"not scored: EN-Shop-CLS-topics.jsonl (no task of this name, {near})" in done.stdout
    scores = json.loads((world / "o" / "s.json").read_text(encoding="utf-8"))
    assert set(scores) == {"tasks", "averages", "protocol"}
    assert len(scores["tasks"]) == 5
    for entry in scores["tasks"].values():
        assert set(entry["official"]) == {"micro-f1", "macro-f1", "rouge-l-f1"}
        assert entry["corrected"]["score"] == 1
        assert set(entry["baselines"]) == {"majority", "random", "copy"}
    assert len(scores["protocol"]["sha256"]) == 64


def test_a_limit_takes_the_first_rows_of_whole_prediction_files(world: Path) -> None:
    arguments = ("--tasks", world / "tasks", "--predictions", world / "predictions", "--out", world / "s.json")
    done = score(*arguments, "--limit", 1)
    assert (done.returncode, done.stderr) == (0, "")
    tasks = json.loads((world / "s.json").read_text(encoding="utf-8"))["tasks"]
    assert {entry["rows"] for entry in tasks.values()} == {1}
    with (world / "predictions" / "EN-Shop-CLS-topic.jsonl").open("a") as file:
        file.write('{"index": 4, "prediction": "Price"}\n')
    done = score(*arguments, "--limit", 1)
    assert (done.returncode, done.stderr.count("\n")) == (65, 1)
    assert "EN-Shop-CLS-topic.jsonl:5:1: index 4 is out of range; the task has 4 rows" in done.stderr


def test_tasks_default_to_the_environment(world: Path) -> None:
    done = score("--predictions", world / "predictions", "--out", world / "s.json", ECOMGPT_EVAL=str(world / "tasks"))
    assert done.returncode == 0


def spoil_row(world: Path) -> None:
    path = world / "predictions" / "EN-Shop-CLS-topic.jsonl"
    path.write_text(path.read_text().split("\n", 1)[1])


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "words"),
    [
        (spoil_row, {}, 65, "first missing index is 0"),
        (lambda world: [p.unlink() for p in (world / "predictions").iterdir()], {}, 66, "no <task>.jsonl"),
        (lambda world: None, {"--tasks": ""}, 66, "ECOMGPT_EVAL"),
        (lambda world: None, {"--out": ""}, 2, "--out is missing"),
        (lambda world: None, {"--out": "/"}, 74, "a folder, not a file: /"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    world: Path, spoil: Callable, arguments: dict, code: int, words: str
) -> None:
    spoil(world)
    given = {"--tasks": world / "tasks", "--predictions": world / "predictions", "--out": world / "s.json", **arguments}
    done = score(*(part for pair in given.items() for part in pair))
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (world / "s.json").exists()


@pytest.mark.skipif(not EVAL, reason="ECOMGPT_EVAL is not set")
def test_released_predictions_give_the_released_figures(tmp_path: Path) -> None:
    parity = Path(EVAL).parent / "parity"
    for path in (parity / "predictions").glob("*.heavy.jsonl"):
        shutil.copy(path, tmp_path / path.name.replace(".heavy", ""))
    done = score("--tasks", EVAL, "--predictions", tmp_path, "--out", tmp_path / "s.json")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = json.loads((parity / "official_scores.json").read_text(encoding="utf-8"))
    found = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["tasks"]
    assert sorted(found) == sorted(wanted)
    for name, entry in found.items():
        tolerance = 2e-3 if name == "EN-Lenovo-NER-NER" else 1e-6
        assert entry["official"] == pytest.approx(wanted[name]["heavy"], rel=0, abs=tolerance)
