"""Results of an experiment: scores of each variant with intervals over inputs and seeds, differences, trends.

Every variant answered the same evaluation rows, so a resample draws distinct inputs once for all variants (paired) and
for all tasks that share inputs, and seeds separately for each variant. The score of a variant on a task is the mean
over its seeds; an average counts each task once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ecomgpt_jax.evaluation.distinct_inputs import number_inputs, tasks_sharing_inputs
from ecomgpt_jax.instruct.tasks import synthetic

RESAMPLES = 2_000
Ratios = Mapping[str, Sequence[np.ndarray]]  # task -> for each run numerator and denominator per row, [rows, 2] float64
Inputs = Mapping[str, Sequence[str]]  # task -> the input of each row


def resample(
    ratios: Ratios, owners: Sequence[int], inputs: Inputs, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Draws scores by resampling inputs and seeds.

    Args:
      ratios: by task, one array per run, as `corrected_scores.score_rows` returns them.
      owners: the variant of each run, from 0.
      inputs: by task, the input of each row; rows with the same input are drawn together.
      resamples: number of draws.
      seed: of the draws.

    Returns:
      [resamples + 1, variants, tasks] float64 scores in [0, 1]; the first is the observed one, which a task also has in
      draws without any of its inputs.
    """
    owners, rng = np.asarray(owners), np.random.default_rng(seed)
    variants = int(owners.max()) + 1
    # [resamples + 1, runs]: how often each run is drawn, as a share of its variant's runs.
    shares = np.zeros((resamples + 1, len(owners)))
    for variant in range(variants):
        runs = np.flatnonzero(owners == variant)
        shares[0, runs] = 1 / len(runs)
        shares[1:, runs] = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=resamples) / len(runs)
    scores = np.empty((resamples + 1, variants, len(ratios)))
    columns = {name: column for column, name in enumerate(sorted(ratios))}
    for names in tasks_sharing_inputs({name: inputs[name] for name in columns}):
        numbers = number_inputs(text for name in names for text in inputs[name])
        counts = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=resamples)
        for name in names:
            stacked = np.stack(ratios[name])  # [runs, rows, 2]
            drawn = counts[:, [numbers[text] for text in inputs[name]]]  # draws per row, [resamples, rows]
            weights = np.vstack([np.ones(stacked.shape[1]), drawn])
            weights[~weights.any(1)] = 1
            sums = np.einsum("dr,nrk->dnk", weights, stacked, optimize=True)
            runs_scores = np.divide(sums[..., 0], sums[..., 1], out=np.ones_like(sums[..., 0]), where=sums[..., 1] > 0)
            for variant in range(variants):
                scores[:, variant, columns[name]] = (shares * runs_scores)[:, owners == variant].sum(1)
    return scores


def interval(draws: np.ndarray) -> dict[str, float]:
    """Returns {"value", "low", "high"} of a statistic: the observed draws[0] and the 95 % percentile interval."""
    ordered = np.sort(draws[1:])
    tail = math.floor(len(ordered) * 0.025)
    return {"value": float(draws[0]), "low": float(ordered[tail]), "high": float(ordered[-1 - tail])}


