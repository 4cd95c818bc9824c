"""Resumable decoding: each finished answer is appended to a log.

The log has one {"key", "tokens"} per line. A key identifies the weights, the prompt and the limits, so answers of other
runs are not used, and equal prompts are decoded once.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from ecomgpt_jax.config import SHAPE, ModelConfig
from ecomgpt_jax.decoding.answers import Answer
from ecomgpt_jax.decoding.beam import check_beams
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.decoding.greedy import check_prompts
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.files import parse_json, read_text, write_json_lines
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.processes import from_first


def decode_prompts(
    params: Params,
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    allowed_ids: Sequence[int],
    batch: int,
    num_beams: int = 1,
    mesh: Mesh | None,
    log: Path | None,
    weights: str,
    title: str,
    forms: Sequence[Answer | None] | None = None,
) -> list[list[int]]:
    """Returns the result of `engine.generate_tokens`, with a progress bar and a log for resuming.

    Args:
      params: as in `generate_tokens`.
      model: as in `generate_tokens`.
      prompts: as in `generate_tokens`.
      max_new_tokens: as in `generate_tokens`.
      eos_ids: as in `generate_tokens`.
      allowed_ids: as in `generate_tokens`.
      batch: as in `generate_tokens`.
      num_beams: as in `generate_tokens`.
      mesh: as in `generate_tokens`.
      log: file of finished answers, created if needed and kept; None: no log. With several processes process 0 reads
        and writes it and sends its content to the others.
      weights: identifies the weights; empty: no log.
      title: of the progress bar, which is not shown if stderr is not a terminal.
      forms: as in `generate_tokens`.

    Raises:
      ConfigError: as `generate_tokens`.
      DataError: as `generate_tokens`.
    """
    check_beams(num_beams, len(allowed_ids))
    check_prompts(prompts, max_new_tokens, model.vocab_size)
    log, writes = log if weights else None, jax.process_index() == 0
    decided_by = _decided_by(weights, max_new_tokens, eos_ids, allowed_ids, num_beams, model)
    said = [""] * len(prompts) if forms is None else [form.name if form else "" for form in forms]
    keys = [
        _key(prompt, [*decided_by, form] if form else decided_by) for prompt, form in zip(prompts, said, strict=True)
    ]
    by_key = dict(zip(keys, prompts, strict=True))
    form_of = dict(zip(keys, forms, strict=True)) if forms is not None else {}
    answers = from_first(lambda: _read(log, by_key)) if log else {}
    todo = [key for key in by_key if key not in answers]
    with contextlib.ExitStack() as stack:
        file = None
        if log and writes:
            # Drops lines of other runs and an incomplete last line.
            write_json_lines(log, ({"key": key, "tokens": tokens} for key, tokens in answers.items()))
            file = stack.enter_context(open(log, "a", encoding="utf-8"))
        bar = stack.enter_context(
            tqdm.tqdm(
                total=len(by_key), initial=len(answers), desc=title, unit="prompt", dynamic_ncols=True,
                disable=None if writes else True,
            )
        )  # fmt: skip

        def finished(number: int, tokens: list[int]) -> None:
            answers[todo[number]] = tokens
            bar.update()
            if file:
                file.write(json.dumps({"key": todo[number], "tokens": tokens}) + "\n")
                file.flush()

        generate_tokens(
            params, model, [by_key[key] for key in todo], max_new_tokens=max_new_tokens, eos_ids=eos_ids,
            allowed_ids=allowed_ids, batch=batch, num_beams=num_beams, mesh=mesh, on_finished=finished,
            forms=None if forms is None else [form_of[key] for key in todo],
        )  # fmt: skip
    return [answers[key] for key in keys]


def _decided_by(
    weights: str, max_new_tokens: int, eos_ids: Sequence[int], allowed_ids: Sequence[int], num_beams: int,
    model: ModelConfig,
) -> list[str | int | float]:  # fmt: skip
    """Returns what determines an answer besides its prompt; the hash of the weights does not cover the config."""
    network = [getattr(model, name) for name in (*SHAPE, "compute_dtype", "layer_norm_epsilon")]
    return [weights, max_new_tokens, _digest(eos_ids, allowed_ids), num_beams, *network]


def _digest(eos_ids: Sequence[int], allowed_ids: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray([*eos_ids, -1, *allowed_ids], np.int32).tobytes()).hexdigest()


def _key(prompt: Sequence[int], run: list[str | int | float]) -> str:
    return hashlib.sha256(json.dumps([*run, list(map(int, prompt))]).encode()).hexdigest()


def _read(log: Path, wanted: dict[str, Sequence[int]]) -> dict[str, list[int]]:
    """Returns the logged answers of the wanted keys; damaged lines are skipped."""
    answers: dict[str, list[int]] = {}
    for line in read_text(log).split("\n") if log.is_file() else ():
        with contextlib.suppress(DataError, KeyError, TypeError):
            value = parse_json(line, log)
            if value["key"] in wanted and all(type(token) is int for token in value["tokens"]):
                answers[value["key"]] = value["tokens"]
    return answers
