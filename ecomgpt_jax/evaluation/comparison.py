"""Paired tests of two models over the same rows, corrected for the number of tasks.

The measure is the corrected `score`, a ratio of two sums over rows (see `corrected_scores`). The unit of resampling is
the distinct input: a resample takes all rows of an input with both models' answers, for the average also those of other
tasks. Exchanging A and B only changes the sign of every difference.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecomgpt_jax.evaluation.corrected_scores import exact_matches, score_rows
from ecomgpt_jax.evaluation.distinct_inputs import number_inputs, sum_by_input, tasks_sharing_inputs
from ecomgpt_jax.evaluation.page import Section, Table, cell
from ecomgpt_jax.evaluation.protocol import TaskPrompts

RESAMPLES = 10_000
ALPHA = 0.05
SHOWN_ROWS = 10
SHOWN_CHARACTERS = 300
_BLOCK = 2**22  # weights in memory at a time
_METHOD = (
    "The difference is A minus B in points of the corrected score, so a win is A's. The interval comes from "
    f"{RESAMPLES:,} paired resamples of the distinct inputs, p from as many exchanges of the two models input by "
    "input. McNemar's exact test counts the inputs that only one of them answers without any error. Both p-values are "
    f"corrected over tasks after Holm, the intervals are not. Win and loss: p (Holm) below {ALPHA}. The average counts "
    "each task once."
)


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, seed: Sequence[int] = (0,), resamples: int = RESAMPLES
) -> tuple[float, np.ndarray]:
    """Returns the difference of two ratios, and its resampled values.

    Inputs with equal values in both models are drawn as one, weighted by their number: the same distribution, faster.

    Args:
      a: numerator and denominator of A's score by input, [inputs, 2]; [inputs, tasks, 2] of tasks that share inputs,
        NaN where a task does not have the input.
      b: the same for B, the same inputs.
      seed: of the resampling.
      resamples: number of resamples.

    Returns:
      The difference of the scores, A - B, a float or [tasks]; and resampled differences, [2, resamples] or
      [2, resamples, tasks] float64. The first are from inputs drawn with replacement, both answers together (paired
      bootstrap, Efron and Tibshirani 1993); a task without a drawn input keeps the observed difference. The second are
      from the given inputs with the two models exchanged with probability 1/2 for each input: the distribution of
      differences between equal models (approximate randomisation, Noreen 1989).
    """
    inputs, has = len(a), ~np.isnan(a[..., 0])
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    difference = _ratios(a.sum(0)) - _ratios(b.sum(0))
    flat = np.hstack([values.reshape(inputs, -1) for values in (a, b, has)])
    _, first, counts = np.unique(flat, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)  # in the order of inputs, so that exchanging A and B draws the same inputs
    kinds_a, kinds_b, has, counts = (*(values[first[order]] for values in (a, b, has)), counts[order])
    rng, blocks = np.random.default_rng(list(seed)), []
    step = max(1, _BLOCK // len(counts))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        weights = rng.multinomial(inputs, counts / inputs, size=size)
        moved = rng.binomial(counts, 0.5, size=(size, len(counts)))
        kept = counts - moved
        drawn = _ratios(_total(weights, kinds_a)) - _ratios(_total(weights, kinds_b))
        drawn = np.where(_total(weights, has) > 0, drawn, difference)
        mixed = [_total(kept, one) + _total(moved, other) for one, other in ((kinds_a, kinds_b), (kinds_b, kinds_a))]
        blocks.append(np.stack([drawn, _ratios(mixed[0]) - _ratios(mixed[1])]))
    return difference if difference.ndim else float(difference), np.concatenate(blocks, axis=1)


def _total(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums [inputs, ...] values with [resamples, inputs] weights; [resamples, ...]."""
    return np.tensordot(weights, values, axes=1)