def trend(averages: np.ndarray, factors: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Fits average = constant + sum of slope x factor by least squares, in every draw.

    Args:
      averages: [resamples + 1, variants] averages over tasks.
      factors: for each variant its factors by name, on a scale on which the trend is linear (log2 of a count).

    Returns:
      By factor the slope with its interval: score (0 to 1) per unit of the factor, for log2 per doubling. Factors that
      do not vary are left out; the result is empty if there are too few variants to distinguish the factors.
    """
    names = [name for name in factors[0] if len({entry[name] for entry in factors}) > 1] if factors else []
    design = np.array([[1.0, *(entry[name] for name in names)] for entry in factors])
    if not names or np.linalg.matrix_rank(design) < design.shape[1]:
        return {}
    slopes = averages @ np.linalg.pinv(design).T
    return {name: interval(slopes[:, column]) for column, name in enumerate(names, 1)}


def dependency(
    draws: np.ndarray,
    tasks: Sequence[str],
    left_out: Mapping[int, str],
    uses: Mapping[str, Sequence[str]],
    lower_is_better: bool = False,
) -> dict[str, Any]:
    """Compares the change of each task's score without an ability with the abilities that the task declares.

    Args:
      draws: see `resample`; variant 0 has every ability.
      tasks: names, in the order of the last axis.
      left_out: {index of a variant that lacks an ability: the ability}.
      uses: the abilities that each task is declared to use.
      lower_is_better: whether the draws are losses.

    Returns:
      "tasks", "abilities", "change": [tasks][abilities] score without the ability minus with all, "declared":
      [tasks][abilities] 0 or 1, "rank_correlation": Spearman's between harm and declaration over all cells, with its
      interval; absent if all cells are equal.
    """
    variants, abilities = list(left_out), list(left_out.values())
    change = draws[:, variants].transpose(0, 2, 1) - draws[:, 0, :, None]  # [resamples + 1, tasks, abilities]
    declared = np.array([[float(ability in uses[task]) for ability in abilities] for task in tasks])
    result = {"tasks": list(tasks), "abilities": abilities, "change": change[0].tolist(), "declared": declared.tolist()}
    harm = (change if lower_is_better else -change).reshape(len(draws), -1)
    harm, wanted = stats.rankdata(harm, axis=1), stats.rankdata(declared)
    harm, wanted = harm - harm.mean(1, keepdims=True), wanted - wanted.mean()
    norm = np.sqrt((harm**2).sum(1) * (wanted**2).sum())
    if norm[0] > 0:
        correlation = np.divide(harm @ wanted, norm, out=np.zeros(len(draws)), where=norm > 0)
        result["rank_correlation"] = interval(correlation)
    return result


def summarise(
    variants: Sequence[str],
    ratios: Ratios,
    owners: Sequence[int],
    inputs: Inputs,
    factors: Mapping[str, Mapping[str, float]] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    left_out: Mapping[str, str] | None = None,
    uses: Mapping[str, Sequence[str]] | None = None,
    losses: Mapping[str, Sequence[np.ndarray]] | None = None,
    lower_is_better: bool = False,
) -> dict[str, Any]:
    """Returns the figures of an experiment.

    Args:
      variants: their names; the others are compared with the first.
      ratios: see `resample`.
      owners: the variant of each run.
      inputs: see `resample`.
      factors: {variant: its factors}, for the variants of a trend; see `trend`.
      groups: names of task groups (a language, a family) with their tasks.
      left_out: {name of a variant that lacks an ability: the ability}; see `dependency`.
      uses: the abilities of each task; needed with `left_out`.
      losses: by task, for each run the loss of the right answer of each row, [rows] float64; see "loss" below.
      lower_is_better: whether `ratios` are losses; see `dependency`.

    Returns:
      "variants": {name: {"average": interval, "difference": interval (to the first; absent there), "tasks": {task:
      interval}, "groups": {group: interval}}}, "trend": see `trend`; with `left_out` also "dependency", with `losses`
      also "loss": the same for the losses. Scores are in [0, 1], losses in nats per token.
    """
    draws = resample(ratios, owners, inputs)
    tasks, averages = sorted(ratios), draws.mean(2)
    result: dict[str, Any] = {}
    for index, name in enumerate(variants):
        entry: dict[str, Any] = {"average": interval(averages[:, index])}
        if index:
            entry["difference"] = interval(averages[:, index] - averages[:, 0])
        entry["tasks"] = {task: interval(draws[:, index, column]) for column, task in enumerate(tasks)}
        entry["groups"] = {
            group: interval(draws[:, index, [tasks.index(task) for task in members]].mean(1))
            for group, members in (groups or {}).items()
        }
        result[name] = entry
    fitted = [index for index, name in enumerate(variants) if name in (factors or {})]
    fit = trend(averages[:, fitted], [factors[variants[index]] for index in fitted]) if fitted else {}
    summary = {"variants": result, "trend": fit}
    lacking = {index: left_out[name] for index, name in enumerate(variants) if name in (left_out or {})}
    if lacking:
        summary["dependency"] = dependency(draws, tasks, lacking, uses, lower_is_better)
    if losses:
        means = {task: [np.stack([run, np.ones_like(run)], 1) for run in runs] for task, runs in losses.items()}
        summary["loss"] = summarise(
            variants, means, owners, inputs, factors, groups, left_out, uses, lower_is_better=True
        )
    return summary


def abilities_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the abilities of evaluation tasks: those of the embedded held-out task with the same family and name."""
    known = {task.name.split("-", 2)[2]: task.abilities for task in synthetic.tasks() if task.held_out}
    known |= {"Extract-product_select_2": known["Extract-product_select"]}
    known |= {"CLS-query_item_matching": known["CLS-item_align"]}
    return {name: known.get(name.split("-", 2)[2], ()) for name in names}


class _Measure(NamedTuple):
    """How a number is printed: factor, digits, name of the unit."""

    factor: float
    digits: int
    unit: str

    def span(self, entry: Mapping[str, float] | None, sign: str = "") -> str:
        """Returns the value with its interval; an empty string for None."""
        if entry is None:
            return ""
        parts = [f"{self.factor * entry[name]:{sign}.{self.digits}f}" for name in ("value", "low", "high")]
        return f"{parts[0]} [{parts[1]}, {parts[2]}]"


_SCORE, _LOSS = _Measure(100, 1, "points"), _Measure(1, 3, "nats")


def markdown(title: str, question: str, summary: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Returns the experiment as a Markdown page: one row per variant, then a table of tasks; the same for losses."""
    lines = [f"# {title}", "", question, "", *_variants_table(summary, _SCORE)]
    if loss := summary.get("loss"):
        lines += ["", "Loss of the right answers, nats per token (lower is better):", ""]
        lines += _variants_table(loss, _LOSS)
    for measure, part in (("score", summary), ("loss of right answers", loss or {})):
        if correlation := part.get("dependency", {}).get("rank_correlation"):
            value, low, high = (correlation[name] for name in ("value", "low", "high"))
            seen = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            lines += ["", f"Rank correlation of declared use and harm without it, by {measure}: {seen}."]
    lines += ["", "By task:", "", *_tasks_table(summary, _SCORE)]
    if loss:
        lines += ["", "Loss by task:", "", *_tasks_table(loss, _LOSS)]
    lines += ["", "Corrected scores in points of 100; 95 % intervals over distinct inputs and seeds.", ""]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _variants_table(summary: Mapping[str, Any], measure: _Measure) -> list[str]:
    variants = summary["variants"]
    reference = next(iter(variants))
    groups = list(variants[reference]["groups"])
    lines = _table(
        ["variant", "average", f"minus {reference}", *groups],
        [
            [name, measure.span(entry["average"]), measure.span(entry.get("difference"), sign="+")]
            + [measure.span(entry["groups"][group]) for group in groups]
            for name, entry in variants.items()
        ],
    )
    if summary["trend"]:
        lines += ["", f"Slopes, {measure.unit} per unit:", ""]
        rows = [[name, measure.span(fit, sign="+")] for name, fit in summary["trend"].items()]
        lines += _table(["factor", "slope"], rows)
    return lines


def _tasks_table(summary: Mapping[str, Any], measure: _Measure) -> list[str]:
    entries = summary["variants"].values()
    tasks = next(iter(entries))["tasks"]
    return _table(
        ["task", *summary["variants"]],
        [[task, *(measure.span(entry["tasks"][task]) for entry in entries)] for task in tasks],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]
