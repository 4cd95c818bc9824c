"""Labels texts with a model: `python -m ecomgpt_jax.pseudo_label --checkpoint C --config F --task T --out DIR`.

T is a task of the config's mixture, or a task folder (then --config is not needed). The pool is the unannotated records
of T's source, or --pool: another source, or a UTF-8 file with one text per line. Each text is put into T's prompt and
decoded greedily. An answer is kept if it ends with the end-of-sequence token, has the format of T's family, names only
candidates, contains only terms of the text, and has a mean log-probability per token of at least --min_log_probability.
Evaluation texts ($ECOMGPT_EVAL) are left out. DIR receives a task folder with a `train.json`, ready for
`--config.data.mixture=folder --config.data.tasks_dir=DIR`, and `provenance.json`: weights, pool, prompt, filters,
counts, acceptance rate, and the mean log-probability of each row. The same command continues an interrupted one.
"""

import collections
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags

from ecomgpt_jax import cli
from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import DataConfig, EvalConfig, ModelConfig, nearest, parse_mesh
from ecomgpt_jax.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from ecomgpt_jax.decoding.resumable import decode_prompts
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.files import check_output, read_text, write_json
from ecomgpt_jax.instruct import choose, pseudo_labels, read
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, load_task, write_task
from ecomgpt_jax.model import loading
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.processes import enable_compilation_cache

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, with an optional :argument")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "workdir, step or Hugging Face directory, or owner/name@revision")
_TASK = flags.DEFINE_string("task", "", "name of a task of the mixture, or a task folder")
_POOL = flags.DEFINE_string("pool", "", "a source, or a file with one text per line; default the task's own source")
_OUT = flags.DEFINE_string("out", "", "folder of task folders to write to")
_LIMIT = flags.DEFINE_integer("limit", 0, "only the first texts of the pool; 0 = all", lower_bound=0)
_LEAST = flags.DEFINE_float("min_log_probability", -0.5, "mean per token, natural logarithm; lower answers are dropped")
_BATCH = flags.DEFINE_integer("batch", EvalConfig.batch, "prompts decoded together", lower_bound=1)
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", EvalConfig.max_new_tokens, "longest answer", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", EvalConfig.dtype, "float32 or bfloat16; default the checkpoint's own")
_MESH = flags.DEFINE_string("mesh", EvalConfig.mesh, "devices, such as data=1,fsdp=8; default all along data")


def find_task(name: str, pool: str, data: DataConfig) -> tuple[TaskFolder, list[str]]:
    """Returns the task and the texts of the pool.

    Raises:
      ConfigError: there is no such task, or its answers cannot be checked.
      MissingInputError: the pool does not exist.
      EcomError: a source or the task folder cannot be read.
    """
    if Path(name).is_dir():
        task = load_task(name)
        task = dataclasses.replace(task, name=pseudo_labels.pseudo_name(task.name))
        pseudo_labels.check_family(task)
    else:
        known = {each.name: each for each in choose.choose(data).training} if data.mixture != "folder" else {}
        if name not in known:
            raise ConfigError(f"--task: no task {name!r} in the {data.mixture} mixture{nearest(name, known)}")
        records = read.read_source(known[name].source, data)
        task = pseudo_labels.as_folder(known[name], records)
        if not pool:
            return task, pseudo_labels.pool_of(pseudo_labels.unlabelled(records, task.language))
    if Path(pool).is_file():
        return task, pseudo_labels.pool_of(read_text(pool).split("\n"))
    if data.mixture in ("real", "all") and pool:
        return task, pseudo_labels.pool_of(pseudo_labels.unlabelled(read.read_source(pool, data), task.language))
    raise MissingInputError(
        f"--pool: {pool or 'nothing'!r} is neither a file with one text per line nor a source of the mixture"
    )


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    usage = "pseudo_label --checkpoint C --config F --task T --out DIR"
    cli.check_usage(usage, arguments, _CHECKPOINT, _TASK, _OUT)
    data = config_lib.resolve(cli.load_config(_CONFIG)).data if _CONFIG.value is not None else DataConfig()
    task, pool = find_task(_TASK.value, _POOL.value, data)
    dropped: collections.Counter[str] = collections.Counter()
    compared = DataConfig(mixture="folder")  # whatever the mixture: the texts may come from anywhere
    exclusion = read.exclusion(compared)
    texts = [text for text in pool if not (exclusion and exclusion.reason_of_texts([text]))]
    dropped["evaluation text"] = len(pool) - len(texts)
    texts = texts[: _LIMIT.value or None]
    if not texts:
        raise DataError(f"--pool: no text without annotation in {_POOL.value or task.dataset!r}")
    mesh = make_mesh(parse_mesh(_MESH.value, "--mesh"))
    enable_compilation_cache(Path(data.cache_dir).expanduser() / "compiled")
    checkpoint = loading.find_checkpoint(_CHECKPOINT.value, _DTYPE.value)
    tokenizer = load_tokenizer(loading.tokenizer_directory(checkpoint.directory))
    check_vocabulary(tokenizer, checkpoint.model.vocab_size)
    if jax.process_index() == 0:
        check_output(_log())
    print(loading.describe(checkpoint, mesh), flush=True)
    if missing := read.missing_evaluation(compared, "text"):
        print(missing)
    params = loading.load_params(checkpoint, mesh)
    weights = content_hash(params)
    rows, log_probs = _label(task, texts, dropped, params, weights, checkpoint.model, tokenizer, mesh)
    if jax.process_index() == 0:
        _write(task, rows, log_probs, len(texts), dropped, weights, checkpoint.model.compute_dtype)


