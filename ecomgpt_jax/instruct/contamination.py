"""Keeps evaluation text out of training: records that share a text, line, sentence or long run with evaluation rows.

Texts are compared as their letters and digits only, lower case, compatibility forms and accents folded. A run has 18
characters where both texts are Chinese and 60 elsewhere: too long to be shared by chance. Texts that share a run of n
characters share each half of it, so a text is searched with windows of n / 2 characters, n / 2 + 1 apart, and only hits
are compared character by character.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ecomgpt_jax.files import BadRecord
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
from ecomgpt_jax.instruct.task_folder import TaskRow, load_tasks, load_tested, read_rows, scan_rows

RUN_CHINESE, RUN = 18, 60
# Shorter texts ("yes", "black") are common; equal ones do not indicate copying.
SHORTEST_CHINESE, SHORTEST = 8, 15
_SENTENCE_ENDS = ".!?;。！？；…\t"
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_FIELD = re.compile(r"(?:^|[\n\t]|, )((?:[A-Z][\w]*)(?: [A-Z\d]\w*)?): ", re.MULTILINE)


class _Folding(dict[int, str]):
    """The folded form of each character, computed when it first occurs."""

    def __missing__(self, code: int) -> str:
        letters = unicodedata.normalize("NFKD", chr(code)).lower()
        self[code] = "".join(filter(str.isalnum, letters))
        return self[code]


_FOLDING = _Folding({ord(end): " " for end in _SENTENCE_ENDS} | {ord("\n"): "\n"})
# The same for ASCII texts, which are folded as bytes: 30 times faster.
_ASCII = bytes(ord(_FOLDING[code] or "\0") for code in range(128)) + bytes(128)
_DROPPED = bytes(code for code in range(128) if not _FOLDING[code])


def fold(text: str) -> str:
    """Returns the letters and digits of a text, lower case, with a blank at sentence ends and line ends kept."""
    if text.isascii():
        return text.encode().translate(_ASCII, _DROPPED).decode()
    return text.translate(_FOLDING)


def normalise(text: str) -> str:
    """Returns the letters and digits of a text, lower case, without accents."""
    return joined(fold(text))


def joined(folded: str) -> str:
    """Returns the result of `fold` without blanks and line ends."""
    return folded.replace(" ", "").replace("\n", "")


def is_chinese(text: str) -> bool:
    """Returns whether at least a fifth of a normalised text is Chinese characters, each of which counts as a word."""
    return 5 * len(_CHINESE.findall(text)) >= len(text)


def texts_of(record: Record) -> tuple[str, ...]:
    """Returns every text of a record that an instance may contain."""
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
    raise TypeError(f"{type(record).__name__} is not a record type")


def long_enough(text: str) -> bool:
    """Returns whether a normalised text is so long that two equal ones are not a coincidence."""
    return len(text) >= (SHORTEST_CHINESE if is_chinese(text) else SHORTEST)


def parts_of(row: TaskRow) -> Iterator[str]:
    """Yields the texts of an evaluation row, folded: the input, its fields, candidates and sentences, open answers."""
    yield joined(fold(row.sentences))
    pieces = _FIELD.split(row.sentences)
    for name, text in zip(("", *pieces[1::2]), pieces[::2], strict=True):
        folded = fold(text)
        yield joined(folded)
        yield from folded.split()
        if name.startswith("Candidate"):
            yield from map(normalise, text.split(", "))
    for span in row.spans:
        yield normalise(span.term)


class Exclusion:
    """The texts of evaluation rows and their long runs, which training data must not contain."""

    def __init__(self, rows: Iterable[TaskRow]) -> None:
        self.texts: set[str] = set()
        self.runs: dict[int, set[str]] = {RUN_CHINESE: set(), RUN: set()}
        self.probes: dict[int, set[str]] = {RUN_CHINESE: set(), RUN: set()}
        for row in rows:
            self.texts.update(filter(long_enough, parts_of(row)))
            for text in {normalise(row.sentences), *(normalise(span.term) for span in row.spans)}:
                for length, runs in self.runs.items():
                    if len(text) >= length and (length == RUN or _CHINESE.search(text)):
                        half = length // 2
                        runs.update(text[i : i + length] for i in range(len(text) - length + 1))
                        self.probes[length].update(text[i : i + half] for i in range(len(text) - half + 1))

    def reason(self, record: Record) -> str:
        """Returns the reason to exclude a record ("text", "sentence" or "run"), or an empty string."""
        return self.reason_of_texts(texts_of(record))

    def reason_of_texts(self, texts: Iterable[str]) -> str:
        """Returns the same as `reason` for texts."""
        return self.reason_of_folded(map(fold, texts))

    def reason_of_folded(self, texts: Iterable[str]) -> str:
        """Returns the same as `reason` for results of `fold`; "text" if a whole text or a line of it occurs."""
        for folded in texts:
            whole = joined(folded)
            if len(whole) < SHORTEST_CHINESE:
                continue
            if whole in self.texts:
                return "text"
            if self._shares_run(whole, RUN) or (_CHINESE.search(whole) and self._shares_run(whole, RUN_CHINESE)):
                return "run"
            if len(folded) > len(whole):
                if any(line.replace(" ", "") in self.texts for line in folded.split("\n")):
                    return "text"
                if not self.texts.isdisjoint(folded.split()):
                    return "sentence"
        return ""

    def _shares_run(self, text: str, length: int) -> bool:
        half, last = length // 2, len(text) - length
        if last < 0:
            return False
        probes, runs = self.probes[length], self.runs[length]
        for place in range(0, len(text) - half + 1, length - half + 1):
            if text[place : place + half] in probes:
                first = max(0, place + half - length)
                if any(text[start : start + length] in runs for start in range(first, min(place, last) + 1)):
                    return True
        return False


def load_exclusion(directories: Sequence[str | os.PathLike[str]]) -> Exclusion:
    """Returns the exclusion of every test row under the given folders of tasks.

    Raises:
      EcomError: a folder cannot be read as tasks.
    """
    tasks = (task for directory in directories for task in load_tested(directory))
    return Exclusion(row for task in tasks for row in read_rows(task))


def tested_texts(directory: str | os.PathLike[str]) -> set[str]:
    """Returns the inputs of every `test.json` below a folder of tasks, normalised if they contain a letter or digit."""
    texts: set[str] = set()
    for task in load_tasks(Path(directory).expanduser()):
        if (Path(task.path) / "test.json").is_file():
            scanned = (row for _, _, row in scan_rows(task, "test"))
            texts |= {normalise(row.sentences) or row.sentences for row in scanned if not isinstance(row, BadRecord)}
    return texts


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
