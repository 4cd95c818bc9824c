"""Scores as an aligned table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from ecomgpt_jax.evaluation.scores import average

_DIGITS = 3


def score_table(scores: Mapping[str, Any], untrained: Mapping[str, Any] | None = None) -> str:
    """Returns the corrected score of every task next to the untrained model's and the best baseline's.

    Args:
      scores: content of `scores.json`.
      untrained: that of the model before training, over the same tasks; None leaves its column out.

    Returns:
      Lines without a line break at the end: a header, one line per task, the average, and how often training helped.
    """
    tasks: Mapping[str, Any] = scores["tasks"]
    before: Mapping[str, Any] = untrained["tasks"] if untrained else {}
    head = ["task", *(["before"] if before else []), "after" if before else "score", "best baseline"]
    rows = [head]
    for name, entry in tasks.items():
        values = {key: value["corrected"]["score"] for key, value in entry["baselines"].items()}
        best = max(values, key=lambda key: values[key])
        own = [part[name]["corrected"]["score"] for part in (before, tasks) if part]
        rows.append([name, *(f"{value:.{_DIGITS}f}" for value in own), f"{values[best]:.{_DIGITS}f} {best}"])
    means = [average(list(part.values()), "corrected", "score") for part in (before, tasks) if part]
    rows.append([f"average of {len(tasks)}", *(f"{value:.{_DIGITS}f}" for value in means), ""])
    lines = _aligned(rows)
    if before:
        better = sum(tasks[name]["corrected"]["score"] > before[name]["corrected"]["score"] for name in tasks)
        lines.append(f"better than before training on {better} of {len(tasks)} tasks (corrected scores)")
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip() for row in rows
    ]
