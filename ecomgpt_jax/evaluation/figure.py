"""Pictures of experiments as PNG files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_DOTS_PER_INCH = 120


def draw_variants(path: str | os.PathLike[str], title: str, summary: Mapping[str, Any]) -> None:
    """Draws the average of each variant with its interval, and beside it the difference to the first; losses below.

    Args:
      path: of the PNG file, written whole.
      title: above the picture.
      summary: what `ablation.summarise` returns.
    """
    names = list(summary["variants"])
    measures = [(summary["variants"], "corrected score", 100, "points", "tab:blue")]
    if "loss" in summary:
        measures.append((summary["loss"]["variants"], "loss of right answers", 1, "nats a token", "tab:orange"))
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


def draw_heat_map(
    path: str | os.PathLike[str],
    title: str,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Draws a matrix in points of 100, red below zero and blue above, each cell with its number.

    Args:
      path: of the PNG file, written whole.
      title: above the picture.
      values: [rows, columns] differences in [-1, 1].
      rows: their names.
      columns: their names.
    """
    limit = max((abs(value) for row in values for value in row), default=0) or 1
    figure = Figure(figsize=(3.5 + 0.7 * len(columns), 1.8 + 0.34 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            axis.text(column, row, f"{100 * value:+.1f}", ha="center", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axis.set_title(title)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial.png")
    figure.savefig(partial, dpi=_DOTS_PER_INCH, metadata={"Software": None})
    os.replace(partial, path)
