import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.evaluation.baselines import BASELINES
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts, describe
from ecomgpt_jax.evaluation.scores import score_task, write_predictions
from ecomgpt_jax.files import write_json
from ecomgpt_jax.instruct.task_folder import load_tasks

TOPIC = "EN-Shop-CLS-topic"


def compare(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ecomgpt_jax.compare", *map(str, arguments)]
    environment = {**{k: v for k, v in os.environ.items() if k != "ECOMGPT_EVAL"}, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def write_evaluation(
    folder: Path, parts: list[TaskPrompts], answer: Callable[[str], str] = str, settings: EvalConfig | None = None,
    loss: float | None = None,
) -> None:  # fmt: skip
    entries = {}
    for part in parts:
        texts = [answer(gold) for gold in part.golds]
        losses = [] if loss is None else [loss] * len(texts)
        write_predictions(folder / "predictions" / f"{part.task.name}.jsonl", texts, losses)
        entries[part.task.name] = score_task(part, texts) | ({} if loss is None else {"answer_loss": loss})
    write_json(folder / "scores.json", {"tasks": entries, "protocol": describe(parts, settings or EvalConfig())})


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Folders tasks, a (all right), b (all wrong), short (three tasks fewer), small (other settings)."""
    tiny_tasks.write_tiny_tasks(tmp_path / "tasks")
    parts = [build_prompts(task) for task in load_tasks(tmp_path / "tasks")]
    write_evaluation(tmp_path / "a", parts)
    write_evaluation(tmp_path / "b", parts, lambda _: "<script>alert(1)</script>")
    write_evaluation(tmp_path / "short", parts[3:])
    write_evaluation(tmp_path / "small", parts, settings=EvalConfig(max_new_tokens=7))
    few = [build_prompts(task, 2) for task in load_tasks(tmp_path / "tasks")]
    write_evaluation(tmp_path / "few", few, settings=EvalConfig(limit=2))
    return tmp_path


def test_two_evaluations_are_compared(world: Path) -> None:
    done = compare(world / "a", world / "b", "--tasks", world / "tasks", "--out", world / "o" / "c.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 7
    result = json.loads((world / "o" / "c.json").read_text(encoding="utf-8"))
    assert (len(result["tasks"]), result["notes"], result["not_compared"]) == (6, [], {})
    entry = result["tasks"]["EN-Shop-CLS-shade"]
    assert (entry["rows"], entry["a"], entry["b"], entry["difference"], entry["low"]) == (8, 1, 0, 1, 1)
    assert entry["mcnemar"] == {"only_a": 8, "only_b": 0, "p": 2 / 2**8, "p_holm": 6 * 2 / 2**8}
    assert entry["p"] == pytest.approx(2 / 2**8, rel=0.5)
    first = entry["most_different"][0]
    assert (first["gold"], first["a"], first["b"]) == ("shade 00", "shade 00", "<script>alert(1)</script>")
    again = compare(world / "a", world / "b", "--out", world / "d.json", ECOMGPT_EVAL=str(world / "tasks"))
    assert again.returncode == 0
    assert (world / "d.json").read_bytes() == (world / "o" / "c.json").read_bytes()


def test_losses_are_compared_where_both_have_them(world: Path) -> None:
    parts = [build_prompts(task) for task in load_tasks(world / "tasks")]
    for folder, loss in (("low", 0.5), ("high", 2.0)):
        write_evaluation(world / folder, parts, loss=loss)
    results = {}
    for other in ("high", "a"):
        done = compare(world / "low", world / other, "--tasks", world / "tasks", "--out", world / f"{other}.json")
        assert (done.returncode, done.stderr) == (0, "")
        assert ("average loss" in done.stdout) == (other == "high")
        results[other] = json.loads((world / f"{other}.json").read_text(encoding="utf-8"))
    assert "loss" not in results["a"]
    average = results["high"]["loss"]["average"]
    assert (average["tasks"], average["difference"], average["low"], average["high"]) == (6, -1.5, -1.5, -1.5)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_answers_the_rows_of_a(world: Path, name: str) -> None:
    """Its scores are those that `score` writes beside a run's own; a folder of that name elsewhere is not needed."""
    done = compare(world / "a", name, "--tasks", world / "tasks", "--out", world / "c.json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((world / "c.json").read_text(encoding="utf-8"))
    assert result["b_folder"] == f"the baseline {name}"
    scores = json.loads((world / "a" / "scores.json").read_text(encoding="utf-8"))["tasks"]
    for task, entry in result["tasks"].items():
        assert entry["b"] == pytest.approx(scores[task]["baselines"][name]["corrected"]["score"])
    assert compare(name, world / "a", "--tasks", world / "tasks", "--out", world / "d.json").returncode == 66


@pytest.mark.parametrize("ending", ["md", "html"])
def test_the_ending_decides_the_format(world: Path, ending: str) -> None:
    done = compare(world / "a", world / "b", "--tasks", world / "tasks", "--out", world / f"c.{ending}")
    assert done.returncode == 0
    text = (world / f"c.{ending}").read_text(encoding="utf-8")
    assert text.startswith({"md": "# Comparison", "html": "<!doctype html>"}[ending])
    assert "<script" not in text.replace("\\<", "")
    assert "EN-Shop-CLS-shade" in text


def test_tasks_of_only_one_are_named(world: Path) -> None:
    done = compare(world / "a", world / "short", "--tasks", world / "tasks", "--out", world / "c.json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((world / "c.json").read_text(encoding="utf-8"))
    assert len(result["tasks"]) == 3
    assert result["not_compared"][TOPIC] == "only in A"
    assert f"Not compared: {TOPIC} (only in A)." in done.stdout


def other_gold(world: Path) -> None:
    path = world / "tasks" / "Shop" / "tasks" / TOPIC / "test.json"
    path.write_text(path.read_text(encoding="utf-8").replace("Cheap!", "Cheap?"), encoding="utf-8")


def test_drawn_candidates_are_drawn_again(world: Path) -> None:
    parts = {
        seed: [build_prompts(task, protocol=f"released:{seed}") for task in load_tasks(world / "tasks")]
        for seed in (1, 2)
    }
    for name, seed in (("r1", 1), ("again", 1), ("r2", 2)):
        write_evaluation(world / name, parts[seed], settings=EvalConfig(protocol=f"released:{seed}"))
    out = ("--tasks", world / "tasks", "--out", world / "c.json")
    assert compare(world / "r1", world / "again", *out).returncode == 0
    done = compare(world / "r1", world / "r2", *out)
    assert (done.returncode, "name 'released:1' and 'released:2'" in done.stderr) == (65, True)


def test_letters_are_compared_with_letters_alone(world: Path) -> None:
    for name in ("greedy:letters", "constrained:letters"):
        parts = [build_prompts(task, protocol=name) for task in load_tasks(world / "tasks")]
        for folder in ("x", "y"):
            write_evaluation(world / f"{folder}-{name}", parts, settings=EvalConfig(protocol=name))
    out = ("--tasks", world / "tasks", "--out", world / "c.json")
    assert compare(world / "x-greedy:letters", world / "y-greedy:letters", *out).returncode == 0
    for other in ("a", "x-constrained:letters"):
        done = compare(world / "x-greedy:letters", world / other, *out)
        assert (done.returncode, "differ in protocol: name 'greedy:letters'" in done.stderr) == (65, True)


def drop_index(world: Path) -> None:
    path = world / "b" / "predictions" / f"{TOPIC}.jsonl"
    path.write_text(path.read_text().split("\n", 1)[1])


def spoil_scores(world: Path) -> None:
    (world / "b" / "scores.json").write_text('{"tasks": {}}')


def other_prompts(world: Path) -> None:
    path = world / "b" / "scores.json"
    scores = json.loads(path.read_text(encoding="utf-8"))
    scores["protocol"]["sha256"] = "0" * 64
    path.write_text(json.dumps(scores), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "second", "code", "words"),
    [
        (None, "nowhere", 66, "no such folder"),
        (None, "tasks", 66, "scores.json: no such file"),
        (None, "small", 65, "differ in protocol: max_new_tokens 164 and 7"),
        (None, "few", 65, "rows in"),
        (lambda world: (world / "b" / "predictions" / f"{TOPIC}.jsonl").unlink(), "b", 66, f"{TOPIC}.jsonl"),
        (drop_index, "b", 65, "first missing index is 0"),
        (spoil_scores, "b", 65, "sha256"),
        (other_prompts, "b", 65, "sha256 of the prompts"),
        (other_gold, "b", 65, "a: was evaluated on other prompts or gold answers than those of"),
        (other_gold, "short", 65, "a: was evaluated on other prompts or gold answers than those of"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    world: Path, spoil: Callable | None, second: str, code: int, words: str
) -> None:
    if spoil:
        spoil(world)
    done = compare(world / "a", world / second, "--tasks", world / "tasks", "--out", world / "c.json")
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (world / "c.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a", "--out", "c.json"], 2, "two are needed"),
        (["a", "b"], 2, "--out is missing"),
        (["a", "b", "--out", "/"], 74, "a folder, not a file: /"),
        (["a", "b", "--out", "c.json"], 66, "ECOMGPT_EVAL"),
        (["a", "b", "--seed", "-1"], 2, "seed"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], code: int, words: str) -> None:
    done = compare(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert words in done.stderr
