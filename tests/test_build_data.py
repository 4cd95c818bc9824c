"""The command, run as a user does."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax import build_data
from ecomgpt_jax.instruct.ecom_instruct import Built
from ecomgpt_jax.instruct.task_folder import write_task

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    cache = tmp_path_factory.mktemp("cache")

    def run(*arguments: object, rc: int = 0, small: bool = True, one_line: bool = True, **environment: str) -> str:
        fields = {"cache_dir": cache, "tasks": "()", "synthetic_records": 30, "num_tasks": 9, "instances_per_task": 5}
        overrides = [f"--config.data.{name}={value}" for name, value in fields.items()] if small else []
        line = [sys.executable, "-m", "ecomgpt_jax.build_data", *map(str, [*arguments[:2], *overrides, *arguments[2:]])]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ECOMGPT_")}
        env = {**kept, "PYTHONPATH": str(ROOT), **environment}
        output = subprocess.run(line, env=env, cwd=cache, capture_output=True, text=True)
        assert output.returncode == rc, output.stderr
        assert "Traceback" not in output.stderr
        if rc and one_line:
            lines = [line for line in output.stderr.splitlines() if "] config: " not in line]  # of idle settings
            assert len(lines) == 1, output.stderr
        return output.stdout + output.stderr

    return run


DEMO = ("--config", ROOT / "configs" / "demo.py")


@pytest.fixture(scope="module")
def shown(command: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("stats") / "stats.json"
    return out, command(*DEMO, "--list", "--audit", "--stats", out)


def test_list_stats_and_audit(shown: tuple[Path, str]) -> None:
    out, output = shown
    stats = json.loads(out.read_text())
    assert stats["totals"]["tasks"] == len(stats["tasks"]) == 21
    for name in stats["tasks"]:
        assert name in output
    assert "held out" in output
    assert "audit: no findings" in output
    assert "| find spans |" in output
    assert "<svg" in out.with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "page"), [("v1.2", "v1.2.html"), ("x.html", "x.html.html"), ("s.json", "s.html")])
def test_the_page_of_counts_stands_beside_them_under_the_whole_name(
    name: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_data, "data_sections", lambda stats: [])
    build_data.write_stats(Built(tmp_path, "f", {"a": 1}, None), str(tmp_path / name))
    assert json.loads((tmp_path / name).read_text()) == {"a": 1, "fingerprint": "f"}
    assert "<html" in (tmp_path / page).read_text()


def test_tasks_are_listed_before_the_sources_are_there(command: Callable[..., str]) -> None:
    real = ("--config", ROOT / "configs" / "ecominstruct.py", "--config.data.mixture=real")
    output = command(*real, "--list", HOME="/nonexistent")
    assert "9 tasks (9 to train on)" in output
    assert "numbers of rows are not known: data.mixture=real needs the sources" in output
    rows = [line.split() for line in output.splitlines() if line.startswith(("EN-", "ZH-"))]
    assert len(rows) == 9
    assert {tuple(row[-2:]) for row in rows} == {("?", "?")}
    for more in (("--audit",), ("--stats", "s.json"), ("--preview", rows[0][0]), ("--unseen", "u")):
        assert "needs the sources" in command(*real, "--list", *more, rc=66, HOME="/nonexistent")


def test_preview(command: Callable[..., str], shown: tuple[Path, str]) -> None:
    tasks = json.loads(shown[0].read_text())["tasks"]
    for held_out in (True, False):
        name = next(name for name, entry in tasks.items() if entry["held_out"] is held_out)
        output = command(*DEMO, "--preview", name)
        assert output.count("\n### Response:") == 3
        assert output.count("[</s>]\n") == 3
        assert "\x1b" not in output
    assert "no task 'EN-Nothing'" in command(*DEMO, "--preview", "EN-Nothing", rc=2)


def test_errors_are_one_line(command: Callable[..., str], tmp_path: Path) -> None:
    assert "--config is missing" in command(rc=2, small=False)
    assert "did you mean" in command(*DEMO, "--config.data.mixtur=real", rc=2)
    assert "num_tasks=999" in command(*DEMO, "--config.data.num_tasks=999", rc=2)
    assert "ECOMGPT_SOURCES" in command(*DEMO, "--config.data.mixture=real", rc=66)
    missing = command(*DEMO, "--config.data.mixture=real", rc=66, ECOMGPT_SOURCES=str(tmp_path / "no"))
    assert "no such folder" in missing
    assert "tasks_dir" in command(*DEMO, "--config.data.mixture=folder", rc=2)
    assert "--list has no effect with --overlap" in command(*DEMO, "--overlap", "o.json", "--list", rc=2)


OWN = ("--config", ROOT / "configs" / "own_data.py")


def test_own_files_are_described_and_audited(command: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps({"prompt": f"question {i}", "completion": f"answer {i} " * 40}) for i in range(20)]
    path.write_text("\n".join(lines))
    config = (*OWN, f"--config.data.files={path}", "--config.data.num_tasks=0", "--config.data.instances_per_task=0")
    output = command(*config, "--audit", "--list")
    assert f"{path}: completion form (prompt, completion), 20 records, 0 bad, 20 instances" in output
    assert "no findings in 20 rows of the files" in output
    assert "no findings in 20 built rows" in output
    assert "EN-mine-Generate-completion" in output
    cut = command(*config, "--audit", "--config.data.length=30", rc=65)
    assert "and a row of 30 cuts off its end" in cut
    path.write_text("\n".join([*lines, '{"prompt": "x"}']))
    output = command(*config, "--audit", rc=65, one_line=False)
    assert f"{path}:21:1: no field 'completion'" in output
    assert "audit: 1 finding, 20 rows can be read; nothing was built" in output


def test_what_becomes_of_own_records_is_said(command: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "mine, 1.jsonl"
    chats = [[("Hi", 0), ("Say it", 1)], [("Hi", 0)], [("Hi", 1)]]
    lines = [
        json.dumps(
            {
                "id": number,
                "messages": [
                    {"role": role, "content": text, "weight": weight}
                    for text, weight in chat
                    for role in ("user", "assistant")
                ],
            }
        )
        for number, chat in enumerate(chats)
    ]
    path.write_text("\n".join([*lines, lines[2]]))
    config = (*OWN, f"--config.data.files={path}", "--config.data.num_tasks=0")
    output = command(*config, HOME=str(tmp_path))
    assert "no official evaluation tasks are installed, so no row was compared with them; `python" in output
    said = (
        "4 records, 0 bad, 3 instances; ignores id (4 records), messages.weight (3 messages); 2 answers have weight 0"
    )
    assert said in output
    assert "2 trained on, 0 tested, 0 refused, 2 left out (duplicate: 1, weight 0: 1)" in output
    assert f"note: {path}: ignores id (4 records)" in command(*config, "--audit", rc=65, one_line=False)
    sampled = command(*config, "--config.data.total_instances=1")
    assert "; data.total_instances takes 1 instances to train on" in sampled
    path.write_text(lines[1])
    assert "no training row was made; mine_1: 0 trained on, 0 tested, 0 refused, 1 left out (weight 0: 1)" in command(
        *config, rc=65
    )
    path.write_text(lines[0])
    message = "1 left out (language en is not in data.languages: 1)"
    assert message in command(*config, "--config.data.languages=zh", rc=65)


def test_a_folder_of_evaluation_tasks_is_audited_and_not_built(command: Callable[..., str], tmp_path: Path) -> None:
    tiny_tasks.write_tiny_tasks(tmp_path)
    config = (*DEMO, "--config.data.mixture=folder", f"--config.data.tasks_dir={tmp_path}", "--audit")
    assert "audit: no findings in 22 rows of the files\n" in command(*config)
    assert "--list has no effect on evaluation files alone" in command(*config, "--list", rc=2)
    (tmp_path / "Shop/tasks/EN-Shop-CLS-topic/test.json").write_text("{")
    assert "test.json:1:2: " in command(*config, rc=65, one_line=False)


def test_built_rows_of_a_folder_are_audited_with_its_separators(command: Callable[..., str], tmp_path: Path) -> None:
    for (task, rows), separator in ((tiny_tasks.TOPICS, "、"), (tiny_tasks.PARTS, "; ")):
        task = dataclasses.replace(task, separator=separator)
        train = [dataclasses.replace(row, sentences=f"{row.sentences} {i}") for i in range(5) for row in rows]
        write_task(tmp_path, task, (), train)
    fields = ("num_tasks=0", "instances_per_task=0", f"tasks_dir={tmp_path}", "workers=1")
    config = (OWN[0], f"{OWN[1]}:folder", *(f"--config.data.{field}" for field in fields))
    assert "audit: no findings in 35 built rows" in command(*config, "--audit")
