"""The frozen protocols `greedy` and `beam<K>`: which prompts a model sees, and the hash of what two runs share.

Prompts are the released ones (head, then the filled template); candidates are in a fixed order (see
`instruct.task_folder.candidates`), because the released code draws them anew in every run. Prompts longer than
`max_prompt_tokens` lose their beginning, the end with "### Response:" stays; each one is counted.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import MAX_CANDIDATES, TaskFolder, TaskRow, read_rows, to_instruction


class Encoder(Protocol):
    """What the protocol needs of a tokenizer."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, no special tokens among them."""


@dataclasses.dataclass(frozen=True)
class TaskPrompts:
    """A task with the rows that are evaluated, and for each row its prompt and gold answer."""

    task: TaskFolder
    rows: tuple[TaskRow, ...]
    prompts: tuple[str, ...]
    golds: tuple[str, ...]


def build_prompts(task: TaskFolder, limit: int = 0) -> TaskPrompts:
    """Reads the first `limit` test rows of a task (0 = all) and renders them.

    Raises:
      MissingInputError: there is no `test.json`.
      DataError: a row is malformed.
    """
    rows = read_rows(task, "test", limit)
    rendered = [render(to_instruction(task, index, row)) for index, row in enumerate(rows)]
    prompts, golds = zip(*rendered, strict=True)
    return TaskPrompts(task, tuple(rows), prompts, golds)


def prompt_tokens(
    tokenizer: Encoder, prompts: Sequence[str], max_prompt_tokens: int
) -> tuple[list[list[int]], list[bool]]:
    """Tokenises prompts and cuts long ones from the left.

    Returns:
      The ids of each prompt, at most `max_prompt_tokens`, and which prompts were cut.
    """
    encoded = tokenizer.encode_batch(prompts)
    return [ids[-max_prompt_tokens:] for ids in encoded], [len(ids) > max_prompt_tokens for ids in encoded]


def describe(tasks: Sequence[TaskPrompts], settings: EvalConfig) -> dict[str, Any]:
    """Returns the `protocol` entry of `scores.json`: settings, and the sha256 over them and every prompt and answer.

    The hash depends on no path, no order of tasks and no batch size.
    """
    protocol: dict[str, Any] = {
        "name": "greedy" if settings.num_beams == 1 else f"beam{settings.num_beams}",
        "num_beams": settings.num_beams,
        "max_prompt_tokens": settings.max_prompt_tokens,
        "max_new_tokens": settings.max_new_tokens,
        "max_candidates": MAX_CANDIDATES,
        "limit": settings.limit,
    }
    return {**protocol, "sha256": digest(protocol, tasks)}


def describe_predictions(tasks: Sequence[TaskPrompts]) -> dict[str, Any]:
    """Returns the `protocol` entry for predictions made elsewhere: nothing is known but what they answer."""
    return {"name": "predictions", "sha256": digest({"name": "predictions"}, tasks)}


def digest(settings: Mapping[str, Any], tasks: Sequence[TaskPrompts]) -> str:
    """Returns the sha256 over the settings of a protocol (without "sha256") and every prompt and answer."""
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in sorted(tasks, key=lambda part: part.task.name):
        content = [part.task.name, part.task.separator, part.task.labels, part.prompts, part.golds]
        sha.update(json.dumps(content, ensure_ascii=False).encode())
    return sha.hexdigest()


def find_tasks_dir(settings: EvalConfig) -> str:
    """Returns the folder of evaluation tasks: `settings.tasks_dir`, else the value of $ECOMGPT_EVAL.

    Raises:
      MissingInputError: neither is set.
    """
    found = settings.tasks_dir or os.environ.get("ECOMGPT_EVAL", "")
    if not found:
        raise MissingInputError("no evaluation tasks: give --tasks (config: eval.tasks_dir), or set ECOMGPT_EVAL")
    return found
