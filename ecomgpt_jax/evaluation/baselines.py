"""Baselines that ignore or copy the input; every report shows their scores next to a model's."""

import random
import re
from collections import Counter
from collections.abc import Sequence

from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, candidates, format_entities, gold_answer

BASELINES = ("majority", "random", "copy")
COPIED = 60
_PIECES = re.compile(r"\n|, |#;#|[.?!;] |[。！？；，]")


def baseline_predictions(
    task: TaskFolder, rows: Sequence[TaskRow], shown: Sequence[Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Returns each baseline's predictions, one per row; `shown` are the candidates of each row; None: the fixed ones.

    Returns:
      majority: the most frequent gold answer of the evaluated rows (of equally frequent ones the first);
        no constant answer has more exact matches.
      random: drawn with seed 0, row by row. CLS: one of the candidates; NER: a piece of the input under one type;
        elsewhere a piece of the input. Pieces are separated by punctuation.
      copy: the first 60 characters of the input.
    """
    (majority, _), *_ = Counter(gold_answer(task, row) for row in rows).most_common(1)
    rng = random.Random(0)
    if shown is None:
        shown = [candidates(task, index, row) for index, row in enumerate(rows)]
    return {
        "majority": [majority] * len(rows),
        "random": [_random_answer(task, labels, row, rng) for labels, row in zip(shown, rows, strict=True)],
        "copy": [row.sentences[:COPIED] for row in rows],
    }


def _random_answer(task: TaskFolder, labels: Sequence[str], row: TaskRow, rng: random.Random) -> str:
    if task.family == "CLS" and labels:
        return rng.choice(labels)
    pieces = [piece.strip() for piece in _PIECES.split(row.sentences) if piece.strip()] or [row.sentences]
    if task.family == "NER":
        return format_entities(task, [(rng.choice(task.labels), rng.choice(pieces))])
    return rng.choice(pieces)
