"""Figures of experiments as PNG files."""

import functools
import itertools
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_DOTS_PER_INCH = 120


def draw_variants(path: str | os.PathLike[str], title: str, summary: Mapping[str, Any]) -> None:
    """Draws each variant's average with its interval, next to it the difference from the first; losses below.

    Args:
      path: of the PNG file, written atomically.
      title: of the figure.
      summary: result of `ablation.summarise`.
    """
    names, measures = list(summary["variants"]), _measures(summary)
    height = 1.4 + 0.4 * len(names)
    figure = Figure(figsize=(10, height * len(measures)), layout="constrained")
    for axes, (variants, measure, factor, unit, color) in zip(
        figure.subplots(len(measures), 2, sharey=True, squeeze=False), measures, strict=True
    ):
        for axis, key, label in (
            (axes[0], "average", f"{measure}, average of the tasks"),
            (axes[1], "difference", f"minus {names[0]}"),
        ):
            for row, name in enumerate(names):
                if (entry := variants[name].get(key)) is not None:
                    value, low, high = (factor * entry[part] for part in ("value", "low", "high"))
                    axis.plot([low, high], [row, row], color=color, linewidth=2)
                    axis.plot([value], [row], "o", color=color)
            axis.set_xlabel(f"{label} ({unit}, 95 %)")
            axis.grid(axis="x", alpha=0.3)
        axes[1].axvline(0, color="black", linewidth=0.8)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title)
    _save(figure, path)


def _measures(summary: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str, int, str, str]]:
    """Returns (results of the variants, name, factor, unit, color) of the scores, and of the losses, if any."""
    measures = [(summary["variants"], "corrected score", 100, "points", "tab:blue")]
    if "loss" in summary:
        measures.append((summary["loss"]["variants"], "loss of right answers", 1, "nats per token", "tab:orange"))
    return measures


def draw_curve(path: str | os.PathLike[str], weights: Mapping[str, float], summary: Mapping[str, Any]) -> None:
    """Draws the average by interpolation weight with its 95 % interval, and that of each group; losses next to it.

    Args:
      path: of the PNG file, written atomically.
      weights: {variant: share of the tuned checkpoint}.
      summary: result of `ablation.summarise`.
    """
    names, measures = sorted(weights, key=weights.__getitem__), _measures(summary)
    shares = [weights[name] for name in names]
    figure = Figure(figsize=(5 * len(measures), 4), layout="constrained")
    for axis, (variants, measure, factor, unit, color) in zip(
        figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True
    ):

        def line(*keys: str, variants: Mapping[str, Any] = variants, factor: int = factor) -> list[float]:
            return [factor * functools.reduce(operator.getitem, keys, variants[name]) for name in names]

        axis.fill_between(shares, line("average", "low"), line("average", "high"), color=color, alpha=0.2)
        axis.plot(shares, line("average", "value"), "o-", color=color, label="average")
        for group, style in zip(variants[names[0]]["groups"], itertools.cycle(("--", ":", "-.")), strict=False):
            axis.plot(shares, line("groups", group, "value"), style, color="0.4", linewidth=1, label=group)
        axis.set_xlabel("weight of the tuned checkpoint")
        axis.set_ylabel(f"{measure} ({unit}, 95 %)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    _save(figure, path)


def draw_dependency(
    path: str | os.PathLike[str], scores: Mapping[str, Any], losses: Mapping[str, Any] | None = None
) -> None:
    """Draws tasks x abilities, each cell with its number: red where a task is worse without the ability, blue where it
    is better, framed where it is declared to use it. The losses of right answers are below the scores.

    Args:
      path: of the PNG file, written atomically.
      scores: result of `ablation.dependency` for the scores.
      losses: the same for the losses.
    """
    maps = [("Corrected score without an ability minus with all, points", scores, 100, "+.1f", "RdBu")]
    if losses:
        title = "Loss of right answers without an ability minus with all, nats per token"
        maps.append((title, losses, 1, "+.2f", "RdBu_r"))
    rows, columns = scores["tasks"], scores["abilities"]
    size = 5 + 0.7 * len(columns), (1.8 + 0.34 * len(rows)) * len(maps)
    figure = Figure(figsize=size, layout="constrained")
    for axis, (title, found, factor, digits, colors) in zip(
        figure.subplots(len(maps), squeeze=False)[:, 0], maps, strict=True
    ):
        limit = max(abs(value) for line in found["change"] for value in line) or 1
        axis.imshow(found["change"], cmap=colors, vmin=-limit, vmax=limit, aspect="auto")
        for row, column in itertools.product(range(len(rows)), range(len(columns))):
            change = found["change"][row][column]
            ink = "white" if abs(change) > 0.7 * limit else "black"
            axis.text(column, row, f"{factor * change:{digits}}", ha="center", va="center", fontsize=8, color=ink)
            if found["declared"][row][column]:
                axis.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, linewidth=2))
        axis.set_yticks(range(len(rows)), rows)
        axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
        axis.set_title(title)
    figure.suptitle("A frame is a declared use", fontsize=10)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial.png")
    figure.savefig(partial, dpi=_DOTS_PER_INCH, metadata={"Software": None})
    os.replace(partial, path)
