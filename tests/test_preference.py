import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.evaluation.scores import write_predictions


def preference(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ecomgpt_jax.preference", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "ECOMGPT_EVAL"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Folders tasks, a (an output folder) and b (only prediction files); a says gold, b "</script>" and gold."""
    for task, _ in tiny_tasks.write_tiny_tasks(tmp_path / "tasks"):
        golds = build_prompts(task).golds
        write_predictions(tmp_path / "a" / "predictions" / f"{task.name}.jsonl", golds)
        write_predictions(tmp_path / "b" / f"{task.name}.jsonl", [f"</script>{gold}" for gold in golds])
    return tmp_path


def make(world: Path, *more: object) -> subprocess.CompletedProcess:
    return preference(
        "--make", world / "a", world / "b", "--tasks", world / "tasks", "--rows", 3, "--annotators", 2,
        "--out", world / "study", *more,
    )  # fmt: skip


def judge(world: Path, annotator: str) -> Path:
    """Plays an annotator who reads the sheet as the page does and dislikes "</script>"."""
    page = (world / "study" / "sheets" / f"{annotator}.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    judged = {item["id"]: "right" if item["left"].startswith("</script>") else "left" for item in data["items"]}
    path = world / f"judgements-{annotator}.json"
    path.write_text(json.dumps({"study": data["study"], "annotator": annotator, "judgements": judged}))
    return path


def write_scores(world: Path, tasks: list[str], name: str = "greedy") -> None:
    """Writes what `preference` reads of A's scores.json."""
    scores = {"tasks": {task: {"rows": 1} for task in tasks}, "protocol": {"name": name, "sha256": "0"}}
    (world / "a" / "scores.json").write_text(json.dumps(scores))


def test_only_the_tasks_of_the_scores_are_taken(world: Path) -> None:
    write_scores(world, ["EN-Shop-CLS-topic"])  # an evaluation of one task, where there were others before
    made = make(world)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.count("left out: ") == 5
    key = json.loads((world / "study" / "key.json").read_text(encoding="utf-8"))
    assert {item["task"] for item in key["items"].values()} == {"EN-Shop-CLS-topic"}


def test_scores_of_other_programs_are_refused_in_one_line(world: Path) -> None:
    (world / "a" / "scores.json").write_text('{"accuracy": 0.5}')
    done = make(world)
    assert (done.returncode, done.stderr.count("\n")) == (65, 1)
    assert f'{world / "a" / "scores.json"}: no "tasks" and "protocol"' in done.stderr


def test_the_prompts_are_those_that_were_answered(world: Path) -> None:
    def protocol(name: str) -> None:
        write_scores(world, sorted(path.stem for path in (world / "a" / "predictions").iterdir()), name)

    protocol("released:5")
    done = make(world)
    assert (done.returncode, done.stderr.count("\n")) == (65, 1)
    assert "protocol released:5 and greedy" in done.stderr
    protocol("constrained:letters")
    assert "protocol greedy:letters and greedy" in make(world).stderr
    protocol("beam4")
    assert make(world).returncode == 0


def test_sheets_are_made_judged_and_read(world: Path) -> None:
    made = make(world)
    assert (made.returncode, made.stderr) == (0, "")
    assert sorted(path.name for path in (world / "study").rglob("*.*")) == [
        "annotator-1.html", "annotator-2.html", "key.json",
    ]  # fmt: skip
    saved = [judge(world, f"annotator-{number}") for number in (1, 2)]
    done = preference("--judgements", *saved, "--key", world / "study" / "key.json", "--out", world / "result.json")
    assert (done.returncode, done.stderr) == (0, "")
    named = preference("--judgements", *saved, "--key", world / "study" / "key.json", "--out", world / "r" / "v1.2")
    assert (named.returncode, named.stderr) == (0, "")
    assert sorted(path.name for path in (world / "r").iterdir()) == ["v1.2.json", "v1.2.md"]
    result = json.loads((world / "result.json").read_text(encoding="utf-8"))
    items = 3 + 3 + 3 + 3 + 2 + 2
    assert (result["all"]["win"], result["all"]["items"], result["judgements"]) == (items, items, 2 * items)
    assert (world / "result.md").read_text(encoding="utf-8").startswith("# Human preference")
    assert "win 100.0%" in done.stdout


def test_a_study_is_not_written_over_and_missing_tasks_are_named(world: Path) -> None:
    (world / "b" / "EN-Shop-CLS-topic.jsonl").unlink()
    assert "left out: EN-Shop-CLS-topic" in make(world).stdout
    key = (world / "study" / "key.json").read_bytes()
    again = make(world, "--seed", 1)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert (world / "study" / "key.json").read_bytes() == key


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("--make a b", 2, "--out is missing"),
        ("--out o", 2, "either --make"),
        ("--make --judgements j.json --out o", 2, "either --make"),
        ("--make a --out o", 2, "needs two"),
        ("--make nowhere b --tasks tasks --out o", 66, "nowhere: no such folder"),
        ("--make a tasks --tasks tasks --out o", 66, "in both"),
        ("--make a b --out o", 66, "ECOMGPT_EVAL"),
        ("--make a b --rows 0 --out o", 2, "rows"),
        ("--make a b --key k.json --out o", 2, "--key has no effect with --make"),
        ("--judgements j.json --key k.json --rows 3 --out o", 2, "--rows has no effect without --make"),
        ("--judgements j.json --out o", 2, "--key is missing"),
        ("--judgements j.json --key k.json --out .", 2, "name the file"),
        ("--judgements j.json --key k.json --out o", 66, "k.json"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(world: Path, arguments: str, code: int, words: str) -> None:
    given = [str(world / part) if part in ("a", "b", "tasks", "nowhere") else part for part in arguments.split()]
    given[-1] = str(world / "o") if given[-1] == "o" else given[-1]
    done = preference(*given)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert words in done.stderr
    assert not (world / "o").exists()
