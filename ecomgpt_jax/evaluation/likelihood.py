"""Classification by the likelihood of the candidates under the model, measured in three ways.

`sum` adds the log-probabilities of a candidate's tokens and of the end-of-sequence token; the answer is the candidate
with the largest sum. `mean` divides by the number of tokens, which favours long predictable candidates. `prior`
subtracts the sum of the same candidate after the prompt with an empty input, which removes the preference for generally
likely labels; no gold answer is used. A single candidate is chosen, so a row with several labels can be only partly
right.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ecomgpt_jax.config import EvalConfig, ModelConfig
from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.decoding.choices import log_probabilities
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.evaluation.protocol import TaskPrompts, prompt_tokens
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.letters import with_letters
from ecomgpt_jax.instruct.task_folder import to_instruction

COUNTS = ("sum", "mean", "prior")


def likeliest(
    params: Any,
    model: ModelConfig,
    tokenizer: Tokenizer,
    prompt_set: TaskPrompts,
    settings: EvalConfig,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, list[str]]:
    """Returns {measure: the candidate chosen for each row} for a CLS task.

    Prompts are cut as for decoding. Of equal candidates the first in the order of the prompt is chosen.

    Raises:
      DataError: a row has no candidates, or blank or equal ones.
    """
    shown, names = prompt_set.candidates(), prompt_set.names()
    for index, labels in enumerate(shown):
        if not labels or len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
            raise DataError(f"task {prompt_set.task.name}, row {index}: candidates {list(labels)!r} cannot be ranked")
    ids = {name: [*tokenizer.encode(name), tokenizer.eos_id] for name in {name for row in names for name in row}}
    empty = []
    for row, labels in zip(prompt_set.rows, shown, strict=True):
        blank = dataclasses.replace(to_instruction(prompt_set.task, 0, row), sentences="", candidates=labels)
        empty.append(render(blank if prompt_set.letters is None else with_letters(blank, ()))[0])
    distinct = list(dict.fromkeys(zip([*prompt_set.prompts, *empty], [*names, *names], strict=True)))
    read = prompt_tokens(tokenizer, [prompt for prompt, _ in distinct], settings.max_prompt_tokens)[0]
    answers = [[ids[name] for name in group] for _, group in distinct]
    title = f"rank {prompt_set.task.name}"
    totals = log_probabilities(params, model, read, answers, batch=settings.batch, mesh=mesh, title=title)
    of_prompt = dict(zip(distinct, totals, strict=True))
    found: dict[str, list[str]] = {name: [] for name in COUNTS}
    for prompt, blank, labels, group in zip(prompt_set.prompts, empty, shown, names, strict=True):
        total, before = of_prompt[prompt, group], of_prompt[blank, group]
        lengths = np.array([len(ids[name]) for name in group])
        for count, values in zip(COUNTS, (total, total / lengths, total - before), strict=True):
            found[count].append(labels[int(np.argmax(values))])
    return found