def _label(
    task: TaskFolder,
    texts: list[str],
    dropped: collections.Counter[str],
    params: Params,
    weights: str,
    model: ModelConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
) -> tuple[list[TaskRow], list[float]]:
    """Returns the rows that pass every filter and their mean log-probabilities; counts the others."""
    asked = pseudo_labels.instructions(task, texts)
    prompts = tokenizer.encode_prompts([render(instruction)[0] for instruction in asked])
    answers = decode_prompts(
        params, model, prompts, max_new_tokens=_MAX_NEW_TOKENS.value, eos_ids=tokenizer.stop_ids,
        allowed_ids=tokenizer.ids, batch=_BATCH.value, mesh=mesh, log=_log(), title="label",
        weights=weights,
    )  # fmt: skip
    passed: list[tuple[int, TaskRow]] = []
    for index, (instruction, answer) in enumerate(zip(asked, answers, strict=True)):
        if len(answer) >= _MAX_NEW_TOKENS.value:
            row: TaskRow | str = "no end"
        else:
            row = pseudo_labels.accept(task, texts[index], tokenizer.decode(answer), instruction.candidates)
        if isinstance(row, TaskRow):
            passed.append((index, row))
        else:
            dropped[row] += 1
    by_end = [
        mean_log_probabilities(
            params, model, [prompts[index] for index, _ in passed], [[*answers[index], end] for index, _ in passed],
            batch=_BATCH.value, mesh=mesh,
        )
        for end in tokenizer.stop_ids
    ]  # fmt: skip
    log_probs = map(max, zip(*by_end, strict=True))  # the id that ended an answer was the likeliest of all
    sure = [(row, log_prob) for (_, row), log_prob in zip(passed, log_probs, strict=True) if log_prob >= _LEAST.value]
    dropped["log-probability"] = len(passed) - len(sure)
    return [row for row, _ in sure], [log_prob for _, log_prob in sure]


def _log() -> Path:
    return Path(_OUT.value) / "answers.partial.jsonl"


def _write(
    task: TaskFolder,
    rows: list[TaskRow],
    log_probs: list[float],
    asked: int,
    dropped: collections.Counter[str],
    weights: str,
    dtype: str,
) -> None:
    counts = {reason: count for reason, count in sorted(dropped.items()) if count}
    summary = f"{len(rows):,} of {asked:,} texts labelled ({len(rows) / asked:.1%}); " + ", ".join(
        f"{reason}: {count:,}" for reason, count in counts.items()
    )
    if not rows:
        raise DataError(f"{task.name}: no answer passed the filters: {summary}")
    provenance: dict[str, Any] = {
        "operator": "pseudo_label",
        "parent": _TASK.value,
        "pool": _POOL.value or "texts without annotation in the source of the task",
        "checkpoint": _CHECKPOINT.value,
        "weights": weights,
        "dtype": dtype,
        "template": task.template,
        "max_new_tokens": _MAX_NEW_TOKENS.value,
        "min_log_probability": _LEAST.value,
        "texts": asked,
        "kept": len(rows),
        "acceptance_rate": len(rows) / asked,
        "dropped": counts,
        "mean_log_probabilities": [round(log_prob, 4) for log_prob in log_probs if math.isfinite(log_prob)],
    }
    written = write_task(_OUT.value, task, test=(), train=rows)
    write_json(written.path / "provenance.json", provenance)
    _log().unlink(missing_ok=True)
    print(summary)
    print(f"task: {written.path}", flush=True)


if __name__ == "__main__":
    cli.run(main)
