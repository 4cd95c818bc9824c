"""Scores prediction files of any origin: `python -m ecomgpt_jax.score --tasks DIR --predictions DIR --out scores.json`.

A task's predictions are `<task>.jsonl` in the folder of predictions, {"index": i, "prediction": "..."} for each row of
its `test.json`; rows beyond `--limit` are not scored. Tasks without a file and files without a task are listed and left
out.
"""

from collections.abc import Iterable
from pathlib import Path

from absl import flags

from ecomgpt_jax import cli
from ecomgpt_jax.config import EvalConfig, nearest
from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.evaluation.protocol import build_prompts, describe_predictions, find_tasks_dir
from ecomgpt_jax.evaluation.scores import average, averages, measures, score_task, task_predictions
from ecomgpt_jax.files import check_output, write_json
from ecomgpt_jax.instruct.task_folder import load_tested, scan_rows

_TASKS = flags.DEFINE_string("tasks", "", "folder of tasks; default $ECOMGPT_EVAL")
_PREDICTIONS = flags.DEFINE_string("predictions", "", "folder of <task>.jsonl files")
_OUT = flags.DEFINE_string("out", "", "file to write, scores.json")
_LIMIT = flags.DEFINE_integer("limit", 0, "only the first rows of each task; 0 = all", lower_bound=0)


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    cli.check_usage("score --tasks DIR --predictions DIR --out scores.json", arguments, _PREDICTIONS, _OUT)
    check_output(_OUT.value)
    tasks_dir = find_tasks_dir(EvalConfig(tasks_dir=_TASKS.value))
    folder = Path(_PREDICTIONS.value)
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder of predictions")
    tasks = load_tested(tasks_dir)
    found = [task for task in tasks if (folder / f"{task.name}.jsonl").is_file()]
    if not found:
        raise MissingInputError(f"{folder}: no <task>.jsonl for any task of {tasks_dir}, such as {tasks[0].name}.jsonl")
    prompt_sets = [build_prompts(task, _LIMIT.value) for task in found]
    entries = {}
    for prompt_set in prompt_sets:
        name = prompt_set.task.name
        total = sum(1 for _ in scan_rows(prompt_set.task, "test")) if _LIMIT.value else 0
        entries[name] = score_task(prompt_set, task_predictions(folder, prompt_set, total))
        print(f"{name:56} {_line(entries[name])}", flush=True)
    means = (average(list(entries.values()), kind, name) for _, kind, name in measures(entries))
    print(f"{'average':56} {_numbers(means)}")
    for task in tasks:
        if task not in found:
            print(f"not scored: {task.name} (no {task.name}.jsonl)")
    names = {task.name for task in tasks}
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem not in names:
            print(f"not scored: {path.name} (no task of this name{nearest(path.stem, names)})")
    write_json(
        _OUT.value, {"tasks": entries, "averages": averages(entries), "protocol": describe_predictions(prompt_sets)}
    )


def _line(entry: dict) -> str:
    return _numbers(entry[kind][name] for _, kind, name in measures({"": entry}))


def _numbers(values: Iterable[float | None]) -> str:
    return "  ".join("-" if value is None else f"{value:.4f}" for value in values)


if __name__ == "__main__":
    cli.run(main)
