"""Compares two evaluations: `python -m ecomgpt_jax.compare A B --out F`.

A and B are output folders of `evaluate` (`scores.json` and `predictions/<task>.jsonl`) made with the same protocol. The
suffix of F selects the format: `.md` a Markdown table, `.html` a page, anything else JSON. Tasks that only one of them
has are listed and left out. If both were made with `--answer_loss`, the losses are compared too. B may also be the name
of a baseline, `majority`, `random` or `copy`, whose answers to the rows of A are computed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from ecomgpt_jax import cli
from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.evaluation.baselines import BASELINES, baseline_predictions
from ecomgpt_jax.evaluation.comparison import (
    ALPHA,
    RESAMPLES,
    compare_losses,
    compare_predictions,
    comparison_sections,
)
from ecomgpt_jax.evaluation.page import render_html, render_markdown
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts, digest, find_tasks_dir
from ecomgpt_jax.evaluation.scores import read_answer_losses, read_scores, task_predictions
from ecomgpt_jax.files import check_output, write_json, write_text
from ecomgpt_jax.instruct.task_folder import load_tested

_TASKS = flags.DEFINE_string("tasks", "", "folder of tasks with the gold answers; default $ECOMGPT_EVAL")
_OUT = flags.DEFINE_string("out", "", "file to write: .md, .html, or JSON")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the resampling", lower_bound=0)
_TITLE = "Comparison"
_ADVICE = "evaluate both with the same settings and tasks"


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    if len(arguments) != 2:
        raise ConfigError(f"{len(arguments)} folders given, two are needed; compare A B --out F")
    if not _OUT.value:
        raise ConfigError("--out is missing; compare A B --out F")
    check_output(_OUT.value)
    tasks_dir = find_tasks_dir(EvalConfig(tasks_dir=_TASKS.value))
    baseline = arguments[1] if arguments[1] in BASELINES else ""
    folders = [Path(argument) for argument in (arguments[0], arguments[0] if baseline else arguments[1])]
    scores = [_read_scores(folder) for folder in folders]
    rows = _rows(folders, scores)
    protocol = _same_settings(folders, scores)
    prompt_sets = {
        task.name: build_prompts(task, rows[task.name], protocol) for task in load_tested(tasks_dir, sorted(rows))
    }
    for name, prompt_set in prompt_sets.items():
        if len(prompt_set.rows) != rows[name]:
            raise DataError(
                f"task {name}: {rows[name]} rows were evaluated, and {tasks_dir} has {len(prompt_set.rows)}"
            )
    _check_prompts(folders, scores, prompt_sets, tasks_dir)
    a, b = (set(score["tasks"]) for score in scores)
    shared = [prompt_set for name, prompt_set in prompt_sets.items() if name in a & b]
    predictions = [
        {prompt_set.task.name: _answers(source, prompt_set) for prompt_set in shared}
        for source in (folders[0], baseline or folders[1])
    ]
    left_out = {name: "only in A" if name in a else "only in B" for name in sorted(a ^ b)}
    notes = [f"Not compared: {name} ({why})." for name, why in left_out.items()]
    result = {
        "a_folder": str(folders[0]),
        "b_folder": f"the baseline {baseline}" if baseline else str(folders[1]),
        "measure": "corrected score, A minus B",
        "resamples": RESAMPLES,
        "seed": _SEED.value,
        "alpha": ALPHA,
        "notes": notes,
        "not_compared": left_out,
        **compare_predictions(shared, *predictions, seed=_SEED.value),
    }
    names = [prompt_set.task.name for prompt_set in shared]
    if not baseline and all("answer_loss" in score["tasks"][name] for score in scores for name in names):
        losses = [
            {name: read_answer_losses(folder / "predictions" / f"{name}.jsonl") for name in names} for folder in folders
        ]
        result["loss"] = compare_losses(shared, *losses, seed=_SEED.value)
    _write(Path(_OUT.value), result)
    _print(result)


def _answers(source: Path | str, prompt_set: TaskPrompts) -> list[str]:
    """Returns the predictions in an evaluation's folder, or those of the baseline with this name."""
    if isinstance(source, Path):
        return task_predictions(source / "predictions", prompt_set)
    return baseline_predictions(prompt_set.task, prompt_set.rows, prompt_set.shown)[source]


