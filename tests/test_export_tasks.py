import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_tasks


def export(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ecomgpt_jax.export_tasks", *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "ECOMGPT_EVAL"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_every_task_is_exported(tmp_path: Path) -> None:
    tiny_tasks.write_tiny_tasks(tmp_path / "tasks")
    done = export("--tasks", tmp_path / "tasks", "--out", tmp_path / "out", "--limit", 2, "--protocol", "released:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 tasks, 6 in the group" in done.stdout
    assert len(list((tmp_path / "out").glob("*.yaml"))) == 7
    assert {path.read_text().count("\n") for path in (tmp_path / "out" / "data").iterdir()} == {2}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--tasks", "x"], 2, "--out is missing"),
        (["--out", "x"], 66, "ECOMGPT_EVAL"),
        (["--out", "x", "--protocol", "released"], 2, "none of greedy, constrained, likelihood and released:SEED"),
        (["--tasks", "x", "--out", "x", "--protocol", "likelihood"], 2, "lm_eval decides how answers are chosen"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], code: int, words: str) -> None:
    done = export(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert words in done.stderr
