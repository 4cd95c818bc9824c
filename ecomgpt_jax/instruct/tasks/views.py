"""Views: functions from a source's records to the records that a dataset's tasks read (`Dataset.view`).

A view keeps each record's id and group, so provenance and splits do not change. It is applied to the records of one
split, so pairs that it makes never cross splits.
"""

import dataclasses
import hashlib
import html
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from ecomgpt_jax.instruct.records import (
    AspectText,
    AttributedItem,
    Dialogue,
    LabelledText,
    Question,
    Record,
    Span,
    SpannedText,
    TextPair,
)
from ecomgpt_jax.instruct.sources.fields import find_spans
from ecomgpt_jax.instruct.sources.rows import one_line

View = Callable[[Iterable[Record]], Iterator[Record]]
TOGETHER = "match"  # the label of pairs from a view: the default of `Dataset.positive`
_WORD = re.compile(r"\w")


def each(kind: type[Record], change: Callable[[Any], Record | None]) -> View:
    """Returns the view that yields `change(record)` for each record of one type, skipping None."""

    def view(records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            changed = change(record) if isinstance(record, kind) else None
            if changed is not None:
                yield changed

    return view


def _as(kind: type[Record], record: Record, **fields: Any) -> Record:
    common = {name: getattr(record, name) for name in ("id", "group", "language", "supervision")}
    return kind(**common, **fields)


def trimmed(records: Iterable[Record]) -> Iterator[Record]:
    """Texts without blanks at their ends; offsets of spans are adjusted."""
    for record in records:
        if isinstance(record, SpannedText):
            before = len(record.text) - len(record.text.lstrip())
            spans = tuple(Span(s.start - before, s.end - before, s.type, s.term) for s in record.spans)
            yield dataclasses.replace(record, text=record.text.strip(), spans=spans)
        elif isinstance(record, AspectText | LabelledText):
            yield dataclasses.replace(record, text=record.text.strip())


def thinned(label: str, share: float) -> View:
    """Pairs, keeping only a share of one label, the same in every build."""

    def change(record: TextPair) -> TextPair | None:
        digest = hashlib.blake2b(record.id.encode(), digest_size=4).digest()
        return None if record.label == label and int.from_bytes(digest, "big") >= share * 2**32 else record

    return each(TextPair, change)


def relabelled(labels: Mapping[str, str]) -> View:
    """Pairs with other labels; a pair whose label is not named is left out."""
    return each(TextPair, lambda r: dataclasses.replace(r, label=labels[r.label]) if r.label in labels else None)


def with_attributes(names: Mapping[str, str]) -> View:
    """Items with the named attributes only, under the names given."""

    def change(record: AttributedItem) -> AttributedItem:
        kept = tuple((names[name], value) for name, value in record.attributes if name in names)
        return dataclasses.replace(record, attributes=kept)

    return each(AttributedItem, change)


def rooted(level: int) -> View:
    """Items with the category path cut after `level` steps."""
    return each(AttributedItem, lambda r: dataclasses.replace(r, category=r.category[:level]))


def without_boilerplate(mark: str) -> View:
    """Items without descriptions that contain a shop's boilerplate phrase."""
    return each(AttributedItem, lambda r: dataclasses.replace(r, description="") if mark in r.description else r)


def chained(first: View, second: View) -> View:
    """Returns the view that applies the second view to what the first yields."""
    return lambda records: second(first(records))


def titles(level: int = -1, labels: Collection[str] = ()) -> View:
    """Titles as texts, labelled with a step of the category path ("category") and its root ("department").

    Args:
      level: index of the step; titles whose path is shorter are left out.
      labels: the steps to keep; empty = all.
    """

    def change(record: AttributedItem) -> LabelledText | None:
        path = record.category
        if len(path) < max(level + 1, 1) or (labels and path[level] not in labels):
            return None
        return _as(LabelledText, record, text=record.title, labels={"category": (path[level],), "department": path[:1]})

    return each(AttributedItem, change)


def spanned(field: str, names: Mapping[str, str] | None = None) -> View:
    """The title or description of items with the attribute values found in it as spans, named ones or all."""

    def change(record: AttributedItem) -> SpannedText | None:
        text = getattr(record, field)
        pairs = record.attributes
        if names is not None:
            pairs = tuple((names[name], value) for name, value in pairs if name in names)
        spans = find_spans(text, dict.fromkeys(pairs))
        return _as(SpannedText, record, text=text, spans=spans) if spans else None

    return each(AttributedItem, change)


def described(names: Mapping[str, str] | None = None, title: str = "") -> View:
    """Items as pairs: the attributes, one line, and the description; `title` is the name of the title, if used."""

    def change(record: AttributedItem) -> TextPair | None:
        pairs = [(title, record.title)] if title else []
        pairs += [((names or {}).get(name, name), value) for name, value in record.attributes if value]
        left = "; ".join(f"{name}: {value}" for name, value in pairs)
        if not left or not record.description:
            return None
        return _as(TextPair, record, left=left, right=record.description, label=TOGETHER)

    return each(AttributedItem, change)


def canonical(name: str) -> View:
    """Items as pairs: the title, and the value of one attribute."""

    def change(record: AttributedItem) -> TextPair | None:
        value = dict(record.attributes).get(name, "")
        return _as(TextPair, record, left=record.title, right=value, label=TOGETHER) if value else None

    return each(AttributedItem, change)


def named_values(records: Iterable[Record]) -> Iterator[Record]:
    """Pairs of values whose label is their attribute: the label is added to the left text."""

    def change(record: TextPair) -> TextPair | None:
        left = f"{record.label}: {record.left}"
        return dataclasses.replace(record, left=left, label=TOGETHER) if record.left != record.right else None

    return each(TextPair, change)(records)


def labels_paired(kind: str) -> View:
    """Labelled texts as pairs: the text, and its label of that kind."""

    def change(record: LabelledText) -> TextPair | None:
        found = record.labels.get(kind)
        return _as(TextPair, record, left=record.text, right=found[0], label=TOGETHER) if found else None

    return each(LabelledText, change)


def labels_found(kinds: Collection[str]) -> View:
    """Labelled texts as spanned ones: the labels that occur in the text."""

    def change(record: LabelledText) -> SpannedText | None:
        pairs = [(kind, label) for kind in kinds for label in record.labels.get(kind, ())]
        whole = [(kind, label) for kind, label in pairs if _stands_alone(record.text, label)]
        spans = find_spans(record.text, whole)
        return _as(SpannedText, record, text=record.text, spans=spans) if spans else None

    return each(LabelledText, change)


def without_label(kind: str, label: str) -> View:
    """Labelled texts without those that have one label of a kind."""
    return each(LabelledText, lambda r: None if label in r.labels.get(kind, ()) else r)


def unescaped(records: Iterable[Record]) -> Iterator[Record]:
    """Labelled texts with their character references resolved."""
    return each(LabelledText, lambda r: dataclasses.replace(r, text=one_line(html.unescape(r.text))))(records)


def neighbours(records: Iterable[Record]) -> Iterator[Record]:
    """Items and labelled texts as pairs: two of one group ("same"), each followed by a pair with the previous group
    ("different"). Groups are in the source's order: neighbours are
    alike.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if isinstance(record, AttributedItem | LabelledText):
            groups.setdefault(record.group, []).append(record)
    before: list[Record] = []
    for members in groups.values():
        for place, (left, right) in enumerate(zip(members[::2], members[1::2], strict=False)):
            yield _pair(left, right, "same")
            if before:
                yield _pair(left, before[place % len(before)], "different")
        before = members


def _pair(left: Record, right: Record, label: str) -> TextPair:
    return _as(TextPair, left, left=_text(left), right=_text(right), label=label)


def _text(record: Record) -> str:
    return record.title if isinstance(record, AttributedItem) else record.text


def of_domains(*names: str) -> View:
    """Aspect texts of some domains."""
    return each(AspectText, lambda r: r if r.domain in names else None)


def without_categories(*names: str) -> View:
    """Aspect texts of some domains (of all if none is given) with terms and polarities only."""

    def change(record: AspectText) -> AspectText | None:
        if names and record.domain not in names:
            return None
        kept = tuple(dataclasses.replace(t, category="") for t in record.tuples if t.aspect or t.opinion)
        return dataclasses.replace(record, tuples=kept)

    return each(AspectText, change)


def judged_aspects(records: Iterable[Record]) -> Iterator[Record]:
    """Aspect texts with only those aspects that occur in the text as words and have a polarity."""

    def change(record: AspectText) -> AspectText:
        kept = [t for t in record.tuples if t.aspect and t.polarity and _stands_alone(record.text, t.aspect)]
        tuples = tuple(dataclasses.replace(t, category="") for t in kept)
        return dataclasses.replace(record, text=record.text.lstrip("# "), tuples=tuples)

    return each(AspectText, change)(records)


def by_domain(shortest: int) -> View:
    """Aspect texts as labelled ones ("domain"), without texts below `shortest` characters."""

    def change(record: AspectText) -> LabelledText | None:
        if len(record.text) < shortest:
            return None
        return _as(LabelledText, record, text=record.text, labels={"domain": (record.domain,)})

    return each(AspectText, change)


def answered(records: Iterable[Record]) -> Iterator[Record]:
    """Questions as pairs: the question and its answer."""

    def change(record: Question) -> TextPair | None:
        if not record.answers:
            return None
        return _as(TextPair, record, left=record.question, right=record.answers[0], label=TOGETHER)

    return each(Question, change)(records)


def questions_labelled(*parts: str) -> View:
    """Questions as labelled texts: the named parts ("question", "context", "answer"), each with its name if several."""

    def change(record: Question) -> LabelledText:
        texts = {
            "question": record.question,
            "context": record.context,
            "answer": record.answers[0] if record.answers else "",
        }
        lines = [f"{part.capitalize()}: {texts[part]}" for part in parts]
        text = "\n".join(lines) if len(parts) > 1 else texts[parts[0]]
        return _as(LabelledText, record, text=text, labels=record.labels)

    return each(Question, change)


def speakers(names: Mapping[str, str]) -> View:
    """Dialogues with renamed speakers, without the one-letter turns in upstream's files."""

    def change(record: Dialogue) -> Dialogue:
        kept = [place for place, (_, text) in enumerate(record.turns) if len(text) > 1]
        return dataclasses.replace(
            record,
            turns=tuple(
                (names.get(record.turns[place][0], record.turns[place][0]), record.turns[place][1]) for place in kept
            ),
            turn_labels=tuple(record.turn_labels[place] for place in kept) if record.turn_labels else (),
        )

    return each(Dialogue, change)


def acts(records: Iterable[Record]) -> Iterator[Record]:
    """Pairs of slots and sentence as labelled texts: the sentence with its "act"."""
    return each(TextPair, lambda r: _as(LabelledText, r, text=r.right, labels={"act": (r.label,)}))(records)


def _stands_alone(text: str, term: str) -> bool:
    """Returns whether the first occurrence of a term is not part of a longer word."""
    start = text.find(term)
    if start < 0 or not term:
        return False
    end = start + len(term)
    return not (_WORD.match(text[start - 1 : start]) or _WORD.match(text[end : end + 1]))


def swapped(view: View) -> View:
    """The pairs of a view with left and right exchanged."""

    def exchanged(records: Iterable[Record]) -> Iterator[Record]:
        for record in view(records):
            yield dataclasses.replace(record, left=record.right, right=record.left)

    return exchanged
