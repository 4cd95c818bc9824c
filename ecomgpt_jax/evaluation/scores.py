"""Prediction files and `scores.json`: official and corrected scores of every task, with baselines.

    {"tasks": {task: {"rows", "inputs", "language", "family", "official", "corrected", "intervals", "classes",
                      "baselines"}},
     "averages": {group: {"tasks", "official", "corrected"}}, "protocol": {"sha256", ...},
     "run": {"dtype"}}

"inputs" is the number of distinct inputs. "intervals" holds [low, high] of each corrected score, "classes" the F1 of
each class (CLS, NER), "baselines" the same two sets of scores for each of `baselines.BASELINES`. A task also has
"domain" if the training tasks are known, and "answer_loss" (nats per token of the right answers) if requested.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.evaluation.baselines import baseline_predictions
from ecomgpt_jax.evaluation.benchmark_scores import official
from ecomgpt_jax.evaluation.corrected_scores import (
    class_scores,
    corrected_scores,
    input_statistics,
    interval,
    summarise,
)
from ecomgpt_jax.evaluation.official_scores import official_scores
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.files import read_json, read_json_lines, write_json_lines
from ecomgpt_jax.instruct.task_folder import TaskFolder

# Scores that are averaged over tasks: (title, set of scores, name), the last two as in a task's entry.
MEASURES = (
    ("Corrected score", "corrected", "score"),
    ("Official micro-F1", "official", "micro-f1"),
    ("Official ROUGE-L", "official", "rouge-l-f1"),
)
# The same for tasks of a benchmark, whose published scorers compute other scores.
BENCHMARK_MEASURES = (MEASURES[0], ("Official score", "official", "score"))
DOMAINS = ("in-domain", "held-out task", "held-out dataset")
_LABELS = {"en": "English", "zh": "Chinese"}


def score_task(prompt_set: TaskPrompts, predictions: Sequence[str]) -> dict[str, Any]:
    """Returns a task's entry of `scores.json`.

    Raises:
      DataError: the number of predictions is not that of the rows.
    """
    if len(predictions) != len(prompt_set.rows):
        raise DataError(f"task {prompt_set.task.name}: {len(predictions)} predictions for {len(prompt_set.rows)} rows")

    task, rows, shown = prompt_set.task, prompt_set.rows, prompt_set.shown

    released = official if task.metric else official_scores

    def baseline(answers: Sequence[str]) -> dict[str, dict[str, float]]:
        return {
            "official": released(task, rows, answers),
            "corrected": corrected_scores(task, rows, answers, shown),
        }

    statistics = input_statistics(task, rows, predictions, shown)
    entry = {
        "rows": len(rows),
        "inputs": len(statistics["score"]),
        "language": task.language,
        "family": task.family,
        "official": released(task, rows, predictions),
        "corrected": summarise(statistics),
        "intervals": {name: list(interval(ratios)) for name, ratios in statistics.items()},
    }
    if "macro-f1" in statistics:
        entry["classes"] = class_scores(task, rows, predictions)
    answers = baseline_predictions(task, rows, shown)
    return {**entry, "baselines": {name: baseline(texts) for name, texts in answers.items()}}


def read_scores(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a `scores.json`.

    Raises:
      MissingInputError: the file does not exist.
      DataError: it has no tasks with their numbers of rows, or no protocol with its hash.
    """
    scores = read_json(path)
    tasks, protocol = (scores.get(key) if isinstance(scores, dict) else None for key in ("tasks", "protocol"))
    if not isinstance(tasks, dict) or not isinstance(protocol, dict) or not isinstance(protocol.get("sha256"), str):
        raise DataError(f'{path}: no "tasks" and "protocol" with its sha256; evaluate and score write them')
    for name, entry in tasks.items():
        if not isinstance(entry, dict) or type(entry.get("rows")) is not int or entry["rows"] < 1:
            raise DataError(f'{path}: task {name}: "rows" must be a whole number above 0')
    return scores


def domain(task: TaskFolder, trained_on: Iterable[str]) -> str:
    """Returns which of `DOMAINS` a task belongs to for a model trained on these tasks.

    in-domain: trained on this task; held-out task: on others of its dataset; held-out dataset: on none of them.
    """
    names = set(trained_on)
    if task.name in names:
        return DOMAINS[0]
    return DOMAINS[1 if any(name.split("-")[1:2] == [task.dataset] for name in names) else 2]


