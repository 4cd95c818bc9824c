"""Finds faults in training data: in users' files, line by line, and in built rows.

A finding names its place and the problem. Every file is read to its end, so all its faults are found.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import NamedTuple

from ecomgpt_jax.errors import EcomError
from ecomgpt_jax.files import BadRecord, column_of
from ecomgpt_jax.instruct import own_data, task_folder
from ecomgpt_jax.instruct.answer_parts import name_of
from ecomgpt_jax.instruct.contamination import Exclusion, normalise
from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Row
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow
from ecomgpt_jax.instruct.tasks.task import NOTHING

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_OFFSETS = ("NER", "Condition_Extract")  # families whose released offsets match the terms


class Finding(NamedTuple):
    """Place and problem in one line; `fault` is False for a note, which needs no action."""

    text: str
    fault: bool = True


def audit_folder(directory: str | os.PathLike[str], exclusion: Exclusion | None = None) -> Iterator[Finding | TaskRow]:
    """Yields the findings in every file of a folder of tasks, and each readable row, for the caller to count.

    A repeated row is a fault in training files, and a note in evaluation files, which cannot be changed. Training rows
    must not occur among the evaluation rows or in the task's own `test.json`.

    Args:
      directory: folder of `<Dataset>/tasks/<task>/{meta-info,train,test}.json`.
      exclusion: the evaluation text that must not be trained on; None skips that check.

    Raises:
      MissingInputError: there is no task.
    """
    for path in task_folder.find_tasks(directory).values():
        try:
            task = task_folder.load_task(path)
        except EcomError as error:
            yield Finding(str(error))
            continue
        yield from _label_problems(task)
        if problem := task_folder.template_problem(task):
            yield Finding(problem, fault=False)
        splits = [split for split in ("test", "train") if (path / f"{split}.json").is_file()]
        if not splits:
            yield Finding(f"{path}: neither train.json nor test.json in this task folder")
        seen: dict[str, str] = {}
        for split in splits:
            try:
                yield from _audit_file(task, split, seen, exclusion if split == "train" else None)
            except EcomError as error:  # a link to a place outside the folder
                yield Finding(str(error))


def _label_problems(task: TaskFolder) -> Iterator[Finding]:
    """Yields ambiguities among labels (CLS) or types (NER), which only their names distinguish in answers."""
    if task.family not in ("CLS", "NER"):
        return
    where, kind = (
        f"{task.path / 'meta-info.json'}: label_set.{task.label_key}",
        "label" if task.family == "CLS" else "type",
    )
    first: dict[str, str] = {}
    for label in task.labels:
        if not label.strip():
            yield Finding(f"{where}: {kind} {label!r} is blank")
        elif first.setdefault(name_of(label), label) != label:
            other = first[name_of(label)]
            yield Finding(
                f"{where}: {kind}s {other!r} and {label!r} differ in blanks at the ends only; they score as one"
            )
        if task.family == "NER":
            if "\n" in label:
                yield Finding(f"{where}: type {label!r} holds a line break, and a line of the answer is one type")
            elif ": " in label:
                yield Finding(f"{where}: type {label!r} holds ': '; official scores cut it there", fault=False)
        elif task.separator in label and label.strip():
            pieces = _as_several(label, task.separator, set(task.labels) - {label})
            if pieces:
                yield Finding(
                    f"{where}: label {label!r} reads like the labels {', '.join(map(repr, pieces))} in one answer"
                )
            else:
                what = f"holds the separator {task.separator!r}; official scores split it there"
                yield Finding(f"{where}: label {label!r} {what}", fault=False)


def _as_several(text: str, separator: str, labels: Set[str]) -> list[str]:
    """Returns labels that give the text when joined with the separator; empty if there are none."""
    if text in labels:
        return [text]
    at = text.find(separator)
    while at >= 0:
        rest = _as_several(text[at + len(separator) :], separator, labels) if text[:at] in labels else []
        if rest:
            return [text[:at], *rest]
        at = text.find(separator, at + 1)
    return []


def _audit_file(
    task: TaskFolder, split: str, seen: dict[str, str], exclusion: Exclusion | None
) -> Iterator[Finding | TaskRow]:
    path, last = task.path / f"{split}.json", 0
    lines = list(task_folder.scan_rows(task, split))
    spans = [(row, span) for _, _, row in lines if isinstance(row, TaskRow) for span in row.spans]
    right = sum(row.sentences[span.start : span.end] == span.term for row, span in spans)
    offsets = task.family in _OFFSETS or (task.family == "Extract" and 2 * right > len(spans))
    for line, text, row in lines:
        if last and line > last + 1:
            yield Finding(f"{path}:{last + 1}:1: the line is empty")
        last = line
        if isinstance(row, BadRecord):
            yield Finding(str(row))
            continue
        yield row
        for column, problem in _row_problems(task, row, text, offsets):
            yield Finding(f"{path}:{line}:{column}: {problem}")
        here = f"{path}:{line}"
        content = f"{row.sentences}\0{row.labels.get(task.label_key)}\0{row.spans}"
        keys = [content, normalise(row.sentences)] if split == "train" else [content]
        first = next((seen[key] for key in keys if key in seen), None)
        if first:
            same = "input" if first.startswith(f"{task.path / 'test.json'}:") and split == "train" else "row"
            yield Finding(f"{here}:1: the same {same} as {first}", fault=split == "train")
        seen.setdefault(content, here)
        if split == "test":
            seen.setdefault(normalise(row.sentences), here)
        reason = exclusion.reason_of_texts((row.sentences, *(s.term for s in row.spans))) if exclusion else ""
        if reason:
            yield Finding(f"{here}:{column_of(text, 'sentences')}: shares a {reason} with an evaluation row")
    if not lines:
        yield Finding(f"{path}:1:1: the file is empty, no rows")


def _row_problems(task: TaskFolder, row: TaskRow, text: str, offsets: bool) -> Iterator[tuple[int, str]]:
    """Yields (column, problem) for values that the format allows but the task does not."""
    if not row.sentences.strip():
        yield column_of(text, "sentences"), "sentences is empty"
        return  # further findings would only repeat this one
    if not task_folder.gold_answer(task, row).strip():
        yield column_of(text, "labels" if row.labels else "spans"), "the answer is empty, so no token is supervised"
    pieces = [("sentences", row.sentences), *(("labels", label) for part in row.labels.values() for label in part)]
    pieces += (("spans", span.term) for span in row.spans)
    for field, value in pieces:
        if found := _CONTROL.search(value):
            yield column_of(text, field), f"{field} holds the character {_name(found[0])} at {found.start()}"
    for key, labels in row.labels.items():
        for label in labels:
            if key in task.label_set and label not in task.label_set[key]:
                yield column_of(text, "labels"), f"label {label!r} is not in label_set.{key}"
    for number, span in enumerate(row.spans):
        if task.family in _OFFSETS and task.labels and span.type and span.type not in task.labels:
            yield column_of(text, "type", number), f"type {span.type!r} is not in label_set.{task.label_key}"
        there = row.sentences[span.start : span.end]
        if task.family != "Generate" and span.term not in row.sentences:
            yield column_of(text, "term", number), f"span {span.term!r} is not in the text"
        elif offsets and there != span.term and (span.start, span.end) != (0, 0):
            problem = f"span {span.term!r} differs from the text at {span.start}:{span.end}, {there!r}"
            yield column_of(text, "start", number), problem


def audit_own_file(spec: str, exclusion: Exclusion | None = None) -> Iterator[Finding | own_data.Instance]:
    """Yields the findings in a file or Hub data set of `data.files`, and each instance that can be read."""
    try:
        file = own_data.load(spec)
    except EcomError as error:
        yield Finding(str(error))
        return
    yield from (Finding(str(bad)) for bad in file.bad)
    yield from (Finding(f"{spec}: {note}", fault=False) for note in file.notes())
    seen: dict[tuple[str, str], str] = {}
    for instance in file.instances:
        yield instance
        place = f"{Path(spec).parent / instance.place}:1"
        for part, text in (("prompt", instance.prompt), ("response", instance.response)):
            if found := _CONTROL.search(text):
                yield Finding(f"{place}: the {part} holds the character {_name(found[0])} at {found.start()}")
        first = seen.setdefault((instance.prompt, instance.response), instance.place)
        if first != instance.place:
            yield Finding(f"{place}: the same prompt and response as {first}")
        reason = exclusion.reason_of_texts(instance.texts) if exclusion else ""
        if reason:
            yield Finding(f"{place}: shares a {reason} with an evaluation row")


def _name(character: str) -> str:
    return f"U+{ord(character):04X}" + (" (NUL)" if character == "\0" else "")


def audit(
    splits: Mapping[str, Iterable[Row]],
    exclusion: Exclusion | None = None,
    length: int = 0,
    answer_tokens: Callable[[str], int] | None = None,
    separators: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yields a line "split:row: task: what is wrong" for each finding in built rows, rows counted from 1.

    Args:
      splits: rows by name of the split.
      exclusion: the evaluation text that must not occur; None skips that check.
      length: positions in a row of tokens; 0 skips the check for answers that do not fit.
      answer_tokens: counts the tokens of a response with its end of sequence; called only for responses of many bytes.
      separators: what joins the parts of an answer, by name of the task; ", " for any other task.
    """
    seen: dict[bytes, str] = {}
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            place = f"{split}:{number}"
            separator = (separators or {}).get(row["task"], ", ")
            found = (*_problems(row, separator), *_repeat(row, place, seen), *_leak(row, exclusion))
            for problem in (*found, *_cut(row, length, answer_tokens)):
                yield f"{place}: {row['task']}: {problem} (record {row['record_id']!r} of {row['source']})"


