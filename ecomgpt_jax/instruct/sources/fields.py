"""Converts the fields of a row to records, for sources whose rows have such fields.

A column is given by its name, or by (name, change), where `change` is a mapping of values (another value makes the row
malformed) or a function of the value. A name with dots refers to nested JSON objects.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ecomgpt_jax.instruct.records import (
    AttributedItem,
    Draft,
    LabelledText,
    LeftOut,
    Span,
    SpannedText,
    TextPair,
    draft,
)
from ecomgpt_jax.instruct.sources.rows import clean_text, one_line

Row = Mapping[str, Any]
Column = str | tuple[str, Mapping[str, str] | Callable[[str], str]]


def field(row: Any, name: str) -> Any:
    """Returns a field of a row, nested ones by `outer.inner`; raises ValueError if there is none."""
    if isinstance(row, Mapping) and name in row:
        return row[name]
    outer, dot, inner = name.partition(".")
    if dot and isinstance(row, Mapping) and outer in row:
        return field(row[outer], inner)
    raise ValueError(f"{name}: missing")


def text_of(row: Row, column: Column, default: Callable[[str], str] = clean_text) -> str:
    """Returns the text of a column, "" for null.

    Args:
        row: Fields of the row.
        column: The column, see the module.
        default: The change if the column has none.

    Raises:
        ValueError: There is no such field, it is not a text or number, or the change has no entry for its value.
    """
    name, change = (column, default) if isinstance(column, str) else column
    return _changed(name, field(row, name), change)


def texts_of(row: Row, column: Column) -> tuple[str, ...]:
    """Returns the texts of a column with one or a list, without empty ones; raises like `text_of`."""
    name, change = (column, clean_text) if isinstance(column, str) else column
    value = field(row, name)
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(filter(None, (_changed(name, each, change) for each in values))))


def _changed(name: str, value: Any, change: Mapping[str, str] | Callable[[str], str]) -> str:
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{name}: {value!r:.100} is no text")
    text = "" if value is None else str(value)
    try:
        return change(text) if callable(change) else change[text]
    except KeyError as error:
        raise ValueError(f"{name}: unknown value {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def labelled(
    row: Row, file: str, *, text: Column, labels: Mapping[str, Column], group: tuple[str, str] = ("", "")
) -> Iterator[Draft]:
    """Yields a `LabelledText`; a row without text is left out, a text without any label has supervision "none".

    Args:
        row: Fields of the row.
        file: Not used.
        text: Column of the text.
        labels: Column of each kind of label: one label or a list of them; empty ones are ignored.
        group: (prefix, column) if rows with the same product belong together.
    """
    if not (shown := text_of(row, text)):
        raise LeftOut("no text")
    kinds = {kind: values for kind, column in labels.items() if (values := texts_of(row, column))}
    supervision = "gold" if kinds else "none"
    yield draft(LabelledText, text=shown, labels=kinds, supervision=supervision, **_group(row, group))


def item(
    row: Row,
    file: str,
    *,
    title: Column,
    category: Column = "",
    separator: str = "",
    attributes: Mapping[str, Column] | None = None,
    description: Column = "",
    group: tuple[str, str] = ("", ""),
) -> Iterator[Draft]:
    """Yields an `AttributedItem`; a row without a title is left out.

    Args:
        row: Fields of the row.
        file: Not used.
        title: Column of the title.
        category: Column of the category, "" for none.
        separator: Separator of the steps of a category path; "": the category is one step.
        attributes: Column of each attribute; empty ones are left out.
        description: Column of the description, "" for none.
        group: (prefix, column) if rows with the same product belong together.
    """
    shown = text_of(row, title, one_line)
    if not shown:
        raise LeftOut("no title")
    path = text_of(row, category, one_line) if category else ""
    steps = [one_line(step) for step in (path.split(separator) if separator else [path])]
    pairs = ((name, text_of(row, column, one_line)) for name, column in (attributes or {}).items())
    yield draft(
        AttributedItem,
        title=shown,
        category=tuple(filter(None, steps)),
        attributes=tuple(pair for pair in pairs if pair[1]),
        description=text_of(row, description, one_line) if description else "",
        **_group(row, group),
    )


def pair(row: Row, file: str, *, left: Column, right: Column, label: Column) -> Iterator[Draft]:
    """Yields a `TextPair` of three columns; a row with an empty one is malformed. The left text gives the group."""
    texts = {name: text_of(row, column, one_line) for name, column in (("left", left), ("right", right))}
    texts["label"] = text_of(row, label)
    if empty := [name for name, text in texts.items() if not text]:
        raise ValueError(f"{empty[0]}: empty")
    yield draft(TextPair, **texts)


def spanned(
    row: Row,
    file: str,
    *,
    text: str,
    spans: str,
    start: str | int = "start",
    end: str | int = "end",
    kind: str | int = "label",
    types: Mapping[str, str] | None = None,
) -> Iterator[Draft]:
    """Yields a `SpannedText` of a text and a list of spans in it.

    Args:
        row: Fields of the row.
        file: Not used.
        text: Column of the text; offsets refer to the unchanged text.
        spans: Column of the list; each element is an object or a list.
        start: Key or index of the offset of the first character.
        end: Key or index of the offset after the last character.
        kind: Key or index of the type.
        types: Name of each type; None: types are kept.
    """
    shown = field(row, text)
    found = [
        make_span(shown, each[start], each[end], types[each[kind]] if types else each[kind])
        for each in field(row, spans)
    ]
    yield draft(SpannedText, text=shown, spans=tuple(sorted(found, key=lambda span: span.start)))


def tagged(
    row: tuple[Sequence[str], Sequence[str]],
    file: str,
    *,
    types: Mapping[str, str] | Callable[[str], str] = str,
    joiner: str = "",
    supervision: str = "gold",
) -> Iterator[Draft]:
    """Yields a `SpannedText` of tokens and their BIO or BIOES tags.

    Args:
        row: Tokens and tags.
        file: Not used.
        types: Name of each type, or a function of it; by default types are kept.
        joiner: Text between tokens: "" for Chinese characters, " " for words.
        supervision: Of the record.
    """
    tokens, tags = row
    pieces = [joiner * (place > 0) + token for place, token in enumerate(tokens)]
    spans = bio_spans(pieces, tags, types if callable(types) else types.__getitem__)
    yield draft(SpannedText, text="".join(pieces), spans=spans, supervision=supervision)


def _group(row: Row, group: tuple[str, str]) -> dict[str, str]:
    prefix, column = group
    return {"group": f"{prefix}:{value}"} if column and (value := text_of(row, column)) else {}


def make_span(text: str, start: int, end: int, kind: str) -> Span:
    """Returns the span `text[start:end]` without blanks at its ends.

    Raises:
        ValueError: The offsets are outside the text or hold only blanks.
    """
    if not 0 <= start < end <= len(text):
        raise ValueError(f"span {start}:{end} is outside the text of {len(text)} characters")
    term = text[start:end]
    start += len(term) - len(term.lstrip())
    if not (term := term.strip()):
        raise ValueError(f"span {start}:{end} holds only blanks")
    return Span(start, start + len(term), kind, term)


def bio_spans(tokens: Sequence[str], tags: Sequence[str], kind: Callable[[str], str]) -> tuple[Span, ...]:
    """Returns the spans of BIO or BIOES tags over the tokens' concatenation; an I without a begun span begins one.

    Args:
        tokens: Characters (or longer pieces) whose concatenation is the text, each with its tag.
        tags: "O", "B-type", "I-type", "E-type" or "S-type".
        kind: Maps a tag's type to the span's; raises KeyError for an unknown one.

    Raises:
        ValueError: Unknown tag, or unequal lengths.
    """
    if len(tokens) != len(tags):
        raise ValueError(f"{len(tokens)} tokens but {len(tags)} tags")
    unknown = next((tag for tag in tags if not re.fullmatch(r"O|[BIES]-.+", tag)), None)
    if unknown is not None:
        raise ValueError(f"unknown tag {unknown!r}")
    text = "".join(tokens)
    spans: list[Span] = []
    start, current, position = 0, "", 0
    for token, tag in zip((*tokens, ""), (*tags, "O"), strict=True):
        if current and (tag[0] in "OBS" or tag[2:] != current):
            try:
                spans.append(make_span(text, start, position, kind(current)))
            except KeyError as error:
                raise ValueError(f"unknown tag type {error}") from error
            current = ""
        if tag != "O" and not current:
            start, current = position, tag[2:]
        position += len(token)
    return tuple(spans)


def find_spans(text: str, terms: Iterable[tuple[str, str]]) -> tuple[Span, ...]:
    """Returns a span for the first free occurrence of each (type, term), longest terms first, none overlapping."""
    taken = [False] * len(text)
    spans = []
    for kind, term in sorted(terms, key=lambda pair: -len(pair[1])):
        start = text.find(term) if term else -1
        while start >= 0 and any(taken[start : start + len(term)]):
            start = text.find(term, start + 1)
        if start >= 0:
            spans.append(Span(start, start + len(term), kind, term))
            taken[start : start + len(term)] = [True] * len(term)
    return tuple(sorted(spans, key=lambda span: span.start))


def join_tokens(tokens: Sequence[str], language: str) -> str:
    """Joins tokens by a blank, for Chinese only between two words in Latin letters or digits."""
    if language != "zh":
        return " ".join(tokens)
    joined = ""
    for token in tokens:
        apart = joined[-1:].isascii() and joined[-1:].isalnum() and token[:1].isascii() and token[:1].isalnum()
        joined += " " + token if apart else token
    return joined
