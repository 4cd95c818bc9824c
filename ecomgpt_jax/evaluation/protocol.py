"""The protocols of evaluation: the prompts and their hash.

Prompts are the released ones (head, then the filled template). In the default protocol, `greedy` (`beam<K>` with
beams), candidates are fixed (see `instruct.task_folder.candidates`). The released code draws the candidates of
classification in every run; `released:SEED` draws them in the same way, to measure the variance. In `greedy:letters`
(and `constrained:letters`, `likelihood:letters`) the candidates of classification have letters, in an order drawn per
row by hash, and the answer consists of letters. Prompts longer than `max_prompt_tokens` are cut at the beginning and
counted; the end with "### Response:" is kept.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ecomgpt_jax.config import DEFAULT_PROTOCOL, EvalConfig
from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.files import find_data
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.letters import can_show_letters, letters, shuffled, with_letters
from ecomgpt_jax.instruct.task_folder import (
    MAX_CANDIDATES,
    TaskFolder,
    TaskRow,
    candidates,
    gold_labels,
    load_tested,
    read_rows,
    to_instruction,
)


class Encoder(Protocol):
    """The methods of a tokenizer that the protocol uses."""

    eos_id: int

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text."""

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text at the beginning of a sequence."""

    def cut(self, prompt: list[int], limit: int) -> list[int]:
        """Returns at most `limit` ids of a prompt, cut from the left."""


@dataclasses.dataclass(frozen=True)
class TaskPrompts:
    """A task with the rows that are evaluated, and for each row its prompt, gold answer and candidates.

    `shown` is None if the candidates are the fixed ones. `letters` are the gold answers in letters, None if they are
    labels; `golds`, and the answers that are scored, are always labels.
    """

    task: TaskFolder
    rows: tuple[TaskRow, ...]
    prompts: tuple[str, ...]
    golds: tuple[str, ...]
    shown: tuple[tuple[str, ...], ...] | None = None
    letters: tuple[str, ...] | None = None

    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """Returns the candidates of each row."""
        if self.shown is not None:
            return self.shown
        return tuple(candidates(self.task, index, row) for index, row in enumerate(self.rows))

    def names(self) -> tuple[tuple[str, ...], ...]:
        """Returns the candidates of each row as they appear in answers."""
        shown = self.candidates()
        return shown if self.letters is None else tuple(letters(len(labels)) for labels in shown)

    def responses(self) -> tuple[str, ...]:
        """Returns the gold answers in the form that the prompts request."""
        return self.golds if self.letters is None else self.letters


def build_prompts(task: TaskFolder, limit: int = 0, protocol: str = DEFAULT_PROTOCOL) -> TaskPrompts:
    """Reads the first `limit` test rows of a task (0 = all) and renders them.

    Args:
      task: the task.
      limit: rows to read.
      protocol: "released:SEED" draws the candidates of classification; a name that ends with ":letters" gives them
        letters; any other uses the fixed ones.

    Raises:
      MissingInputError: there is no `test.json`.
      DataError: a row is malformed, or a gold label that needs a letter is not a candidate.
    """
    rows = read_rows(task, "test", limit)
    instructions = [to_instruction(task, index, row) for index, row in enumerate(rows)]
    golds = tuple(instruction.answer for instruction in instructions)
    shown, lettered = None, protocol.endswith(":letters") and can_show_letters(task.family, task.template)
    if protocol.startswith("released:"):
        shown = tuple(released_candidates(task, index, row, protocol) for index, row in enumerate(rows))
    elif lettered:
        shown = tuple(shuffled(each.candidates, task.name, index) for index, each in enumerate(instructions))
    if shown is not None:
        instructions = [
            dataclasses.replace(instruction, candidates=labels)
            for instruction, labels in zip(instructions, shown, strict=True)
        ]
    if lettered:
        instructions = [
            with_letters(instruction, gold_labels(task, row))
            for instruction, row in zip(instructions, rows, strict=True)
        ]
    prompts, responses = zip(*map(render, instructions), strict=True)
    return TaskPrompts(task, tuple(rows), prompts, golds, shown, responses if lettered else None)


def released_candidates(task: TaskFolder, index: int, row: TaskRow, seed: str) -> tuple[str, ...]:
    """Draws the candidates of row `index` as the released code does for classification; elsewhere they are fixed.

    The released code shuffles the labels, cuts them to a length drawn uniformly from 0 to 49, and adds the gold labels,
    in the arbitrary order of a set of strings. So on average at least one row in fifty has only its gold labels as
    candidates. Here the draws depend only on `seed`, task and row.
    """
    if task.family != "CLS" or not task.labels:
        return candidates(task, index, row)
    draw, labels = random.Random(f"{seed}\n{task.name}\n{index}"), list(task.labels)
    draw.shuffle(labels)
    kept = list(dict.fromkeys([*labels[: draw.randrange(MAX_CANDIDATES)], *gold_labels(task, row)]))
    draw.shuffle(kept)
    return tuple(kept)


def prompt_tokens(
    tokenizer: Encoder, prompts: Sequence[str], max_prompt_tokens: int
) -> tuple[list[list[int]], list[bool]]:
    """Tokenises prompts and cuts long ones from the left.

    Returns:
      The ids of each prompt, at most `max_prompt_tokens`, and which prompts were cut.
    """
    encoded = tokenizer.encode_prompts(prompts)
    return [tokenizer.cut(ids, max_prompt_tokens) for ids in encoded], [len(ids) > max_prompt_tokens for ids in encoded]


def first_rows(tokenizer: Encoder, rows: int) -> tuple[list[list[int]], list[list[int]]]:
    """Returns the ids of prompts, and of right answers with their ends, of the first rows of each evaluation task.

    Raises:
      EcomError: there are no evaluation tasks, or one is damaged.
    """
    settings = EvalConfig()
    sets = [build_prompts(task, rows) for task in load_tested(find_tasks_dir(settings))]
    prompts, _ = prompt_tokens(tokenizer, [text for each in sets for text in each.prompts], settings.max_prompt_tokens)
    golds = tokenizer.encode_batch([text for each in sets for text in each.golds])
    return prompts, [[*ids, tokenizer.eos_id][: settings.max_new_tokens] for ids in golds]


def describe(tasks: Sequence[TaskPrompts], settings: EvalConfig) -> dict[str, Any]:
    """Returns the `protocol` entry of `scores.json`: settings, and the sha256 over them and every prompt and answer.

    The hash does not depend on paths, the order of tasks or the batch size.
    """
    mode, colon, variant = settings.protocol.partition(":")
    if mode == DEFAULT_PROTOCOL and settings.num_beams > 1:
        mode = f"beam{settings.num_beams}"
    name = mode + colon + variant
    protocol: dict[str, Any] = {
        "name": name,
        "num_beams": settings.num_beams,
        "max_prompt_tokens": settings.max_prompt_tokens,
        "max_new_tokens": settings.max_new_tokens,
        "max_candidates": MAX_CANDIDATES,
        "limit": settings.limit,
    }
    return {**protocol, "sha256": digest(protocol, tasks)}


def describe_predictions(tasks: Sequence[TaskPrompts]) -> dict[str, Any]:
    """Returns the `protocol` entry for predictions of other origin, of which only the tasks are known."""
    return {"name": "predictions", "sha256": digest({"name": "predictions"}, tasks)}


def digest(settings: Mapping[str, Any], tasks: Sequence[TaskPrompts]) -> str:
    """Returns the sha256 over the settings of a protocol (without "sha256") and every prompt and answer."""
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for prompt_set in sorted(tasks, key=lambda prompt_set: prompt_set.task.name):
        task = prompt_set.task
        content = [task.name, task.separator, task.labels, prompt_set.prompts, prompt_set.golds]
        content += [task.metric] if task.metric else []
        content += [] if prompt_set.letters is None else [prompt_set.letters]
        sha.update(json.dumps(content, ensure_ascii=False).encode())
    return sha.hexdigest()


def find_tasks_dir(settings: EvalConfig) -> str:
    """Returns the folder of evaluation tasks: `settings.tasks_dir`, else $ECOMGPT_EVAL, else the folder of `fetch`.

    Raises:
      MissingInputError: there is none.
    """
    if not (found := find_data(settings.tasks_dir, "ECOMGPT_EVAL", "evaluation")):
        raise MissingInputError(
            "no evaluation tasks: run `python -m ecomgpt_jax.fetch evaluation`, give --tasks (config: eval.tasks_dir), "
            "or set ECOMGPT_EVAL"
        )
    return str(found)