def groups(tasks: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns {group: names of its tasks}: all, each domain, each language, each family."""
    found = {"All tasks": list(tasks)}
    for field, values in (("domain", DOMAINS), ("language", ()), ("family", ())):
        kinds = {entry[field] for entry in tasks.values() if field in entry}
        for value in [value for value in values if value in kinds] or sorted(kinds):
            label = _LABELS.get(value, value[:1].upper() + value[1:])
            found[label] = [name for name, entry in tasks.items() if entry.get(field) == value]
    return found


def measures(tasks: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Returns the scores that are averaged over these tasks: the released ones, or those of a benchmark."""
    return MEASURES if all("micro-f1" in entry["official"] for entry in tasks.values()) else BENCHMARK_MEASURES


def averages(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the "averages" of `scores.json`: the mean of each main score over each group of tasks."""
    found: dict[str, Any] = {}
    for label, names in groups(tasks).items():
        entries, means = [tasks[name] for name in names], {"official": {}, "corrected": {}}
        for _, kind, name in measures(tasks):
            means[kind][name] = average(entries, kind, name)
        found[label] = {"tasks": len(names), **means}
    return found


def read_predictions(path: str | os.PathLike[str], rows: int, total: int = 0) -> list[str]:
    """Reads a prediction file: one {"index": i, "prediction": text} for each row, in any order; more keys may follow.

    Args:
      path: the file.
      rows: number of rows to read, from the first.
      total: number of rows of the task, for all of which the file may have predictions; 0: `rows`.

    Raises:
      MissingInputError: the file does not exist.
      DataError: an index is missing, repeated or out of range, or a prediction is not a string.
    """
    path = Path(path)
    found: dict[int, str] = {}
    for line, value in read_json_lines(path):
        index, text = value.get("index"), value.get("prediction")
        if type(index) is not int or not isinstance(text, str):
            raise DataError(f'{path}:{line}:1: needs "index", a whole number, and "prediction", a string')
        if index in found:
            raise DataError(f"{path}:{line}:1: index {index} occurs twice")
        if not 0 <= index < (total or rows):
            raise DataError(
                f"{path}:{line}:1: index {index} is out of range; the task has {total or rows} rows, from 0"
            )
        found[index] = text
    missing = [index for index in range(rows) if index not in found]
    if missing:
        said = rows - len(missing)
        raise DataError(f"{path}: {said} predictions for {rows} rows; the first missing index is {missing[0]}")
    return [found[index] for index in range(rows)]


def task_predictions(folder: Path, prompt_set: TaskPrompts, total: int = 0) -> list[str]:
    """Reads a task's file in a folder of predictions; see `read_predictions`."""
    return read_predictions(folder / f"{prompt_set.task.name}.jsonl", len(prompt_set.rows), total)


def write_predictions(
    path: str | os.PathLike[str],
    predictions: Sequence[str],
    answer_losses: Sequence[float] = (),
    said: Sequence[str] = (),
) -> None:
    """Writes a prediction file in order of rows.

    Each line has the loss of the row's right answer, and the model's answer in letters, if these are known.
    """
    lines = [{"index": index, "prediction": text} for index, text in enumerate(predictions)]
    for line, loss in zip(lines, answer_losses, strict=bool(answer_losses)):
        line["answer_loss"] = round(loss, 6)
    for line, text in zip(lines, said, strict=bool(said)):
        line["said"] = text
    write_json_lines(path, lines)


def read_answer_losses(path: str | os.PathLike[str]) -> list[float]:
    """Returns the losses that `write_predictions` wrote, per row.

    Raises:
      DataError: a row has none.
    """
    found = {}
    for line, value in read_json_lines(Path(path)):
        if not isinstance(value.get("answer_loss"), float):
            raise DataError(f'{path}:{line}:1: has no "answer_loss"; evaluate again with --answer_loss')
        found[value["index"]] = value["answer_loss"]
    return [found[index] for index in sorted(found)]


def average(entries: Sequence[Mapping[str, Any]], kind: str, name: str) -> float | None:
    """Returns the mean of one score over the tasks that have it, with equal weights; None if none has it."""
    values = [entry[kind][name] for entry in entries if entry[kind].get(name) is not None]
    return sum(values) / len(values) if values else None