def interval_and_p(difference: float, draws: np.ndarray) -> tuple[float, float, float]:
    """Returns (low, high, p) from the result of `paired_bootstrap`: 95 % percentile interval and two-sided p-value.

    p = (1 + #{|d*| >= |d|}) / (1 + resamples) over the differences d* between equal models. Percentiles of the
    bootstrap would give too small p-values if few rows differ (4 rows to 0: 0.04; this and the exact test: 0.125); see
    Riezler and Maxwell 2005.
    """
    drawn, mixed = draws
    ordered = np.sort(drawn)
    tail = math.floor(len(ordered) * 0.025)
    beyond = np.count_nonzero(np.abs(mixed) >= abs(difference) - 1e-12)
    return float(ordered[tail]), float(ordered[-1 - tail]), float((1 + beyond) / (1 + len(mixed)))


def sign_test(wins: int, losses: int) -> float:
    """Returns the exact two-sided p-value of `wins` against `losses` under equal odds; 1 where there are none.

    p = min(1, 2 * sum_{i <= min(wins, losses)} C(n, i) / 2^n) with n = wins + losses, in whole numbers.
    """
    trials, term, tail = wins + losses, 1, 1
    for i in range(1, min(wins, losses) + 1):
        term = term * (trials - i + 1) // i
        tail += term
    return min(1.0, 2 * tail / 2**trials)


def mcnemar(a_right: Sequence[bool], b_right: Sequence[bool]) -> tuple[int, int, float]:
    """McNemar's exact test (McNemar 1947): the sign test over rows that only one of two models answers right.

    Returns:
      Rows that only A has right, rows that only B has right, and the two-sided p-value.
    """
    only_a, only_b = (
        sum(1 for own, other in zip(*pair, strict=True) if own and not other)
        for pair in ((a_right, b_right), (b_right, a_right))
    )
    return only_a, only_b, sign_test(only_a, only_b)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for their number (Holm 1979), in the order given.

    The i-th smallest of m becomes max_{j <= i} min(1, (m - j + 1) * p_j): the probability of any false
    finding stays below the level of significance.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def compare_predictions(
    prompt_sets: Sequence[TaskPrompts], a: Mapping[str, Sequence[str]], b: Mapping[str, Sequence[str]], seed: int = 0
) -> dict[str, Any]:
    """Compares two sets of predictions, by task and on average.

    Args:
      prompt_sets: the tasks with their rows.
      a: A's predictions by task's name, one per row.
      b: B's.
      seed: of the resampling; the resamples of a task depend only on it and on the task's name.

    Returns:
      "tasks": {name: {"rows", "inputs", "a", "b", "difference", "low", "high", "p", "p_holm", "verdict", "mcnemar":
      {"only_a", "only_b", "p", "p_holm"}, "most_different"}}, "average": {"tasks", "inputs", "a", "b", "difference",
      "low", "high", "p"} and "verdicts": {"win", "tie", "loss"}. Scores are in [0, 1]; a win is A's.
    """
    ratios = {
        prompt_set.task.name: [
            score_rows(prompt_set.task, prompt_set.rows, list(texts[prompt_set.task.name])) for texts in (a, b)
        ]
        for prompt_set in prompt_sets
    }
    result = _compare_ratios(prompt_sets, ratios, seed)
    for prompt_set in prompt_sets:
        name = prompt_set.task.name
        answers, entry = [list(a[name]), list(b[name])], result["tasks"][name]
        wrong = (np.logical_not(exact_matches(prompt_set.task, prompt_set.rows, texts)) for texts in answers)
        inputs = [row.sentences for row in prompt_set.rows]
        only_a, only_b, p = mcnemar(*(sum_by_input(values, inputs) == 0 for values in wrong))
        entry["mcnemar"] = {"only_a": only_a, "only_b": only_b, "p": p}
        entry["most_different"] = most_different(prompt_set.golds, *answers, *ratios[name])
    entries = list(result["tasks"].values())
    for entry, p in zip(entries, holm([entry["mcnemar"]["p"] for entry in entries]), strict=True):
        entry["mcnemar"]["p_holm"] = p
        entry["verdict"] = "tie" if entry["p_holm"] >= ALPHA else "win" if entry["difference"] > 0 else "loss"
    verdicts = {name: sum(entry["verdict"] == name for entry in entries) for name in ("win", "tie", "loss")}
    return {**result, "verdicts": verdicts}


