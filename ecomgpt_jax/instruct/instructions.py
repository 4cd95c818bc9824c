"""The instruction schema and its one rendering to (prompt, response).

The layout is the released one (official evaluation, `prompt`): a head naming the task, then a template with the two
fields `{sentences}` and `{label_set}`. A template is filled in one pass and values are not scanned again, so braces and
format specifications in user text stay as they are.
"""

import dataclasses
import re
from collections.abc import Mapping

from ecomgpt_jax.errors import DataError

HEAD = (
    "Below is an instruction that describes the {defi} task. "
    "Write a response that appropriately completes the request.\n"
)
_FIELD = re.compile(r"\{([a-z_]+)\}")
FIELDS = ("sentences", "label_set")
ROW_FIELDS = ("task", "record_id", "source", "language", "family", "operator", "parent", "prompt", "response")
Row = dict[str, str]  # an instance as it is stored, by ROW_FIELDS


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One training or evaluation instance before it becomes text.

    Attributes:
      task: name of the task, `LANG-Dataset-Family-name`.
      record_id: the record it was made from, unique within `source`.
      source: name of the source.
      definition: names the task in the head of the prompt.
      template: instruction text with `{sentences}` and, where there are candidates, `{label_set}`; it carries the
        output constraint and ends with "### Response:".
      sentences: the input.
      candidates: the labels to choose from, in order; empty where the answer is open.
      separator: joins candidates, and the parts of an answer.
      answer: the response.
    """

    task: str
    record_id: str
    source: str
    definition: str
    template: str
    sentences: str
    candidates: tuple[str, ...]
    separator: str
    answer: str


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Replaces `{name}` for each name of `fields`; other braces stay, and values are not scanned again."""
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def check_template(template: str, where: str) -> None:
    """Refuses a template with an unknown field or without `{sentences}`.

    Raises:
      DataError: naming `where` and the field.
    """
    names = _FIELD.findall(template)
    for name in names:
        if name not in FIELDS:
            raise DataError(f"{where}: template field {{{name}}} is unknown; use {{sentences}} and {{label_set}}")
    if "sentences" not in names:
        raise DataError(f"{where}: template has no {{sentences}}, so the input would be lost")


def render_prompt(definition: str, template: str, sentences: str, candidates: str) -> str:
    """Returns the full prompt: head (none without a definition), then the filled template."""
    return (fill(HEAD, {"defi": definition}) if definition else "") + fill(
        template, {"sentences": sentences, "label_set": candidates}
    )


def render(instruction: Instruction) -> tuple[str, str]:
    """Returns (prompt, response) of an instruction; the end-of-sequence token is added by id when it is tokenised."""
    candidates = instruction.separator.join(instruction.candidates)
    prompt = render_prompt(instruction.definition, instruction.template, instruction.sentences, candidates)
    return prompt, instruction.answer
