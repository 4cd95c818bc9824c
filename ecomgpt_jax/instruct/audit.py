"""Looks over built rows for what would teach nonsense: empty or repeated rows, answers that the prompt rules out."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence

from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.rows import FIELDS, Row
from ecomgpt_jax.instruct.tasks.task import NOTHING

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def audit(splits: Mapping[str, Sequence[Row]], exclusion: Exclusion | None = None) -> Iterator[str]:
    """Yields a line "split:row: task: what is wrong" for each finding, rows counted from 1.

    Args:
      splits: rows by name of the split.
      exclusion: the evaluation text that must not occur; None skips that check.
    """
    seen: dict[bytes, str] = {}
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            place = f"{split}:{number}"
            for problem in (*_problems(row), *_repeat(row, place, seen), *_leak(row, exclusion)):
                yield f"{place}: {row['task']}: {problem} (record {row['record_id']!r} of {row['source']})"


def _problems(row: Row) -> Iterator[str]:
    prompt, response = row["prompt"], row["response"]
    if not prompt.strip():
        yield "the prompt is empty"
        return
    if not response.strip():
        yield "the response is empty, so no token is supervised"
        return
    for name in FIELDS:
        found = _CONTROL.search(row[name])
        if found:
            yield f"{name} holds the character U+{ord(found[0]):04X} at {found.start()}"
    given = prompt.split("### Instruction:\n", 1)[-1]
    if row["family"] == "CLS":
        missing = [label for label in response.split(", ") if label not in given]
        if missing and response not in given:
            yield f"label {missing[0]!r} is not among the candidates"
    elif row["family"] == "Condition_Extract":
        yield from _not_copied(response, given)
    elif row["family"] == "NER":
        for line in response.split("\n"):
            kind, colon, terms = line.partition(": ")
            if not colon or kind not in given:
                yield f"line {line!r} names no type of the prompt"
            else:
                yield from _not_copied(terms, given)


def _not_copied(terms: str, given: str) -> Iterator[str]:
    if terms != NOTHING and terms not in given:
        for term in terms.split(", "):
            if term not in given:
                yield f"span {term!r} is not in the text"


def _repeat(row: Row, place: str, seen: dict[bytes, str]) -> Iterator[str]:
    key = hashlib.blake2b(
        f"{row['prompt']}\0{row['response']}".encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    first = seen.setdefault(key, place)
    if first != place:
        yield f"the same prompt and response as {first}"


def _leak(row: Row, exclusion: Exclusion | None) -> Iterator[str]:
    if exclusion:
        reason = exclusion.reason_of_texts((*row["prompt"].split("\n"), row["response"]))
        if reason:
            yield f"shares a {reason} with an evaluation row"