def _cut(row: Row, length: int, answer_tokens: Callable[[str], int] | None) -> Iterator[str]:
    # A byte-level tokenizer makes at most one token per byte.
    if length and answer_tokens and len(row["response"].encode()) + 1 > length:
        tokens = answer_tokens(row["response"])
        if tokens > length:
            yield f"the answer has {tokens} tokens, and a row of {length} cuts off its end"


def _problems(row: Row, separator: str) -> Iterator[str]:
    prompt, response = row["prompt"], row["response"]
    if not prompt.strip() and not row["task"].endswith("-plain_text"):
        yield "the prompt is empty"
        return
    if not response.strip():
        yield "the response is empty, so no token is supervised"
        return
    for name in ROW_FIELDS:
        found = _CONTROL.search(row[name])
        if found:
            yield f"{name} holds the character {_name(found[0])} at {found.start()}"
    given = prompt.split("### Instruction:\n", 1)[-1]
    if row["family"] == "CLS":
        missing = [label for label in response.split(separator) if label not in given]
        if missing and response not in given:
            yield f"label {missing[0]!r} is not among the candidates"
    elif row["family"] == "Condition_Extract":
        yield from _not_copied(response, given, separator)
    elif row["family"] == "NER":
        for line in response.split("\n"):
            # Types and terms may contain a colon: the reading that fits the prompt best is used.
            cuts = [match.span() for match in re.finditer(": ", line) if line[: match.start()] in given]
            problems = [list(_not_copied(line[end:], given, separator)) for _, end in cuts]
            yield from min(problems, key=len, default=[f"line {line!r} names no type of the prompt"])


def _not_copied(terms: str, given: str, separator: str) -> Iterator[str]:
    if terms != NOTHING and terms not in given:
        for term in terms.split(separator):
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
