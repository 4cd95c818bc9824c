"""Typed records: the results of a source's reader, from which tasks are made.

Every record has an `id` (unique within its source and stable between builds), a `group` and a `language` ("en" or
"zh"). Records that share a product, query, cluster, dialogue or sentence share the group, so they are in one split;
other records use their id as group. Offsets are Python string indices.
"""

import dataclasses
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A part of a text: `text[start:end] == term`, of a named type."""

    start: int
    end: int
    type: str
    term: str


@dataclasses.dataclass(frozen=True, slots=True)
class AspectTuple:
    """One opinion: aspect, category, opinion words and polarity. An empty string means not annotated or implicit."""

    aspect: str
    category: str
    opinion: str
    polarity: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Fields of all records; `supervision` is "gold", "weak" (by rule), "pseudo" (a model) or "none" (unlabelled)."""

    id: str
    group: str
    language: str
    supervision: str = "gold"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText(Record):
    """A text with labels by label kind, for example {"intent": ("refund",), "category": ("ORDER",)}."""

    text: str
    labels: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpannedText(Record):
    """A text with typed spans, in order of `start`."""

    text: str
    spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AspectText(Record):
    """A review sentence with its aspect tuples; `domain` is the kind of product, if the source provides it."""

    text: str
    tuples: tuple[AspectTuple, ...]
    domain: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextPair(Record):
    """Two texts and their relation (`label`): two offers of a product, a query and a title, a question and evidence.

    If the source has fields, `left_attributes` and `right_attributes` are their (name, value), including empty values.
    """

    left: str
    right: str
    label: str
    left_attributes: tuple[tuple[str, str], ...] = ()
    right_attributes: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttributedItem(Record):
    """A product: title, category path from the root, (name, value) attributes in order, free description.

    An attribute with an empty value was annotated as having no value.
    """

    title: str
    category: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    description: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question(Record):
    """A question with its context; `answers` are free text, `spans` are in the context; both may be empty."""

    question: str
    context: str = ""
    answers: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    labels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue(Record):
    """A conversation as (speaker, text) turns with labels of the whole; `turn_labels` run parallel to the turns."""

    turns: tuple[tuple[str, str], ...]
    labels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    turn_labels: tuple[str, ...] = ()


class LeftOut(Exception):
    """Raised instead of yielding a row's records if the row is left out intentionally; states the reason."""


class Draft(NamedTuple):
    """A record without the fields that its source adds.

    Attributes:
      kind: its type.
      part: suffix after "#" in its id, if a row gives several records.
      fields: the known fields. Without `group`, records with the same first text share a group.
    """

    kind: type[Record]
    part: str
    fields: dict[str, Any]


def draft(kind: type[Record], part: str = "", /, **fields: Any) -> Draft:
    """Returns a draft of a record."""
    return Draft(kind, part, fields)
