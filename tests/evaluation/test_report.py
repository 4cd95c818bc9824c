import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks

from ecomgpt_jax.config import Config, to_dict
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts
from ecomgpt_jax.evaluation.report import write_report, write_run_report
from ecomgpt_jax.evaluation.scores import score_task
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import to_instruction

from .test_page import EVIL, parse

ATTACK = "</pre></mark><script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\">"


@pytest.fixture
def scores(tmp_path: Path) -> dict:
    parts = [build_prompts(task) for task, _ in tiny_tasks.write_tiny_tasks(tmp_path)]
    tasks = {part.task.name: score_task(part, part.golds) for part in parts}
    return {"tasks": tasks, "protocol": {"name": "greedy", "sha256": "0" * 64}}


@pytest.fixture
def untrained(tmp_path: Path) -> dict:
    parts = [build_prompts(task) for task, _ in tiny_tasks.write_tiny_tasks(tmp_path)]
    tasks = {part.task.name: score_task(part, ["?"] * len(part.rows)) for part in parts}
    return {"tasks": tasks, "protocol": {"name": "greedy", "sha256": "0" * 64}}


def test_a_report_shows_all_that_stands_beside_a_model(tmp_path: Path, scores: dict, untrained: dict) -> None:
    parts = [build_prompts(task) for task, _ in tiny_tasks.write_tiny_tasks(tmp_path)]
    write_report(tmp_path, scores, untrained, [(part, [EVIL] * len(part.rows)) for part in parts])
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    for text in (markdown, page.text):
        for word in ("Untrained", "Majority", "Random", "Copy", "English", "Chinese", "NER", "Average", "0" * 64):
            assert word in text
        assert "beats every baseline on 6 of 6 tasks" in text
        assert "improved 6 of 6 tasks" in text
        for name in scores["tasks"]:
            assert name in text
    assert page.text.count(EVIL) > 10
    for word in ("confusions", "(no label)", "Row 0: wrong"):
        assert word in page.text
    assert "confusions" in markdown
    assert "Row 0" not in markdown
    assert not [tag for tag, _ in page.tags if tag == "script"]
    widths = [line.count("|") for line in markdown.splitlines() if line.startswith("| EN-")]
    assert len(set(widths)) <= 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["report.html", "report.md"]


def test_a_full_report_opens_in_a_browser_and_runs_nothing(tmp_path: Path, scores: dict, browser: Any) -> None:
    """12 tasks of 500 rows, long Chinese inputs, hostile answers."""
    tasks, answers = {}, []
    for number in range(12):
        task, rows = tiny_tasks.ALL[number % 6]
        task = dataclasses.replace(task, name=f"{task.name}{number}")
        long = [
            dataclasses.replace(row, sentences=row.sentences + "红色纯棉上衣" * 60)
            for row in (rows * 250)[:500]
        ]  # fmt: skip
        rendered = [render(to_instruction(task, index, row)) for index, row in enumerate(long)]
        part = TaskPrompts(task, tuple(long), *zip(*rendered, strict=True))
        answers.append((part, [ATTACK if i % 3 else gold for i, gold in enumerate(part.golds)]))
        tasks[task.name] = scores["tasks"][tiny_tasks.ALL[number % 6][0].name]
    scores = {"tasks": tasks, "protocol": {"name": "greedy", "sha256": "0" * 64}}
    write_report(tmp_path, scores, answers=answers)
    path = tmp_path / "report.html"
    assert path.stat().st_size <= 5_000_000
    browser.get(path.as_uri())
    assert browser.title == "Evaluation"
    assert len(browser.find_elements("css selector", "details")) == 12 * 20
    assert browser.find_elements("css selector", "script, img, iframe") == []
    first = browser.find_element("css selector", "details")
    first.click()
    assert first.find_element("css selector", "mark").is_displayed()
    assert browser.get_log("browser") == []
    # The policy stops a script that got in all the same, and the browser says so: this test can fail.
    path.write_text(path.read_text(encoding="utf-8").replace("</main>", ATTACK + "</main>"), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.title == "Evaluation"
    assert browser.get_log("browser") != []


def test_figures_in_the_table_are_those_of_the_scores(tmp_path: Path, scores: dict, untrained: dict) -> None:
    write_report(tmp_path, scores, untrained)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    entry = untrained["tasks"]["EN-Shop-CLS-topic"]
    majority = entry["baselines"]["majority"]["corrected"]["score"]
    section = markdown.split("## Corrected score")[1].split("##")[0]
    (line,) = [line for line in section.splitlines() if "EN-Shop-CLS-topic" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:5] == ["EN-Shop-CLS-topic", "4", "**1.000**", f"{entry['corrected']['score']:.3f}", f"{majority:.3f}"]


def test_without_untrained_scores_there_is_no_such_column(tmp_path: Path, scores: dict) -> None:
    write_report(tmp_path, scores)
    assert "ntrained" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_released_tasks_show_the_papers_chart(tmp_path: Path, scores: dict) -> None:
    write_report(tmp_path, scores)
    assert "EcomGPT-7.1B |" not in (tmp_path / "report.md").read_text(encoding="utf-8").split("Official ROUGE-L")[0]
    scores["tasks"]["EN-Lenovo-NER-NER"] = scores["tasks"].pop("EN-Shop-NER-parts")
    write_report(tmp_path, scores)
    assert "0.675" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_run_report_with_and_without_scores(tmp_path: Path, scores: dict) -> None:
    metrics = [{"step": step, "train/loss": 4 / step, "perf/tokens_per_second": 10.0 * step} for step in range(1, 30)]
    config = to_dict(Config(name=EVIL))
    write_run_report(tmp_path / "a", config=config, metrics=metrics, scores=scores)
    write_run_report(tmp_path / "b", config=config, metrics=[], scores=None)
    page = parse((tmp_path / "a" / "index.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("svg") == 3
    assert "Loss 4.0000 at step 1, 0.1379 at step 29." in page.text
    assert "optimizer.learning_rate" in page.text
    assert EVIL in parse((tmp_path / "b" / "index.html").read_text(encoding="utf-8")).text


def test_the_run_report_says_where_the_validation_loss_was_lowest(tmp_path: Path) -> None:
    metrics: list[dict] = [{"step": step, "train/loss": 4 / step} for step in range(1, 10)]
    for step, loss in ((2, 3.0), (4, 1.25), (8, 2.0)):
        metrics[step - 1] |= {"val/loss": loss, "val/loss/zh": 2 * loss}
    write_run_report(tmp_path, config=to_dict(Config()), metrics=metrics, scores=None)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "lowest at step 4: 1.2500" in text
    assert text.count("<polyline") == 2
    page = parse(text)
    for cell in ("val/loss/zh", "6.000", "2.500", "4.000"):
        assert cell in page.text