def compare_losses(
    prompt_sets: Sequence[TaskPrompts], a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]],
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Compares the losses of the right answers as `compare_predictions` compares scores.

    Args:
      prompt_sets: the tasks with their rows.
      a: A's losses by task's name, nats per token of the right answer, one per row.
      b: B's.
      seed: of the resampling.

    Returns:
      "tasks" and "average" of `compare_predictions`, without the fields of answers; lower is better.
    """
    names = [prompt_set.task.name for prompt_set in prompt_sets]
    ratios = {name: [np.stack([each[name], np.ones(len(each[name]))], 1) for each in (a, b)] for name in names}
    return _compare_ratios(prompt_sets, ratios, seed)


def _compare_ratios(
    prompt_sets: Sequence[TaskPrompts], ratios: Mapping[str, Sequence[np.ndarray]], seed: int
) -> dict[str, Any]:
    """Returns "tasks" and "average" of `compare_predictions` from numerators and denominators per row.

    Args:
      prompt_sets: the tasks with their rows.
      ratios: by task, A's and B's [rows, 2].
      seed: of the resampling.
    """
    tasks: dict[str, dict[str, Any]] = {}
    inputs = {prompt_set.task.name: [row.sentences for row in prompt_set.rows] for prompt_set in prompt_sets}
    by_input, drawn = {}, {}
    for name, pair in ratios.items():
        summed = [sum_by_input(values, inputs[name]) for values in pair]
        difference, draws = paired_bootstrap(*summed, seed=(seed, *name.encode()))
        low, high, p = interval_and_p(difference, draws)
        tasks[name] = {
            "rows": len(inputs[name]),
            "inputs": len(summed[0]),
            "a": float(_ratios(pair[0].sum(0))),
            "b": float(_ratios(pair[1].sum(0))),
            "difference": difference,
            "low": low,
            "high": high,
            "p": p,
        }
        by_input[name], drawn[name] = summed, draws
    entries = list(tasks.values())
    for entry, p in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
        entry["p_holm"] = p
    shared = [names for names in tasks_sharing_inputs(inputs) if len(names) > 1]
    drawn |= {name: draws for names in shared for name, draws in _draw_together(names, inputs, by_input, seed).items()}
    average = {"inputs": len(set().union(*inputs.values())), **_average(entries, list(drawn.values()))}
    return {"tasks": tasks, "average": average}


def _draw_together(
    names: Sequence[str], inputs: Mapping[str, Sequence[str]], by_input: Mapping[str, Sequence[np.ndarray]], seed: int
) -> dict[str, np.ndarray]:
    """Returns the draws of `paired_bootstrap` by task; the inputs of all these tasks are drawn together."""
    order = number_inputs(text for name in names for text in inputs[name])
    models = np.full((2, len(order), len(names), 2), np.nan)
    for column, name in enumerate(names):
        places = [order[text] for text in dict.fromkeys(inputs[name])]
        for model, summed in zip(models, by_input[name], strict=True):
            model[places, column] = summed
    _, draws = paired_bootstrap(*models, seed=(seed, *"\n".join(names).encode()))
    return {name: draws[..., column] for column, name in enumerate(names)}


def most_different(
    golds: Sequence[str], a: Sequence[str], b: Sequence[str], a_ratios: np.ndarray, b_ratios: np.ndarray
) -> list[dict[str, Any]]:
    """Returns the rows whose scores differ most, at most `SHOWN_ROWS`, the largest difference first.

    Each is {"index", "gold", "a", "b", "score_a", "score_b"}; the score of a row is its numerator / denominator.
    """
    scores = [_ratios(a_ratios), _ratios(b_ratios)]
    apart = np.abs(scores[0] - scores[1])
    order = [int(index) for index in np.argsort(-apart, kind="stable")[:SHOWN_ROWS] if apart[index] > 0]
    return [
        {"index": i, "gold": golds[i], "a": a[i], "b": b[i], "score_a": float(scores[0][i]),
         "score_b": float(scores[1][i])}
        for i in order
    ]  # fmt: skip


def comparison_sections(result: Mapping[str, Any]) -> list[Section]:
    """Returns a comparison as sections of a report.

    Args:
      result: result of `compare_predictions`, with "a_folder", "b_folder" and "notes", a list of sentences, and
        if both have losses "loss", the result of `compare_losses`.
    """
    tasks, average, verdicts = result["tasks"], result["average"], result["verdicts"]
    count = ", ".join(f"{verdicts[name]} {name}" for name in ("win", "tie", "loss"))
    text = [
        f"A: {result['a_folder']}. B: {result['b_folder']}.",
        f"A against B on {len(tasks)} tasks with {average['inputs']:,} distinct inputs: {count}. Average "
        f"difference {_points(average['difference'])} points, 95 % interval {_span(average)}, p = {_p(average['p'])}.",
        *result["notes"],
        _METHOD,
    ]
    rows = [_task_row(name, entry) for name, entry in tasks.items()]
    cells = [_percent(average["a"]), _percent(average["b"]), _points(average["difference"]), _span(average)]
    rows.append(["Average", "", "", *cells, _p(average["p"]), *[""] * 5])
    sections = [Section("Scores", text, Table(_HEADER, rows, totals=1))]
    if loss := result.get("loss"):
        lines = [_loss_row(name, entry) for name, entry in [*loss["tasks"].items(), ("Average", loss["average"])]]
        sections.append(Section("Loss of the right answers", [_LOSS_METHOD], Table(_LOSS_HEADER, lines, totals=1)))
    for name, entry in tasks.items():
        if entry["most_different"]:
            lines = [
                [str(row["index"]), *(_clip(row[key]) for key in ("gold", "a", "b")), f"{row['score_a']:.2f}",
                 f"{row['score_b']:.2f}"]
                for row in entry["most_different"]
            ]  # fmt: skip
            header = ["Row", "Gold answer", "A", "B", "Score of A", "Score of B"]
            sections.append(Section(f"Where they differ most: {name}", table=Table(header, lines, plain=True)))
    return sections


_LOSS_METHOD = "Nats per token, A minus B, so below zero A is better; intervals and p as of the scores."
_LOSS_HEADER = ("Task", "A", "B", "Difference", "95 % interval", "p", "p (Holm)")
_HEADER = (
    "Task", "Verdict", "Rows", "A", "B", "Difference", "95 % interval", "p", "p (Holm)", "Only A right",
    "Only B right", "McNemar p", "McNemar p (Holm)",
)  # fmt: skip


def _task_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    exact = entry["mcnemar"]
    return [
        name, ("*" if entry["verdict"] == "win" else "") + entry["verdict"], str(entry["rows"]),
        _percent(entry["a"]), _percent(entry["b"]), _points(entry["difference"]), _span(entry), _p(entry["p"]),
        _p(entry["p_holm"]), str(exact["only_a"]), str(exact["only_b"]), _p(exact["p"]), _p(exact["p_holm"]),
    ]  # fmt: skip


def _loss_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    figures = [f"{entry['a']:.3f}", f"{entry['b']:.3f}", f"{entry['difference']:+.3f}"]
    p_holm = _p(entry["p_holm"]) if "p_holm" in entry else ""
    return [name, *figures, f"{entry['low']:+.3f} to {entry['high']:+.3f}", _p(entry["p"]), p_holm]


def _average(entries: Sequence[Mapping[str, Any]], drawn: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns the mean over tasks, also of each resample."""
    means = {key: sum(entry[key] for entry in entries) / len(entries) for key in ("a", "b", "difference")}
    low, high, p = interval_and_p(means["difference"], np.mean(drawn, axis=0))
    return {"tasks": len(entries), **means, "low": low, "high": high, "p": p}


def _ratios(sums: np.ndarray) -> np.ndarray:
    """Divides [..., 2] numerators by denominators; 0 / 0 is 1, as in `corrected_scores`."""
    above, below = sums[..., 0].astype(float), sums[..., 1]
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _span(entry: Mapping[str, Any]) -> str:
    return f"{_points(entry['low'])} to {_points(entry['high'])}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _clip(text: str) -> str:
    """Shortens a text for a table."""
    return cell(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …")
