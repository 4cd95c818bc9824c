"""The forms of answers as grammars over bytes: labels, spans of a text, or lines of them.

A state is the set of all readings of the bytes so far, so a label that is a prefix of another is complete and can
continue at the same time.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from ecomgpt_jax.errors import DataError

LONGEST_CHARACTER = 4  # bytes in UTF-8
_KNOWN = 1_024  # begun spans whose shortest ends are cached


class Reading(NamedTuple):
    """One way to read an answer's bytes.

    Attributes:
      kind: the position: in a "head", "label", "span", "nothing" or "separator", or at a term's "end".
      line: number of the line.
      used: the terms before this one in the line, sorted; None if no term may follow.
      text: the whole text being read; of a span only the part read so far.
      at: bytes of `text` read so far.
    """

    kind: str
    line: int
    used: tuple[bytes, ...] | None
    text: bytes = b""
    at: int = 0


State = frozenset[Reading]


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """The form of an answer: for each of `heads` a line of terms joined by `separator`.

    A term is one of `labels`, each once per line, or if there are none a piece of one line of `source`, at most as
    often as it occurs there. A span does not begin with white space and has characters other than the separator's.

    Attributes:
      separator: between two terms of a line.
      labels: the possible terms.
      source: the text whose spans are the terms.
      heads: the beginning of each line; every one but the first starts with the line break.
      nothing: the text that may replace a line's terms; empty: a line has at least one.
    """

    separator: str
    labels: tuple[str, ...] = ()
    source: str = ""
    heads: tuple[str, ...] = ("",)
    nothing: str = ""

    def __post_init__(self) -> None:
        if not all(label.strip() for label in self.labels) or len(set(self.labels)) < len(self.labels):
            raise DataError(f"candidates must be texts that differ and are not blank, not {list(self.labels)!r}")
        if not (self.labels or self.nothing or self._places):
            raise DataError("a constrained answer needs candidates, or an input to take spans from; there are none")

    def bytes_used(self) -> set[int]:
        """Returns the bytes that answers may contain."""
        texts = (self.separator, self.source, self.nothing, *self.labels, *self.heads)
        return set("".join(texts).encode())

    def start(self) -> State:
        """Returns the state of an empty answer."""
        return self._literal("head", 0, (), self.heads[0].encode(), 0)

    def shortest(self) -> str:
        """Returns the answer with the fewest bytes, without a leading blank."""
        return min(self.closings(self.start()), key=len).decode().lstrip(" ")

    def complete(self, state: State) -> bool:
        """Returns whether the answer may end here."""
        return any(reading.kind == "end" and reading.line == len(self.heads) - 1 for reading in state)

    def next_bytes(self, state: State) -> set[int]:
        """Returns every byte with which some reading may continue; `step` may still reject it."""
        found: set[int] = set()
        for reading in state:
            if reading.kind == "span":
                found |= self.go_on(self.ends(reading.text)).keys()
            elif reading.kind == "end":
                found |= {self.separator.encode()[0]} if reading.used is not None else set()
                found |= {self._heads[reading.line + 1][0]} if reading.line + 1 < len(self.heads) else set()
            else:
                found.add(reading.text[reading.at])
        return found

    def step(self, state: State, byte: int) -> State:
        """Returns the state after one more byte; empty if the byte is not allowed."""
        found: set[Reading] = set()
        for reading in state:
            kind, line, used, text, at = reading
            if kind == "span":
                found |= self._span(line, used, text + bytes((byte,)))
            elif kind != "end":
                found |= self._literal(kind, line, used, text, at + 1) if text[at] == byte else set()
            else:
                if used is not None and byte == self.separator.encode()[0] and self._has_more(used):
                    found |= self._literal("separator", line, used, self.separator.encode(), 1)
                if line + 1 < len(self.heads) and byte == self._heads[line + 1][0]:
                    found |= self._literal("head", line + 1, (), self._heads[line + 1], 1)
        return frozenset(found)

    def closings(self, state: State) -> Iterator[bytes]:
        """Yields texts that complete the answer, the shortest for each possible continuation.

        After a part of such a text its rest is yielded.
        """
        for kind, line, used, text, at in state:
            rest, tail = text[at:], self._tails[line]
            if kind == "span":
                yield from (piece + tail for piece in self._all_shortest(text, used))
            elif kind == "separator":
                terms = [label for label in self._labels if label not in used] or self._all_shortest(b"", used)
                yield from (rest + term + tail for term in terms)
            else:  # the rest of a head, of a label or of `nothing`; at the end of a term nothing is left
                yield rest + (self.nothing.encode() if kind == "head" else b"") + tail

    def longest_closing(self, state: State) -> tuple[int, bytes]:
        """Returns (bytes, text): after any one more token the answer needs at most these bytes and the text."""
        line = min(reading.line for reading in state)
        used = max(len(set(reading.used or ())) for reading in state)  # a span is longer than its used beginnings
        spare = max(self._longest_label, LONGEST_CHARACTER * (used + 2)) + len(self.separator.encode())
        return spare, self._heads[line] + self.nothing.encode() + self._tails[line]

    def without_source(self, state: State) -> tuple | None:
        """Returns a key of the continuations outside spans; None if they depend on the source."""
        if self.labels or all(kind in ("head", "nothing") or used is None for kind, _, used, _, _ in state):
            return self.separator, self.labels, self.heads, self.nothing, state
        return None

    def is_blank(self, span: bytes) -> bool:
        """Returns whether a span consists of white space and characters of the separator."""
        return not span.strip(self._idle)

    @cached_property
    def _longest_label(self) -> int:
        return max(map(len, self._labels), default=0)

    @cached_property
    def _heads(self) -> tuple[bytes, ...]:
        return tuple(head.encode() for head in self.heads)

    @cached_property
    def _labels(self) -> tuple[bytes, ...]:
        return tuple(label.encode() for label in self.labels)

    @cached_property
    def _bytes(self) -> bytes:
        return self.source.encode()

    @cached_property
    def _idle(self) -> bytes:
        """White space and the characters of the separator, which alone are not a span."""
        return b" \t\r\n\v\f" + self.separator.encode()

    @cached_property
    def _places(self) -> int:
        return sum(self._bytes[at : at + 1] not in self._idle for at in self._starts(b""))

    @cached_property
    def _tails(self) -> tuple[bytes, ...]:
        """The texts that complete the answer after each line: the remaining lines without terms."""
        rest = [head + self.nothing.encode() for head in self._heads]
        return tuple(b"".join(rest[line + 1 :]) for line in range(len(rest)))

    @cached_property
    def _known_starts(self) -> dict[bytes, tuple[int, ...]]:
        places, at = [], 0
        for character in self.source:
            if not character.isspace():
                places.append(at)
            at += len(character.encode())
        return {b"": tuple(places)}

    @cached_property
    def _known_shortest(self) -> dict[tuple[bytes, tuple[bytes, ...]], tuple[bytes, ...]]:
        return {}

    @cached_property
    def tokens_after(self) -> dict[tuple[bytes, bytes], Any]:
        """Cache of `Answer` for the tokens after begun spans; copies of an answer share it."""
        return {}

    def begun_spans(self, state: State) -> Iterator[tuple[bytes, Reading]]:
        """Yields the spans of a state, and those that may begin after some more bytes, each with these bytes."""
        for reading in state if not self.labels else ():
            kind, line, used, text, at = reading
            if kind == "span":
                yield b"", reading
            elif kind in ("head", "separator"):
                yield text[at:], Reading("span", line, used)
            elif kind == "end":
                if used is not None and self._has_more(used):
                    yield self.separator.encode(), Reading("span", line, used)
                if line + 1 < len(self.heads):
                    yield self._heads[line + 1], Reading("span", line + 1, ())

    def goes_on(self, text: bytes) -> bool:
        """Returns whether a text can follow a term: it or a separator or head of a line begins with the other."""
        return any(text.startswith(after) or after.startswith(text) for after in self.after_terms)

    @cached_property
    def after_terms(self) -> tuple[bytes, ...]:
        """The texts that may follow a term: the separator, or the head of a later line."""
        return (self.separator.encode(), *self._heads[1:])

    def _literal(self, kind: str, line: int, used: tuple[bytes, ...], text: bytes, at: int) -> set[Reading] | State:
        """Returns the readings after `at` bytes of a fixed text; at its end those of the texts after it."""
        if at < len(text):
            return frozenset({Reading(kind, line, used, text, at)})
        if kind == "label":
            return frozenset({Reading("end", line, tuple(sorted((*used, text))))})
        if kind == "nothing":
            return frozenset({Reading("end", line, None)})
        found = {Reading("label", line, used, label) for label in self._labels if label not in used}
        if not self.labels:
            found.add(Reading("span", line, used))
        if self.nothing and kind == "head":
            found.add(Reading("nothing", line, used, self.nothing.encode()))
        return frozenset(found)

    def _starts(self, span: bytes) -> tuple[int, ...]:
        """Returns the positions in the source at which a span, or the beginning of one, occurs."""
        known = self._known_starts
        if span not in known:
            before, last, text = self._starts(span[:-1]), len(span) - 1, self._bytes
            known[span] = tuple(at for at in before if at + last < len(text) and text[at + last] == span[-1])
        return known[span]

    def ends(self, span: bytes) -> list[int]:
        """Returns the positions in the source at which a span, or the beginning of one, ends."""
        return [at + len(span) for at in self._starts(span)]

    def go_on(self, ends: Sequence[int]) -> dict[int, list[int]]:
        """Returns {byte that may continue a span that ends at one of `ends`: its new ends}."""
        found: dict[int, list[int]] = {}
        for end in ends:
            if end < len(self._bytes) and self._bytes[end] != ord("\n"):
                found.setdefault(self._bytes[end], []).append(end + 1)
        return found

    def _span(self, line: int, used: tuple[bytes, ...], span: bytes) -> set[Reading]:
        if span.endswith(b"\n") or not self._starts(span):
            return set()
        found = {Reading("end", line, tuple(sorted((*used, span))))} if self.closes(span, used) else set()
        if not found and not self.may_follow(used, span):
            return set()
        return found | {Reading("span", line, used, span)}

    def may_follow(self, used: tuple[bytes, ...], span: bytes) -> bool:
        """Returns whether a begun span can become one that is allowed after the terms `used`."""
        if not any(term.startswith(span) for term in used) and not self.is_blank(span):
            return True
        return next(self._shortest(span, used), None) is not None

    def closes(self, span: bytes, used: tuple[bytes, ...]) -> bool:
        """Returns whether a span may end here: at the end of a character, and not used more often than it occurs."""
        starts = self._starts(span)
        return bool(starts) and self.is_span(span, starts[0] + len(span)) and used.count(span) < len(starts)

    def is_span(self, text: bytes, end: int) -> bool:
        """Returns whether a piece of the source that ends at `end` is a span: whole characters that are not blank."""
        return (end == len(self._bytes) or self._bytes[end] & 0xC0 != 0x80) and not self.is_blank(text)

    def _shortest(self, span: bytes, used: tuple[bytes, ...]) -> Iterator[bytes]:
        """Yields the bytes that complete a begun span, the fewest for each of its positions."""
        if self.closes(span, used):
            yield b""
            return
        seen: set[bytes] = set()
        for at in self._starts(span):
            first = at + len(span) + 1
            while self._bytes[first : first + 1] and self._bytes[first] & 0xC0 == 0x80:
                first += 1
            if self._bytes[at + len(span) : first] in seen:  # a character that completes it at another position
                continue
            stop = self._bytes.find(b"\n", at)
            stop = len(self._bytes) if stop < 0 else stop
            ends = range(first, stop + 1)
            end = next((end for end in ends if self.closes(self._bytes[at:end], used)), None)
            if end and (rest := self._bytes[at + len(span) : end]) not in seen:
                seen.add(rest)
                yield rest

    def _all_shortest(self, span: bytes, used: tuple[bytes, ...]) -> Iterator[bytes]:
        """Yields `_shortest`, which is used repeatedly for the allowed tokens; cached once all are read."""
        known = self._known_shortest
        if (span, used) in known:
            yield from known[span, used]
            return
        found = []
        for rest in self._shortest(span, used):
            found.append(rest)
            yield rest
        if len(known) > _KNOWN:
            known.clear()
        known[span, used] = tuple(found)

    def _has_more(self, used: tuple[bytes, ...]) -> bool:
        if self.labels:
            return len(used) < len(self.labels)
        # Each position of a character that may be a span is one occurrence, so fewer terms cannot use all of them.
        return len(used) < self._places or next(self._shortest(b"", used), None) is not None
