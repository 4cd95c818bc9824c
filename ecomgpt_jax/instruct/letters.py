"""Prompts with letters for their candidates ("A. Price, B. Size") and with letters as answers ("B, A").

Up to 26 candidates have letters from A, more of them numbers from 1. The request to answer with letters follows the
candidates, so every template that shows candidates can show letters.
"""

import dataclasses
import hashlib
import re
import string
from collections.abc import Sequence

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.instructions import Instruction

_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def letters(count: int) -> tuple[str, ...]:
    """Returns the letters or numbers of `count` candidates, in the order of the prompt."""
    if count <= len(string.ascii_uppercase):
        return tuple(string.ascii_uppercase[:count])
    return tuple(str(number) for number in range(1, count + 1))


def lettered_name(letter: str, label: str) -> str:
    """Returns a candidate as it appears in the prompt."""
    return f"{letter}. {label}"


def can_show_letters(family: str, template: str) -> bool:
    """Returns whether a task's prompts show candidates of which answers consist."""
    return family == "CLS" and "{label_set}" in template


def with_letters(instruction: Instruction, labels: Sequence[str]) -> Instruction:
    """Returns an instruction whose candidates have letters and whose answer is the letters of the gold `labels`.

    Raises:
      DataError: a gold label is not one of the candidates.
    """
    names = letters(len(instruction.candidates))
    of_label = dict(zip(instruction.candidates, names, strict=True))
    if unknown := [label for label in labels if label not in of_label]:
        raise DataError(
            f"task {instruction.task}, record {instruction.record_id}: the gold label {unknown[0]!r} is no candidate, "
            "so it has no letter"
        )
    kind = "numbers" if names[-1:] and names[-1].isdigit() else "letters"
    ask = f" (answer with {kind} only)"
    if _CHINESE.search(instruction.template):
        ask = f"（只用{'数字' if kind == 'numbers' else '字母'}回答）"
    return dataclasses.replace(
        instruction,
        template=instruction.template.replace("{label_set}", "{label_set}" + ask),
        candidates=tuple(map(lettered_name, names, instruction.candidates)),
        answer=instruction.separator.join(of_label[label] for label in labels),
    )


def shuffled(labels: Sequence[str], *place: str | int) -> tuple[str, ...]:
    """Returns labels in the order of their sha256 together with `place`, so no letter is preferred."""
    return tuple(sorted(labels, key=lambda label: _draw(*place, label)))


def drawn(share: float, *place: str | int) -> bool:
    """Returns whether the row of `place` is in the `share` of rows, by the sha256 of `place`."""
    return int.from_bytes(_draw(*place)[:8]) < share * 2**64


def _draw(*place: str | int) -> bytes:
    return hashlib.sha256("\n".join(map(str, place)).encode(errors="surrogatepass")).digest()
