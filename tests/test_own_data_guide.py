"""The guide of the README: every step is named, and the commands do what it says."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from xla_flags import fake_devices

from ecomgpt_jax.instruct.audit import Finding, audit_folder
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import load_tasks, read_rows, to_instruction

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = README.split("## Your own data\n")[1].split("\n## ")[0]
STEPS = re.search(r"```bash\n(.*?)```", GUIDE, re.DOTALL)[1].splitlines()


def test_no_step_is_missing() -> None:
    """Each command exists, and each file that it reads is in the repository or was made by an earlier step."""
    made: set[str] = set()
    assert STEPS[0].startswith("python3 -m venv")
    for step in STEPS[1:]:
        words = shlex.split(step, comments=True)
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), words[2]
        files = [word.split("=")[-1] for word in words if re.search(r"\.(jsonl|py)$", word) or "runs/" in word]
        written = [files[-1]] if words[0] in ("cp", "head") or "--out" in words else [w for w in files if "runs/" in w]
        read = [file for file in files if file not in written or (file in made)]
        assert all(file in made or (ROOT / file).is_file() for file in read), step
        made |= set(written)
    assert "answers.jsonl" in made
    assert len((ROOT / "configs/own_data.jsonl").read_text(encoding="utf-8").splitlines()) == 20


def test_every_setting_that_the_guide_names_exists() -> None:
    from ecomgpt_jax.config import Config, field_paths

    for name in re.findall(r"(?<![\w.])(?:config\.)?((?:data|model)\.\w+)", GUIDE):
        assert name in field_paths(Config()), name


def write_tasks(folder: Path) -> None:
    """Writes the task folder of the data guide."""
    guide = (ROOT / "ecomgpt_jax/instruct/README.md").read_text(encoding="utf-8").split("## Your own tasks\n")[1]
    subprocess.run(["bash", "-ec", re.search(r"```bash\n(.*?)```", guide, re.DOTALL)[1]], cwd=folder, check=True)


def test_the_example_of_a_task_folder_is_complete_and_without_findings(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    found = list(audit_folder(tmp_path / "tasks"))
    assert [each for each in found if isinstance(each, Finding)] == []
    (task,) = load_tasks(tmp_path / "tasks")
    rows = read_rows(task, "train"), read_rows(task, "test")
    assert len(found) == len(rows[0]) + len(rows[1])
    prompt, response = render(to_instruction(task, 0, rows[1][0]))
    assert prompt.endswith(
        "Frying pan with lid\nSelect the category of the product from: Kitchen, Garden, Toys.\n### Response:"
    )
    assert response == "Kitchen"


def test_the_example_of_a_task_folder_is_built_and_taken_by_train(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    build, train, evaluate = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)[1].splitlines()
    assert ("--checkpoint runs/tasks" in evaluate, "--workdir runs/tasks" in train) == (True, True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECOMGPT_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**kept, "HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT), "XLA_FLAGS": fake_devices(1)}
    script = f"{build}\n{train} --dry_run"
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no findings in 8 rows of the files" in done.stdout
    assert "1 tasks, 6 training instances" in done.stdout


@pytest.mark.slow
def test_the_commands_tune_a_model_that_answers(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECOMGPT_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # The guide is for one device; the tests' eight would make a step of all rows.
    env = {**kept, "HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT), "XLA_FLAGS": fake_devices(1)}
    script = "set -e\n" + "\n".join(STEPS[1:])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mine.jsonl: instruction form") == 2  # said by build_data and by train
    asked = [json.loads(line)["output"] for line in (tmp_path / "mine.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["completion"] for line in answers] == asked[:3]
