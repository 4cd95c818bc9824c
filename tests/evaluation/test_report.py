from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.config import Config, to_dict
from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.evaluation.report import write_report, write_run_report
from ecomgpt_jax.evaluation.scores import score_task

from .test_page import EVIL, parse


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
    samples = [{"task": "EN-Shop-CLS-topic", "prompt": EVIL, "gold": "g", "prediction": EVIL}]
    write_report(tmp_path, scores, untrained, samples)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    for text in (markdown, page.text):
        for word in ("Untrained", "Majority", "Random", "Copy", "English", "Chinese", "NER", "Average", "0" * 64):
            assert word in text
        assert "beats every baseline on 6 of 6 tasks" in text
        assert "improved 6 of 6 tasks" in text
        for name in scores["tasks"]:
            assert name in text
    assert EVIL in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    widths = [line.count("|") for line in markdown.splitlines() if line.startswith("| EN-")]
    assert len(set(widths)) <= 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["report.html", "report.md"]


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
    assert [tag for tag, _ in page.tags].count("svg") == 1
    assert "Loss 4.0000 at step 1, 0.1379 at step 29." in page.text
    assert "optimizer.learning_rate" in page.text
    assert EVIL in parse((tmp_path / "b" / "index.html").read_text(encoding="utf-8")).text
