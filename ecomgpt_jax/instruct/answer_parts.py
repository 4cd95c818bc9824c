"""Reads an answer into parts: known labels, types and terms are matched whole, and only the rest is split.

At each position the longest known text followed by the separator or the end is one part, even if it contains the
separator; elsewhere a part ends at the next separator. White space at the ends of a part and one final full stop are
ignored, unless the full stop distinguishes two known texts ("Co" and "Co."). Lines end at "\\n" alone.

Known texts are the labels of the task and the row (CLS), or the terms of the row (families of spans; for NER the types
too). The parts of a gold answer are the row's own labels or spans, not read from its text. Where label names make texts
ambiguous ("a, b" is a label, "a" and "b" are others), an answer equal to the text of the gold answer is right.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, answer_separator, gold_answer, gold_labels
from ecomgpt_jax.instruct.tasks.task import NOTHING

Part = tuple[str, str]  # (type, term); the type is empty except for NER
Bag = Counter[Part]
# The part of an answer without parts if the row has none and the answer does not state that.
UNREADABLE: Part = ("(unreadable)", "(unreadable)")


def name_of(text: str) -> str:
    """Returns a label, type or term without white space at its ends, unless it is white space only."""
    return text.strip() or text


def tidy(text: str) -> str:
    """Returns a text without white space at its ends and without one final full stop, unless nothing would be left."""
    text = text.strip()
    return text[:-1].rstrip() if len(text) > 1 and text.endswith((".", "。")) else text


def gold_parts(task: TaskFolder, row: TaskRow) -> Bag:
    """Returns the parts of a row's own labels or spans, with their counts; only a CLS label counts more than once.

    Empty terms, NER's "None" and spans of unknown types are left out.
    """
    if task.family == "NER":
        found = [(name_of(span.type), name_of(span.term)) for span in row.spans if span.type in task.labels]
        return Counter({part for part in found if part[1] not in ("", NOTHING)})
    names = [("", name_of(text)) for text in gold_labels(task, row) if text]
    return Counter(names if task.family == "CLS" else set(names))


def said_parts(task: TaskFolder, row: TaskRow, answer: str) -> Bag:
    """Returns the parts of an answer to a row, as `gold_parts` has them.

    If neither the row nor the answer has parts, the answer must state that: it must be the gold answer, blank if the
    gold answer is empty, or (NER) "None" or lines "Type: None". Any other answer is one wrong part, `UNREADABLE`.
    """
    wanted, text = gold_parts(task, row), gold_answer(task, row)
    if answer == text:
        return wanted
    said = read_parts(task, row, answer)
    if said:
        return wanted if said == read_parts(task, row, text) else said
    if wanted or not (text or answer.strip()) or (task.family == "NER" and _says_nothing(task, answer)):
        return said
    return Counter([UNREADABLE])


def read_parts(task: TaskFolder, row: TaskRow, text: str) -> Bag:
    """Returns the parts of a text with their counts; only a CLS label counts more than once."""
    found = [part for part, _, _ in located_parts(task, row, text)]
    return Counter(found if task.family == "CLS" else set(found))


def located_parts(task: TaskFolder, row: TaskRow, text: str) -> Iterator[tuple[Part, int, int]]:
    """Yields each part of a text with start and end of its term, without blank parts and NER's "None"."""
    separator = answer_separator(task)
    if task.family != "NER":
        known = gold_labels(task, row)
        if task.family == "CLS":
            known = task.labels + tuple(label for label in known if label not in task.labels)
        yield from ((("", name), start, end) for name, start, end in split_known(text, separator, known))
        return
    known, at = tuple(span.term for span in row.spans), 0
    for line in text.split("\n"):
        kind, terms = split_type(line, task.labels)
        start = at + len(line) - len(terms)
        for name, first, last in split_known(terms, separator, known):
            if name != NOTHING:
                yield (kind, name), start + first, start + last
        at += len(line) + 1


def split_known(text: str, separator: str, known: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yields (name, start, end) for each part of a text: `known` texts, longest first, and text between separators.

    The name of a known text is its `name_of`, that of another one `tidy`; blank ones are left out.
    """
    names, pattern = _forms(tuple(known), separator)
    start = 0
    while start <= len(text):
        if match := pattern and pattern.match(text, start):
            yield names[match[1]], *match.span(1)
            stop = match.end()
        else:
            stop = text.find(separator, start)
            stop = len(text) if stop < 0 else stop
            piece = text[start:stop]
            form = next((form for form in (piece, piece.strip()) if form in names), tidy(piece))
            if form:
                first = start + piece.index(form)
                yield names.get(form, form), first, first + len(form)
        start = stop + len(separator)


def split_type(line: str, kinds: Sequence[str]) -> tuple[str, str]:
    """Splits a line "Type: terms" into the type and what follows the colon; the longest of `kinds` that matches is
    preferred.

    Without a colon the terms are empty.
    """
    names, pattern = _forms(tuple(kinds), ":")
    match = pattern and pattern.match(line)
    if match and line[match.end() :].startswith(":"):
        return names[match[1]], line[match.end() + 1 :]
    kind, _, terms = line.partition(":")
    return names.get(kind) or names.get(kind.strip(), kind.strip()), terms


def repeated_or_unknown(kinds: Iterable[str], known: Iterable[str]) -> bool:
    """Returns whether an answer has an unknown type, or a type more often than the known ones contain it."""
    return bool(Counter(kinds) - Counter(map(name_of, known)))


def _says_nothing(task: TaskFolder, answer: str) -> bool:
    if tidy(answer) == NOTHING:
        return True
    lines = [split_type(line, task.labels) for line in answer.split("\n") if line.strip()]
    sound = all(tidy(terms) == NOTHING for _, terms in lines)
    return bool(lines) and sound and not repeated_or_unknown((kind for kind, _ in lines), task.labels)


@lru_cache(maxsize=4096)
def _forms(known: tuple[str, ...], separator: str) -> tuple[dict[str, str], re.Pattern[str] | None]:
    """Returns {form of a known text: its name}, and a pattern of the forms that contain the separator."""
    names = {text: name_of(text) for text in known if text}
    for form in (str.strip, tidy):  # an exact form takes precedence over another text's tidied one
        for text in known:
            if form(text):
                names.setdefault(form(text), name_of(text))
    split = {name for form, name in names.items() if (form + separator).find(separator) < len(form)}
    forms = sorted((form for form, name in names.items() if name in split), key=len, reverse=True)
    if not forms:
        return names, None
    texts, end = "|".join(map(re.escape, forms)), re.escape(separator)
    return names, re.compile(rf"\s*+({texts})(?:\s*[.。])?\s*?(?={end}|\Z)")
