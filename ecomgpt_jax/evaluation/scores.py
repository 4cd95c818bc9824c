"""Prediction files and `scores.json`: official and corrected scores of every task, baselines beside them.

    {"tasks": {task: {"rows", "language", "family", "official", "corrected", "baselines"}}, "protocol": {"sha256", ...}}

"baselines" holds the same two sets of scores for each of `baselines.BASELINES`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.evaluation.baselines import baseline_predictions
from ecomgpt_jax.evaluation.corrected_scores import corrected_scores
from ecomgpt_jax.evaluation.official_scores import official_scores
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.files import read_json_lines, write_json_lines

# What is averaged over tasks: (set of scores, name), as in a task's entry.
MAIN_SCORES = (("official", "micro-f1"), ("official", "rouge-l-f1"), ("corrected", "score"))


def score_task(part: TaskPrompts, predictions: Sequence[str]) -> dict[str, Any]:
    """Returns a task's entry of `scores.json`.

    Raises:
      DataError: there is not one prediction a row.
    """
    if len(predictions) != len(part.rows):
        raise DataError(f"task {part.task.name}: {len(predictions)} predictions for {len(part.rows)} rows")

    def both(answers: Sequence[str]) -> dict[str, dict[str, float]]:
        return {
            "official": official_scores(part.task, part.rows, answers),
            "corrected": corrected_scores(part.task, part.rows, answers),
        }

    baselines = baseline_predictions(part.task, part.rows)
    return {
        "rows": len(part.rows),
        "language": part.task.language,
        "family": part.task.family,
        **both(predictions),
        "baselines": {name: both(answers) for name, answers in baselines.items()},
    }


def read_predictions(path: str | os.PathLike[str], rows: int) -> list[str]:
    """Reads a prediction file: one {"index": i, "prediction": text} for each row, in any order; more keys may follow.

    Raises:
      MissingInputError: the file is not there.
      DataError: an index is missing, there twice or out of range, or a prediction is no string.
    """
    path = Path(path)
    found: dict[int, str] = {}
    for line, value in read_json_lines(path):
        index, text = value.get("index"), value.get("prediction")
        if type(index) is not int or not isinstance(text, str):
            raise DataError(f'{path}:{line}:1: needs "index", a whole number, and "prediction", a string')
        if index in found:
            raise DataError(f"{path}:{line}:1: index {index} is there twice")
        if not 0 <= index < rows:
            raise DataError(f"{path}:{line}:1: index {index} is out of range; the task has {rows} rows, from 0")
        found[index] = text
    missing = [index for index in range(rows) if index not in found]
    if missing:
        raise DataError(f"{path}: {len(found)} predictions for {rows} rows; the first missing index is {missing[0]}")
    return [found[index] for index in range(rows)]


def write_predictions(path: str | os.PathLike[str], predictions: Sequence[str]) -> None:
    """Writes a prediction file in order of rows."""
    write_json_lines(path, ({"index": index, "prediction": text} for index, text in enumerate(predictions)))


def average(entries: Sequence[Mapping[str, Any]], kind: str, name: str) -> float | None:
    """Returns the mean of one score over tasks, each task counting once; None without tasks."""
    return sum(entry[kind][name] for entry in entries) / len(entries) if entries else None
