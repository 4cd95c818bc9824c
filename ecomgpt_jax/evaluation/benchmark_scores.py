"""Scores of the published benchmarks: their own scorers, quirks included, and statistics for the corrected scores.

Official:
  ecinstruct (eCeLLM `evaluate.py` at f364c18): invalid responses are dropped from the denominator
    together with their labels; yes/no are compared as a whole, letters by the first character, A to E for any options.
    The scorer raises on an empty letter answer, if only one class is left, and if no answer is valid.
  shopping_mmlu (`skill_wise_eval/metrics.py` at 7b118da): the first character; hit rate of the first three numbers;
    nDCG over the numbers as written, 0 and negative ones counting from the end; list F1 with repeated items as false;
    ROUGE-L with a stemmer; sentence BLEU. Cosine of sentence embeddings and Japanese BLEU are not computed.
  chinese_ecom_qa: no scorer is published.
If a scorer raises or is not published, the official score is None, with the reason.

Corrected scores come from `corrected_scores` on answers read by `benchmark_answers`; nDCG and hit rate over distinct
valid numbers, and lists compared without case, are computed here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ecomgpt_jax.evaluation.benchmark_answers import read_ranking
from ecomgpt_jax.instruct.benchmarks import TRUTH
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow

Scores = dict[str, Any]


class _ScorerError(Exception):
    """The published scorer raises on these answers."""


def official(task: TaskFolder, rows: Sequence[TaskRow], answers: Sequence[str]) -> Scores:
    """Returns the scores of the benchmark's published scorer for one answer per row.

    Returns:
      {"score": the main score, ...}; {"score": None, "reason": ...} if the scorer raises or there is none.
    """
    benchmark, _, kind = task.metric.partition(":")
    try:
        if benchmark == "ecinstruct":
            return _yes_no(rows, answers) if kind == "yes_no" else _letters(rows, answers)
        if benchmark == "shopping_mmlu":
            return _shopping(kind, task, rows, answers)
    except _ScorerError as error:
        return {"score": None, "reason": f"the published scorer raises: {error}"}
    return {"score": None, "reason": "no scorer is published"}


def _golds(rows: Sequence[TaskRow]) -> list[str]:
    return [row.labels["default"][0] for row in rows]


def _yes_no(rows: Sequence[TaskRow], answers: Sequence[str]) -> Scores:
    said = [answer.lower().strip() for answer in answers]
    pairs = [(gold, one) for gold, one in zip(_golds(rows), said, strict=True) if one in ("yes", "no")]
    if len({label for pair in pairs for label in pair}) < 2:
        raise _ScorerError("one class or none is left among the valid answers")
    right = sum(gold == one for gold, one in pairs)
    hits = pairs.count(("yes", "yes"))
    said_yes, gold_yes = sum(one == "yes" for _, one in pairs), sum(gold == "yes" for gold, _ in pairs)
    precision, recall = hits / said_yes if said_yes else 0.0, hits / gold_yes if gold_yes else 0.0
    f1 = 2 * hits / (said_yes + gold_yes) if said_yes + gold_yes else 0.0
    found = {"accuracy": right / len(pairs), "precision": precision, "recall": recall}
    return {"score": f1, **found, "invalid": len(answers) - len(pairs)}


def _letters(rows: Sequence[TaskRow], answers: Sequence[str]) -> Scores:
    pairs = []
    for gold, answer in zip(_golds(rows), answers, strict=True):
        if not (said := answer.strip()):
            raise _ScorerError("an answer is empty")
        if said[0] in "ABCDE":
            pairs.append((gold[0], said[0]))
    if not pairs:
        raise _ScorerError("no answer is valid")
    scores = []
    for label in sorted({label for pair in pairs for label in pair}):
        hits, size = pairs.count((label, label)), sum((gold == label) + (said == label) for gold, said in pairs)
        scores.append(2 * hits / size)
    accuracy = sum(gold == said for gold, said in pairs) / len(pairs)
    return {"score": sum(scores) / len(scores), "accuracy": accuracy, "invalid": len(answers) - len(pairs)}


def _shopping(kind: str, task: TaskFolder, rows: Sequence[TaskRow], answers: Sequence[str]) -> Scores:
    if kind == "micro f1":
        counts = [_list_counts(answer, row.labels[TRUTH]) for row, answer in zip(rows, answers, strict=True)]
        hits, false, missed = (sum(column) for column in zip(*counts, strict=True))
        if not hits + false or not hits + missed:
            raise _ScorerError("it divides by zero, as all answers are empty")
        precision, recall = hits / (hits + false), hits / (hits + missed)
        return {"score": 2 * precision * recall / (precision + recall) if precision + recall else 0.0}
    by_row: dict[str, Callable[[str, TaskRow], float]] = {
        "accuracy": lambda answer, row: float(answer.strip(" ")[:1] == row.labels[TRUTH][0]),
        "hit rate@3": lambda answer, row: _hit_rate(answer, row.labels[TRUTH]),
        "ndcg": lambda answer, row: _ndcg_as_written(answer, row.labels[TRUTH]),
        "rougel": lambda answer, row: _rouge_l(answer, row.spans[0].term),
        "bleu": lambda answer, row: _bleu(answer, row.spans[0].term),
    }
    if kind not in by_row:
        return {"score": None, "reason": f"{kind} needs models or tools that this project does not use"}
    try:
        values = [by_row[kind](answer, row) for row, answer in zip(rows, answers, strict=True)]
    except ImportError as error:
        return {"score": None, "reason": f"needs the package {error.name}; install ecomgpt_jax[benchmarks]"}
    mean = sum(values) / len(values)
    return {"score": mean} if not math.isnan(mean) else {"score": None, "reason": "the published scorer gives nan"}


def _list_counts(answer: str, truth: Sequence[str]) -> tuple[int, int, int]:
    """Returns hits, false and missed items; a blank item between commas and a repeated one are false."""
    items = [item for item in answer.lstrip("\n").split("\n")[0].strip(" ").split(",") if item != ""]
    said, wanted = [item.lower().strip(" ") for item in items], [item.lower() for item in truth]
    hits = len(set(said) & set(wanted))
    return hits, len(said) - hits, len(wanted) - hits


def _integers(items: Sequence[str]) -> list[int]:
    found = []
    for item in items:
        try:
            found.append(int(item))
        except ValueError:
            continue
    return found


def _hit_rate(answer: str, truth: Sequence[str]) -> float:
    """Returns the hit rate; the published function splits the whole answer and ignores its extracted first line."""
    wanted = {int(float(item)) for item in truth}
    return len(wanted & set(_integers(answer.strip().split(","))[:3])) / len(truth)


def _ndcg_as_written(answer: str, truth: Sequence[str]) -> float:
    weights = [float(item) for item in truth]
    if "\n" in answer:
        answer = answer.strip("\n").split("\n")[0]
    ranked = _integers(answer.strip().split(","))[: len(weights)]
    gain = 0.0
    for place, number in enumerate(ranked):
        if number - 1 < len(weights):
            if number - 1 < -len(weights):
                raise _ScorerError(f"the number {number} is out of range")
            gain += (2 ** weights[number - 1] - 1) / math.log2(place + 2)
    ideal = _gain(sorted(weights, reverse=True))
    return gain / ideal if ideal else math.nan


def _gain(weights: Sequence[float]) -> float:
    return sum((2**weight - 1) / math.log2(place + 2) for place, weight in enumerate(weights))


def _rouge_l(answer: str, gold: str) -> float:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True).score(answer, gold)["rougeL"].fmeasure


def _bleu(answer: str, gold: str) -> float:
    import sacrebleu

    return sacrebleu.corpus_bleu([answer.strip("\n").split("\n")[0]], [[gold]], lowercase=True).score / 100


def is_ranking(task: TaskFolder) -> bool:
    """Returns whether answers of a task are rankings, which have a score per row and no classes."""
    return task.metric.partition(":")[2] in ("ndcg", "hit rate@3")


def ranking_scores(task: TaskFolder, rows: Sequence[TaskRow], answers: Sequence[str]) -> list[float] | None:
    """Returns nDCG or hit rate per row over distinct valid numbers; None for tasks other than rankings.

    nDCG is 1 if all weights are zero; the hit rate is out of three if more items are right.
    """
    if not is_ranking(task):
        return None
    kind, found = task.metric.partition(":")[2], []
    for row, answer in zip(rows, answers, strict=True):
        if kind == "ndcg":
            weights = [float(item) for item in row.labels[TRUTH]]
            ideal = _gain(sorted(weights, reverse=True))
            said = [weights[number - 1] for number in read_ranking(answer, len(weights))]
            found.append(_gain(said) / ideal if ideal else 1.0)
        else:
            wanted = {int(float(item)) for item in row.labels[TRUTH]}
            said = read_ranking(answer, 10**9)[:3]
            found.append(len(wanted.intersection(said)) / min(3, len(wanted)))
    return found


def as_ratios(values: Sequence[float]) -> np.ndarray:
    """Returns values as numerators over ones, [rows, 2] float64."""
    return np.stack([np.asarray(values, float), np.ones(len(values))], axis=-1)
