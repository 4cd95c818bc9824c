"""Evaluates a model: prompts, decoding, prediction files, scores, report; and a small slice of it during training."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ecomgpt_jax.config import SLICE_ROWS, EvalConfig, ModelConfig
from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.decoding.resumable import decode_prompts
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.evaluation.answer_forms import constrain_answers
from ecomgpt_jax.evaluation.corrected_scores import corrected_scores
from ecomgpt_jax.evaluation.letter_answers import letter_counts, read_letters
from ecomgpt_jax.evaluation.likelihood import likeliest
from ecomgpt_jax.evaluation.official_scores import official_scores
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts, describe, find_tasks_dir, prompt_tokens
from ecomgpt_jax.evaluation.report import write_report
from ecomgpt_jax.evaluation.scores import (
    MEASURES,
    averages,
    domain,
    score_task,
    task_predictions,
    write_predictions,
)
from ecomgpt_jax.files import read_json, write_json
from ecomgpt_jax.instruct.task_folder import load_tested, warn_of_templates

__all__ = ["evaluate_tasks", "find_tasks_dir"]

ANSWERS = "answers.jsonl"  # the log of `decode_prompts`
LOSS_ROWS = 16  # maximum batch of right answers for their loss
SAMPLES = 8  # answers in the report of a training run


def evaluate_tasks(
    params: Any,
    model: ModelConfig,
    tokenizer: Tokenizer,
    tasks_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    settings: EvalConfig,
    mesh: jax.sharding.Mesh | None = None,
    only: Iterable[str] | None = None,
    weights: str = "",
    trained_on: Collection[str] = (),
) -> dict[str, Any]:
    """Decodes and scores every task of a folder.

    Writes `predictions/<task>.jsonl`, `scores.json`, `report.md` and `report.html` to `out_dir`, each atomically. With
    several processes only process 0 writes. With `settings.answer_loss` each line of the
    predictions has the "answer_loss" of its row, and each task's entry the mean of its rows: nats per token of the
    right answer.

    Args:
      params: the model's parameters.
      model: their shapes.
      tokenizer: the one the model was trained with.
      tasks_dir: folder of `<Dataset>/tasks/<task>/`.
      out_dir: created if needed.
      settings: rows per task, batch, beams, and lengths.
      mesh: the mesh that the parameters are on.
      only: names of the tasks to evaluate, or patterns of names; None: all.
      weights: identifies the weights. If given, each finished answer is appended to `answers.jsonl`, and a restarted
        run decodes only the missing ones.
      trained_on: names of the tasks that the model was trained on, for the domains of the scores; empty if unknown.

    Returns:
      The content of `scores.json`.
    """
    out_dir, writes = Path(out_dir), jax.process_index() == 0
    answered = _answer(
        params, model, tokenizer, tasks_dir, settings, mesh, only, log=out_dir / ANSWERS, weights=weights
    )
    losses = iter(())
    if settings.answer_loss:
        prompts = [prompt for each in answered for prompt in each.prompt_set.prompts]
        golds = [gold for each in answered for gold in each.prompt_set.responses()]
        losses = iter(answer_losses(params, model, tokenizer, prompts, golds, settings, mesh))
    entries = {}
    for prompt_set, texts, said, cut, full, ranked in answered:
        lost = list(islice(losses, len(texts)))
        if writes:
            write_predictions(out_dir / "predictions" / f"{prompt_set.task.name}.jsonl", texts, lost, said)
        entry = score_task(prompt_set, texts)
        known = {"domain": domain(prompt_set.task, trained_on)} if trained_on else {}
        known |= {"answer_loss": sum(lost) / len(lost)} if lost else {}
        known |= {"letters": letter_counts(prompt_set, texts)} if prompt_set.letters is not None else {}
        if ranked:
            others = {name: labels for name, labels in ranked.items() if labels is not texts}
            known["likelihood"] = {"sum": entry["corrected"]["score"]} | {
                name: corrected_scores(prompt_set.task, prompt_set.rows, labels, prompt_set.shown)["score"]
                for name, labels in others.items()
            }
        entries[prompt_set.task.name] = {**entry, **known, "cut_prompts": cut, "cut_answers": full}
    protocol = describe([each.prompt_set for each in answered], settings)
    run = {"dtype": model.compute_dtype}
    scores = {"tasks": entries, "averages": averages(entries), "protocol": protocol, "run": run}
    if writes:
        write_json(out_dir / "scores.json", scores)
        write_report(out_dir, scores, answers=[(each.prompt_set, each.texts) for each in answered])
    return scores


def finished_scores(
    tasks_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str], settings: EvalConfig, dtype: str
) -> dict[str, Any] | None:
    """Returns the `scores.json` that an earlier `evaluate_tasks` wrote to `out_dir`; None if it must run again.

    It must run if it did not finish, or if dtype, tasks, settings or prompts have changed. The caller compares the
    weights.
    """
    path = Path(out_dir) / "scores.json"
    if not path.is_file():
        return None
    scores = read_json(path)
    tasks = [build_prompts(task, settings.limit, settings.protocol) for task in load_tested(tasks_dir)]
    complete = not settings.answer_loss or all("answer_loss" in entry for entry in scores["tasks"].values())
    complete = complete and scores["run"] == {"dtype": dtype}
    return scores if complete and scores["protocol"] == describe(tasks, settings) else None


def answer_losses(
    params: Any,
    model: ModelConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    golds: Sequence[str],
    settings: EvalConfig,
    mesh: jax.sharding.Mesh | None = None,
) -> list[float]:
    """Returns the mean loss of each prompt's right answer and its end-of-sequence token, in nats per token.

    Prompts are cut as for decoding, and answers to `settings.max_new_tokens`.
    """
    read = prompt_tokens(tokenizer, prompts, settings.max_prompt_tokens)[0]
    answers = [[*ids, tokenizer.eos_id][: settings.max_new_tokens] for ids in tokenizer.encode_batch(golds)]
    batch = min(settings.batch, LOSS_ROWS)
    return [-log_prob for log_prob in mean_log_probabilities(params, model, read, answers, batch=batch, mesh=mesh)]


def evaluate_slice(
    params: Any,
    model: ModelConfig,
    tokenizer: Tokenizer,
    tasks_dir: str | os.PathLike[str],
    settings: EvalConfig,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float]:
    """Scores the first `SLICE_ROWS` rows of each task and writes no file; arguments as for `evaluate_tasks`.

    Returns:
      {"eval/<task>/<name>": value} of the corrected score and the two official ones that are averaged, and the same
      for the average over tasks, "eval/average/<name>".
    """
    limit = min(SLICE_ROWS, settings.limit or SLICE_ROWS)
    settings = dataclasses.replace(settings, limit=limit)
    found: dict[str, float] = {}
    for prompt_set, texts, *_ in _answer(params, model, tokenizer, tasks_dir, settings, mesh):
        scores = {
            "official": official_scores(prompt_set.task, prompt_set.rows, texts),
            "corrected": corrected_scores(prompt_set.task, prompt_set.rows, texts, prompt_set.shown),
        }
        found |= {f"eval/{prompt_set.task.name}/{name}": scores[kind][name] for _, kind, name in MEASURES}
    for _, _, name in MEASURES:
        values = [value for key, value in found.items() if key.endswith(f"/{name}")]
        found[f"eval/average/{name}"] = sum(values) / len(values)
    return found


def slice_metrics(tasks_dir: str | os.PathLike[str]) -> list[str]:
    """Returns the metric names of `evaluate_slice` for a folder of tasks."""
    names = [*(task.name for task in load_tested(tasks_dir)), "average"]
    return [f"eval/{task}/{name}" for task in names for _, _, name in MEASURES]


def read_samples(
    tasks_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str], settings: EvalConfig
) -> list[dict[str, str]]:
    """Returns up to `SAMPLES` answers of `evaluate_tasks` from `out_dir`, evenly spaced over tasks and their rows.

    Each is {"task", "prompt", "gold", "prediction"}.
    """
    tasks, found = load_tested(tasks_dir), {}
    for number in range(SAMPLES):
        task = tasks[number * len(tasks) // SAMPLES]
        prompt_set = build_prompts(task, settings.limit, settings.protocol)
        texts = task_predictions(Path(out_dir) / "predictions", prompt_set)
        row = number * len(texts) // SAMPLES
        found[task.name, row] = (task.name, prompt_set.prompts[row], prompt_set.golds[row], texts[row])
    return [dict(zip(("task", "prompt", "gold", "prediction"), sample, strict=True)) for sample in found.values()]


class _Answered(NamedTuple):
    """A task and its answers.

    Attributes:
      prompt_set: the task.
      texts: the answer to each row, in labels.
      said: the model's answers if they are letters; else empty.
      cut_prompts: number of prompts that were cut.
      cut_answers: number of answers that ended at the limit.
      ranked: result of `likeliest` for a task whose candidates were ranked; its "sum" is `texts`.
    """

    prompt_set: TaskPrompts
    texts: list[str]
    said: list[str]
    cut_prompts: int
    cut_answers: int
    ranked: dict[str, list[str]]


def _answer(
    params: Any,
    model: ModelConfig,
    tokenizer: Tokenizer,
    tasks_dir: str | os.PathLike[str],
    settings: EvalConfig,
    mesh: jax.sharding.Mesh | None,
    only: Iterable[str] | None = None,
    log: Path | None = None,
    weights: str = "",
) -> list[_Answered]:
    """Answers tasks."""
    folders = load_tested(tasks_dir, only)
    warn_of_templates(folders)
    tasks = [build_prompts(task, settings.limit, settings.protocol) for task in folders]
    encoded = [prompt_tokens(tokenizer, prompt_set.prompts, settings.max_prompt_tokens) for prompt_set in tasks]
    ranked: list[dict[str, list[str]]] = [{} for _ in tasks]
    mode = settings.protocol.partition(":")[0]
    if mode == "likelihood":
        ranked = [
            likeliest(params, model, tokenizer, prompt_set, settings, mesh)
            if prompt_set.task.family == "CLS" and not prompt_set.task.is_open
            else {}
            for prompt_set in tasks
        ]
    free = [ids for (rows, _), labels in zip(encoded, ranked, strict=True) if not labels for ids in rows]
    forms = None
    if mode == "constrained":
        forms = constrain_answers(tasks, tokenizer, settings.max_new_tokens)
    answers = iter(
        decode_prompts(
            params, model, free, max_new_tokens=settings.max_new_tokens,
            eos_ids=tokenizer.stop_ids, allowed_ids=tokenizer.ids, batch=settings.batch,
            num_beams=settings.num_beams, mesh=mesh, log=log, weights=weights, title="evaluate", forms=forms,
        )
    )  # fmt: skip
    found = []
    for prompt_set, (_, cut), labels in zip(tasks, encoded, ranked, strict=True):
        ids = [] if labels else list(islice(answers, len(prompt_set.rows)))
        said = [tokenizer.decode(row) for row in ids]
        texts = labels["sum"] if labels else read_letters(prompt_set, said)
        full = sum(len(row) >= settings.max_new_tokens for row in ids)
        found.append(_Answered(prompt_set, texts, said if prompt_set.letters else [], sum(cut), full, labels))
    return found
