"""Keeps evaluation text out of training: records that share a text, a sentence or a long run with an evaluation row.

Texts are compared as their letters and digits only, NFKC, lower case. A run is 18 characters where the record's text is
Chinese and 60 elsewhere, as long as what is unlikely to be shared by chance in either script. All windows of that
length of the evaluation are kept in a set, so that a text costs one look-up a character.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ecomgpt_jax.instruct.records import (
    AspectText,
    AttributedItem,
    Dialogue,
    LabelledText,
    Question,
    Record,
    SpannedText,
    TextPair,
)
from ecomgpt_jax.instruct.task_folder import TaskRow, load_tasks, read_rows

RUN_CHINESE, RUN = 18, 60
# Shorter texts are everybody's ("yes", "black"): equal ones prove nothing.
SHORTEST_CHINESE, SHORTEST = 8, 15
_OTHER = re.compile(r"[\W_]+")
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_SENTENCE_END = re.compile(r"[.!?;。！？；…\n\t]+")
_FIELD = re.compile(r"(?:^|[\n\t]|, )((?:[A-Z][\w]*)(?: [A-Z\d]\w*)?): ", re.MULTILINE)


def normalise(text: str) -> str:
    """Returns the letters and digits of a text, NFKC, lower case."""
    return _OTHER.sub("", unicodedata.normalize("NFKC", text).lower())


def is_chinese(text: str) -> bool:
    """Tells whether at least a fifth of a normalised text is Chinese: a character says as much as a word."""
    return 5 * len(_CHINESE.findall(text)) >= len(text)


def texts_of(record: Record) -> tuple[str, ...]:
    """Returns every text of a record that can come to stand in an instance."""
    match record:
        case LabelledText() | SpannedText() | AspectText():
            return (record.text,)
        case TextPair():
            fields = (value for _, value in (*record.left_attributes, *record.right_attributes))
            return (record.left, record.right, *fields)
        case AttributedItem():
            return (record.title, record.description, *(value for _, value in record.attributes))
        case Question():
            return (record.question, record.context, *record.answers)
        case Dialogue():
            return tuple(text for _, text in record.turns)
    raise TypeError(f"{type(record).__name__} is no record type")


def _long_enough(text: str) -> bool:
    return len(text) >= (SHORTEST_CHINESE if is_chinese(text) else SHORTEST)


def parts_of(row: TaskRow) -> Iterator[str]:
    """Yields the texts of an evaluation row: the input, its fields, candidates and sentences, and the open answers."""
    yield row.sentences
    pieces = _FIELD.split(row.sentences)
    for name, text in zip(("", *pieces[1::2]), pieces[::2], strict=True):
        yield text
        yield from _SENTENCE_END.split(text)
        if name.startswith("Candidate"):
            yield from text.split(", ")
    for span in row.spans:
        yield span.term


class Exclusion:
    """What training must not hold: the texts of evaluation rows and their long runs."""

    def __init__(self, rows: Iterable[TaskRow]) -> None:
        self.texts: set[str] = set()
        self.runs: dict[int, set[str]] = {RUN_CHINESE: set(), RUN: set()}
        for row in rows:
            parts = set(map(normalise, parts_of(row)))
            self.texts.update(filter(_long_enough, parts))
            whole = normalise(row.sentences)
            for text in {whole, *(normalise(span.term) for span in row.spans)}:
                for length, windows in self.runs.items():
                    if length == RUN or _CHINESE.search(text):
                        windows.update(text[i : i + length] for i in range(len(text) - length + 1))

    def reason(self, record: Record) -> str:
        """Returns why a record must stay out ("text", "sentence" or "run"), or an empty string."""
        return self.reason_of_texts(texts_of(record))

    def reason_of_texts(self, texts: Iterable[str]) -> str:
        """As `reason`, from texts."""
        for text in texts:
            whole = normalise(text)
            if whole in self.texts:
                return "text"
            if len(whole) < SHORTEST_CHINESE:
                continue
            length = RUN_CHINESE if is_chinese(whole) else RUN
            windows = self.runs[length]
            if any(whole[i : i + length] in windows for i in range(len(whole) - length + 1)):
                return "run"
            if any(normalise(sentence) in self.texts for sentence in _SENTENCE_END.split(text)):
                return "sentence"
        return ""


def load_exclusion(directories: Sequence[str | os.PathLike[str]]) -> Exclusion:
    """Returns the exclusion of every test row under the given folders of tasks.

    Raises:
      EcomError: a folder cannot be read as tasks.
    """
    tasks = (task for directory in directories for task in load_tasks(directory))
    return Exclusion(row for task in tasks for row in read_rows(task))


def checksum(directory: str | os.PathLike[str], split: str = "test") -> str:
    """Returns a sha256 over the task files below a folder: names, meta-info and rows."""
    digest = hashlib.sha256()
    for task in load_tasks(directory):
        for name in ("meta-info.json", f"{split}.json"):
            path = Path(task.path) / name
            digest.update(f"{task.name}/{name}\n".encode())
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()
