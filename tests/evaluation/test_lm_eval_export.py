import json
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.evaluation.lm_eval_export import export_tasks
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts
from ecomgpt_jax.instruct.task_folder import TaskFolder, write_task


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, list[TaskPrompts]]:
    parts = [build_prompts(task) for task, _ in tiny_tasks.write_tiny_tasks(tmp_path / "tasks")]
    export_tasks(parts, tmp_path / 'it\'s "out"', [part.task.name for part in parts[:2]])
    return tmp_path / 'it\'s "out"', parts


def test_files_name_the_fields_of_rendered_rows(exported: tuple[Path, list[TaskPrompts]]) -> None:
    yaml = pytest.importorskip("yaml")
    directory, parts = exported
    for part in parts:
        task = yaml.safe_load((directory / f"{part.task.name}.yaml").read_text(encoding="utf-8"))
        rows = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text(encoding="utf-8").split("\n")
        rows = [json.loads(row) for row in rows if row]
        assert [row[task["doc_to_text"]] for row in rows] == list(part.prompts)
        assert [row[task["doc_to_target"]] for row in rows] == list(part.golds)
        assert task["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 164}
        wanted = "chrf" if part.task.family == "Generate" else "exact_match"
        assert [metric["metric"] for metric in task["metric_list"]] == [wanted]
    group = yaml.safe_load((directory / "ecomgpt.yaml").read_text(encoding="utf-8"))
    assert group["task"] == [f"ecomgpt_{part.task.name}" for part in parts[:2]]


def test_gold_answers_lose_the_leading_blank_that_the_filter_takes_from_answers(tmp_path: Path) -> None:
    task = TaskFolder("EN-Shop-CLS-a", "d", "{sentences}{label_set}" + tiny_tasks.TAIL, {"default": (" yes", "no ")})
    rows = (tiny_tasks.labelled("x", " yes"), tiny_tasks.labelled("y", "no "))
    export_tasks([build_prompts(write_task(tmp_path / "tasks", task, rows))], tmp_path / "out", [task.name])
    lines = (tmp_path / "out" / "data" / f"{task.name}.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["gold"] for line in lines if line] == ["yes", "no "]


def test_the_harness_loads_them_and_shows_the_same_prompts(exported: tuple[Path, list[TaskPrompts]]) -> None:
    tasks = pytest.importorskip("lm_eval.tasks")
    directory, parts = exported
    manager = tasks.TaskManager(include_path=str(directory), include_defaults=False)
    for part in parts:
        task = tasks.get_task_dict([f"ecomgpt_{part.task.name}"], manager)[f"ecomgpt_{part.task.name}"]
        docs = list(task.test_docs())
        assert [task.doc_to_text(doc) for doc in docs] == list(part.prompts)
        assert [task.doc_to_target(doc) for doc in docs] == list(part.golds)
        if part.task.family != "Generate":
            scores = [task.process_results(docs[0], [answer])["exact_match"] for answer in (part.golds[0], "?")]
            assert scores == [1, 0]
