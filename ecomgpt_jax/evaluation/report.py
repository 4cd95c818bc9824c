"""Reports: of an evaluation (`report.md`, `report.html`) and of a training run (`index.html` with the loss curve).

Every score is shown next to that of the untrained weights (if evaluated), the three baselines and, for the released
tasks, the value in the paper's chart.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.evaluation.answers import answer_sections
from ecomgpt_jax.evaluation.baselines import BASELINES
from ecomgpt_jax.evaluation.page import Bar, Section, Table, bar_chart, cell, line_chart, render_html, render_markdown
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.evaluation.scores import MEASURES, groups, measures
from ecomgpt_jax.files import write_text

Scores = Mapping[str, Any]

# ROUGE-L of EcomGPT-7.1B on its held-out tasks, read off the bar chart of arXiv 2308.06966 (+-0.01).
PAPER_ROUGE_L = {
    "EN-Lenovo-NER-NER": 0.675,
    "EN-Lenovo-Condition_Extract-Condition_Extract": 0.385,
    "EN-Reddit_QA-Extract-Extract_QA": 0.395,
    "EN-ABSA-CLS-review_topic_category": 0.605,
    "ZH-MEPAVE-NER-attribute_value_extraction": 0.265,
    "ZH-MEPAVE-Condition_Extract-attribute_value_detection": 0.75,
    "ZH-Multi_CPR-Extract-product_select_2": 0.565,
    "ZH-OpenBG_Align-CLS-item_align": 0.55,
    "ZH-OpenBG_Align-CLS-title_attribute_matching": 0.82,
    "ZH-OpenBG_Align-CLS-item_fine_classify": 0.80,
    "ZH-OpenBG_Align-CLS-item_coarse_classify": 0.67,
    "ZH-OpenBG_Align-Generate-title_generate": 0.01,
}
_CAUTION = (
    "Official ROUGE-L splits on white space, so a Chinese answer without blanks is one token, and a constant answer "
    "scores high where all answers have the same frame. Compare it with the baselines, and prefer the corrected score."
)


def write_report(
    directory: str | os.PathLike[str],
    scores: Scores,
    untrained_scores: Scores | None = None,
    answers: Sequence[tuple[TaskPrompts, Sequence[str]]] = (),
) -> None:
    """Writes `report.md` and `report.html` of an evaluation.

    Args:
      directory: created if needed.
      scores: the content of `scores.json`.
      untrained_scores: the same for the weights before training.
      answers: the tasks and the answers.
    """
    sections = [*score_sections(scores, untrained_scores), _protocol_section(scores)]
    sections += [section for prompt_set, texts in answers for section in answer_sections(prompt_set, texts)]
    write_text(Path(directory) / "report.md", render_markdown("Evaluation", sections))
    write_text(Path(directory) / "report.html", render_html("Evaluation", sections))


def write_run_report(
    directory: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, float]],
    scores: Scores | None = None,
    untrained_scores: Scores | None = None,
    samples: Sequence[Mapping[str, str]] = (),
) -> None:
    """Writes `index.html` and `report.md` of a training run.

    Args:
      directory: created if needed.
      config: the run's config as nested dictionaries.
      metrics: the lines of `metrics.jsonl`, with "step" and "train/loss".
      scores: the content of `scores.json` after training; None if nothing was evaluated.
      untrained_scores: the same before training.
      samples: {"task", "prompt", "gold", "prediction"} each, shown in the HTML.
    """
    title = f"Training run: {config.get('name', 'ecomgpt')}"
    sections = [*score_sections(scores, untrained_scores)] if scores else []
    sections += _training_sections(metrics)
    sections += [_protocol_section(scores)] if scores else []
    sections += [*_sample_sections(samples), _config_section(config)]
    write_text(Path(directory) / "report.md", render_markdown(title, sections))
    write_text(Path(directory) / "index.html", render_html(title, sections))


def score_sections(scores: Scores, untrained_scores: Scores | None = None) -> list[Section]:
    """Returns the sections with scores: averages, all measures side by side, and each measure with its baselines."""
    tasks = scores["tasks"]
    if not tasks:
        return [Section("Scores", ["No task was scored."])]
    before = untrained_scores["tasks"] if untrained_scores else {}
    if measures(tasks) is not MEASURES:
        return [benchmark_section("Scores by task", tasks)]
    sections = [_overview(tasks, before), _side_by_side(tasks, before)]
    sections += [_measure_section(tasks, before, measure) for measure in MEASURES]
    return sections


def benchmark_section(title: str, tasks: Mapping[str, Any]) -> Section:
    """Returns one table over tasks of any benchmarks: official and corrected scores, intervals and baselines."""
    rows, reasons = [], []
    for name, entry in tasks.items():
        official, score = entry["official"], entry["corrected"]
        others = [entry["baselines"][baseline]["corrected"]["score"] for baseline in BASELINES]
        cells = [_number(official.get("score", official.get("micro-f1"))), _model_cell(score["score"], others)]
        cells += [f"{score['score-low']:.3f} to {score['score-high']:.3f}", _number(score.get("macro-f1"))]
        rows.append([name, str(entry["rows"]), *cells, *map(_number, others)])
        reasons += [f"{name}: no official score, {official['reason']}."] if "reason" in official else []
    corrected = [entry["corrected"]["score"] for entry in tasks.values()]
    means = [_mean([e["baselines"][name]["corrected"]["score"] for e in tasks.values()]) for name in BASELINES]
    rows.append(["Average", "", "", _number(_mean(corrected)), "", "", *map(_number, means)])
    columns = ["Official", "Corrected", "95 % interval", "Macro-F1", *(name.capitalize() for name in BASELINES)]
    return Section(title, reasons, Table(["Task", "Rows", *columns], rows, totals=1))


def write_overview(directory: str | os.PathLike[str], tasks: Mapping[str, Any]) -> None:
    """Writes `report.md` and `report.html` with one table over the tasks of several benchmarks."""
    sections = [benchmark_section("All benchmarks", tasks)]
    write_text(Path(directory) / "report.md", render_markdown("Evaluation", sections))
    write_text(Path(directory) / "report.html", render_html("Evaluation", sections))


def _value(entry: Mapping[str, Any], measure: tuple[str, str, str], baseline: str = "") -> float:
    source = entry["baselines"][baseline] if baseline else entry
    return source[measure[1]][measure[2]]


def _best_baseline(entry: Mapping[str, Any], measure: tuple[str, str, str]) -> float:
    return max(_value(entry, measure, name) for name in BASELINES)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _model_cell(value: float, others: Sequence[float | None]) -> str:
    """Returns the model's value as a cell, marked if it is above all values it is compared with."""
    return ("*" if all(other is None or value > other for other in others) else "") + _number(value)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _groups(tasks: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the groups of `scores.json`, and the tasks of the paper if there are others too."""
    paper = [name for name in tasks if name in PAPER_ROUGE_L]
    found = groups(tasks)
    return {**found, "Tasks of the paper": paper} if 0 < len(paper) < len(tasks) else found


def _overview(tasks: Mapping[str, Any], before: Mapping[str, Any]) -> Section:
    measure = MEASURES[0]
    above = sum(_value(entry, measure) > _best_baseline(entry, measure) for entry in tasks.values())
    text = [f"By corrected score the model beats every baseline on {above} of {len(tasks)} tasks."]
    if before:
        shared = [name for name in tasks if name in before]
        better = sum(_value(tasks[name], measure) > _value(before[name], measure) for name in shared)
        text.append(f"Training improved {better} of {len(shared)} tasks.")
    text += _counted_lines(tasks)
    rows = []
    for label, names in _groups(tasks).items():
        row = [label, str(len(names))]
        for measure in MEASURES:
            trained = _mean([_value(tasks[name], measure) for name in names])
            untrained = _mean([_value(before[name], measure) for name in names if name in before])
            best = max(_mean([_value(tasks[name], measure, b) for name in names]) for b in BASELINES)
            row += [_model_cell(trained, [untrained, best]), *([_number(untrained)] if before else []), _number(best)]
        rows.append(row)
    return Section("Averages", [" ".join(text), _CAUTION], Table(["Group", "Tasks", *_columns(before)], rows))


def _counted_lines(tasks: Mapping[str, Any]) -> list[str]:
    prompts = sum(entry.get("cut_prompts", 0) for entry in tasks.values())
    answers = sum(entry.get("cut_answers", 0) for entry in tasks.values())
    rows = sum(entry["rows"] for entry in tasks.values())
    lines = [f"{prompts:,} of {rows:,} prompts were longer than the limit and lost their beginning."] if prompts else []
    return lines + ([f"{answers:,} answers reached the limit of new tokens."] if answers else [])


def _columns(before: Mapping[str, Any]) -> list[str]:
    kinds = ["model", *(["untrained"] if before else []), "best baseline"]
    return [f"{title}: {kind}" for title, *_ in MEASURES for kind in kinds]


def _side_by_side(tasks: Mapping[str, Any], before: Mapping[str, Any]) -> Section:
    paper = any(name in PAPER_ROUGE_L for name in tasks)
    rows = []
    for name, entry in tasks.items():
        row = [name]
        for measure in MEASURES:
            best = _best_baseline(entry, measure)
            untrained = _value(before[name], measure) if name in before else None
            cells = [_model_cell(_value(entry, measure), [untrained, best])]
            row += [*cells, *([_number(untrained)] if before else []), _number(best)]
        rows.append(row + ([_number(PAPER_ROUGE_L.get(name))] if paper else []))
    header = ["Task", *_columns(before), *(["ROUGE-L: EcomGPT-7.1B"] if paper else [])]
    text = [
        "Corrected and official scores side by side; green (bold) where the model is above all it is compared with."
    ]
    if paper:
        text.append("EcomGPT-7.1B is read off the paper's chart (±0.01); the paper scores other candidates per run.")
    return Section("Scores by task", text, Table(header, rows))


def _measure_section(tasks: Mapping[str, Any], before: Mapping[str, Any], measure: tuple[str, str, str]) -> Section:
    title, kind, name_of_score = measure
    corrected, rouge = kind == "corrected", name_of_score == "rouge-l-f1"
    extra = ["95 % interval", "Format errors"] if corrected else ["EcomGPT-7.1B"] if rouge else ["Macro-F1"]
    columns = ["Model", *(["Untrained"] if before else []), *(name.capitalize() for name in BASELINES)]
    rows, values = [], []
    for name, entry in tasks.items():
        own, others = _value(entry, measure), [_value(entry, measure, baseline) for baseline in BASELINES]
        if before:
            others.insert(0, _value(before[name], measure) if name in before else None)
        values.append([own, *others])
        if corrected:
            score = entry["corrected"]
            tail = [f"{score['score-low']:.3f} to {score['score-high']:.3f}", f"{score['format-error-rate']:.1%}"]
        else:
            tail = [_number(PAPER_ROUGE_L.get(name) if rouge else entry["official"]["macro-f1"])]
        rows.append([name, str(entry["rows"]), _model_cell(own, others), *map(_number, others), *tail])
    means = [_mean([v for v in column if v is not None]) for column in zip(*values, strict=True)]
    rows.append(["Average", "", *map(_number, means), *("" for _ in extra)])
    table = Table(["Task", "Rows", *columns, *extra], rows, totals=1)
    return Section(title, table=table, figure="" if kind == "official" and not rouge else _chart(tasks, measure))


def _chart(tasks: Mapping[str, Any], measure: tuple[str, str, str]) -> str:
    """Draws the corrected scores with their intervals, or official ROUGE-L with the paper's values."""
    corrected = measure[1] == "corrected"
    bars = []
    for name, entry in tasks.items():
        score, paper = entry["corrected"], PAPER_ROUGE_L.get(name)
        bars.append(
            Bar(
                name,
                _value(entry, measure),
                (score["score-low"], score["score-high"]) if corrected else None,
                [_best_baseline(entry, measure), *([] if corrected else [paper])],
            )
        )
    names = ["best baseline", *([] if corrected or not PAPER_ROUGE_L.keys() & tasks else ["EcomGPT-7.1B (chart)"])]
    return bar_chart(bars, measure[0], names)


def _protocol_section(scores: Scores) -> Section:
    settings = {**scores["protocol"], **scores.get("run", {})}
    rows = [[str(key), cell(str(value))] for key, value in settings.items()]
    return Section(
        "Protocol",
        ["Two runs with the same sha256 have the same prompts."],
        Table(["Setting", "Value"], rows, plain=True),
    )


def _sample_sections(samples: Sequence[Mapping[str, str]]) -> list[Section]:
    if not samples:
        return []
    fields = (("Prompt", "prompt"), ("Gold answer", "gold"), ("Answer", "prediction"))
    examples = [(sample["task"], [(title, sample[key]) for title, key in fields]) for sample in samples]
    return [Section("Samples", examples=examples)]


def loss_curve(metrics: Sequence[Mapping[str, float]]) -> str:
    """Returns the training loss by step, and any validation loss, as inline SVG."""
    train, held_back = (
        [(line["step"], line[name]) for line in metrics if name in line] for name in ("train/loss", "val/loss")
    )
    return line_chart(train, "step", "loss", held_back)


def _training_sections(metrics: Sequence[Mapping[str, float]]) -> list[Section]:
    lines = [line for line in metrics if "train/loss" in line]
    if not lines:
        return []
    first, last = lines[0], lines[-1]
    text = f"Loss {first['train/loss']:.4f} at step {first['step']}, {last['train/loss']:.4f} at step {last['step']}."
    rates = sorted(line["perf/tokens_per_second"] for line in lines if "perf/tokens_per_second" in line)
    if rates:
        text += f" Median throughput {rates[len(rates) // 2]:,.0f} tokens/s."
    title, table = "Training loss", None
    if held_back := [line for line in metrics if "val/loss" in line]:
        title = "Training and validation loss"
        best = min(held_back, key=lambda line: line["val/loss"])
        text += f" Validation loss (dashed) lowest at step {best['step']}: {best['val/loss']:.4f}."
        names = [name for name in best if name.startswith("val/loss")]
        shown = {f"step {line['step']}": line for line in (held_back[0], best, held_back[-1])}
        rows = [[name, *(_number(line.get(name)) for line in shown.values())] for name in names]
        table = Table(["Validation loss", *shown], rows)
    return [Section(title, [text], table, figure=loss_curve(metrics))]


def _config_section(config: Mapping[str, Any]) -> Section:
    rows = []
    for section, value in config.items():
        leaves = value.items() if isinstance(value, Mapping) else [("", value)]
        rows += [[f"{section}.{name}" if name else section, cell(str(leaf))] for name, leaf in leaves]
    return Section("Settings", table=Table(["Field", "Value"], rows, plain=True))