def _read_scores(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; compare takes two output folders of evaluate")
    return read_scores(folder / "scores.json")


def _rows(folders: list[Path], scores: list[dict[str, Any]]) -> dict[str, int]:
    """Returns {task: rows evaluated} over both; raises DataError where they differ or no task is shared."""
    a, b = (score["tasks"] for score in scores)
    for name in a.keys() & b.keys():
        if a[name]["rows"] != b[name]["rows"]:
            raise DataError(
                f"task {name}: {a[name]['rows']} rows in {folders[0]} and {b[name]['rows']} in {folders[1]}; "
                "evaluate both with the same --limit"
            )
    if not a.keys() & b.keys():
        raise DataError(f"{folders[0]} and {folders[1]} have no task in common")
    return {name: entry["rows"] for name, entry in {**a, **b}.items()}


def _settings(score: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in score["protocol"].items() if key != "sha256"}


def _same_settings(folders: list[Path], scores: list[dict[str, Any]]) -> str:
    """Returns the name of the protocol of both; raises DataError where a setting differs."""
    settings = [_settings(score) for score in scores]
    for key in sorted(settings[0].keys() | settings[1].keys()):
        a, b = (setting.get(key) for setting in settings)
        if a != b:
            raise DataError(f"{folders[0]} and {folders[1]} differ in protocol: {key} {a!r} and {b!r}; {_ADVICE}")
    return str(settings[0].get("name"))


def _check_prompts(
    folders: list[Path], scores: list[dict[str, Any]], prompt_sets: Mapping[str, TaskPrompts], tasks_dir: str
) -> None:
    """Raises DataError unless both were evaluated on the prompts and gold answers of `--tasks`.

    The sha256 covers all tasks of an evaluation, so it is computed for each folder over the folder's tasks.
    """
    a, b = scores
    if a["tasks"].keys() == b["tasks"].keys() and a["protocol"]["sha256"] != b["protocol"]["sha256"]:
        raise DataError(f"{folders[0]} and {folders[1]} differ in protocol: sha256 of the prompts; {_ADVICE}")
    for folder, score in zip(folders, scores, strict=True):
        if digest(_settings(score), [prompt_sets[name] for name in score["tasks"]]) != score["protocol"]["sha256"]:
            raise DataError(
                f"{folder}: was evaluated on other prompts or gold answers than those of {tasks_dir} "
                "(sha256 of the protocol); give the folder it was evaluated on with --tasks"
            )


def _write(path: Path, result: dict[str, Any]) -> None:
    if path.suffix in (".md", ".html"):
        render = render_markdown if path.suffix == ".md" else render_html
        write_text(path, render(_TITLE, comparison_sections(result)))
    else:
        write_json(path, result)


def _print(result: dict[str, Any]) -> None:
    for name, entry in [*result["tasks"].items(), ("average", {**result["average"], "verdict": ""})]:
        span = f"{100 * entry['low']:+7.2f} to {100 * entry['high']:+7.2f}"
        p = entry.get("p_holm", entry["p"])
        print(f"{name:56} {100 * entry['difference']:+7.2f}  {span}  p {p:.4f}  {entry['verdict']}".rstrip())
    if "loss" in result:
        loss = result["loss"]["average"]
        span = f"{loss['low']:+7.3f} to {loss['high']:+7.3f}"
        name = "average loss, nats per token of the right answers"
        print(f"{name:56} {loss['difference']:+7.3f}  {span}  p {loss['p']:.4f}")
    for note in result["notes"]:
        print(note)


if __name__ == "__main__":
    cli.run(main)
