"""Which tokens may come next in an answer of a given form: labels, spans of a text, or lines of them.

A form is a grammar over the bytes of the answer's text, and a token is allowed where its bytes go on along the grammar.
So an answer may be cut into tokens in any way, and the tokenizer's own way of writing it is always among them: a label
after a separator may have other tokens than the same label at the beginning, and a span may begin inside a token of the
prompt. A state is the set of all readings of the bytes so far, so a label that begins another is complete and goes on
at the same time. Each state knows the fewest tokens that complete its answer, and a token that would leave no room for
them is not allowed.
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ecomgpt_jax.errors import DataError

_LONGEST_CHARACTER = 4  # bytes in UTF-8


class _Reading(NamedTuple):
    """One way to read an answer's bytes.

    Attributes:
      kind: where it stands: in a "head", "label", "span", "nothing" or "separator", or at a term's "end".
      line: number of the line.
      used: the terms before this one in the line, sorted; None where no term may follow.
      text: what is being read, whole; of a span only what has been read of it.
      at: bytes of `text` that have been read.
    """

    kind: str
    line: int
    used: tuple[bytes, ...] | None
    text: bytes = b""
    at: int = 0


State = frozenset[_Reading]


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """What an answer looks like: for each of `heads` a line of terms that `separator` joins.

    A term is one of `labels`, each once per line, or where there are none a piece of one line of `source`, as often per
    line as it stands there. A span begins with no white space and is not made of the separator's characters alone.

    Attributes:
      separator: between two terms of a line.
      labels: the terms that there are, as they are written.
      source: the text whose spans are the terms.
      heads: what each line begins with; every one but the first begins with the line break.
      nothing: what may stand instead of a line's terms; empty: a line has at least one.
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

    def start(self) -> State:
        """Returns the state of an empty answer."""
        return self._literal("head", 0, (), self.heads[0].encode(), 0)

    def shortest(self) -> str:
        """Returns the answer with the fewest bytes; of one that begins with a blank, what comes after it."""
        return min(self.closings(self.start()), key=len).decode().lstrip(" ")

    def complete(self, state: State) -> bool:
        """Tells whether the answer may end here."""
        return any(reading.kind == "end" and reading.line == len(self.heads) - 1 for reading in state)

    def next_bytes(self, state: State) -> set[int]:
        """Returns every byte that some reading goes on with; `step` has the last word."""
        found: set[int] = set()
        for reading in state:
            if reading.kind == "span":
                found |= self._follow(reading.text)
            elif reading.kind == "end":
                found |= {self.separator.encode()[0]} if reading.used is not None else set()
                found |= {self._heads[reading.line + 1][0]} if reading.line + 1 < len(self.heads) else set()
            else:
                found.add(reading.text[reading.at])
        return found

    def step(self, state: State, byte: int) -> State:
        """Returns the state after one more byte, empty where the byte is not allowed."""
        found: set[_Reading] = set()
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
        """Yields texts that complete the answer, for each way of going on the shortest.

        Following one of them leads to a state that yields the rest of it.
        """
        for kind, line, used, text, at in state:
            rest, tail = text[at:], self._tails[line]
            if kind == "span":
                yield from (piece + tail for piece in self._shortest(text, used))
            elif kind == "separator":
                terms = [label for label in self._labels if label not in used] or self._shortest(b"", used)
                yield from (rest + term + tail for term in terms)
            else:  # the rest of a head, of a label or of the word for nothing; all of it is read at the end of a term
                yield rest + (self.nothing.encode() if kind == "head" else b"") + tail

    def longest_closing(self, state: State) -> tuple[int, bytes]:
        """Returns (bytes, text): no state one token on needs more to complete than so many bytes and then the text."""
        line = min(reading.line for reading in state)
        most = max((len(label) for label in self._labels), default=0)
        used = max(len(reading.used or ()) for reading in state)
        spare = max(most, _LONGEST_CHARACTER * (used + 2)) + len(self.separator.encode())
        return spare, self._heads[line] + self.nothing.encode() + self._tails[line]

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
        """White space and the characters of the separator, which are no span by themselves."""
        return b" \t\r\n\v\f" + self.separator.encode()

    @cached_property
    def _places(self) -> int:
        return sum(self._bytes[at : at + 1] not in self._idle for at in self._starts(b""))

    @cached_property
    def _tails(self) -> tuple[bytes, ...]:
        """What completes the answer after each line: the other lines without terms."""
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
    def _after(self) -> dict[tuple[bytes, bytes], tuple[dict[int, bytes], set[int]]]:
        return {}

    def begun_spans(self, state: State) -> Iterator[tuple[bytes, _Reading]]:
        """Yields the spans that a state is in, or that may begin after some more bytes, each with those bytes."""
        for reading in state if not self.labels else ():
            kind, line, used, text, at = reading
            if kind == "span":
                yield b"", reading
            elif kind in ("head", "separator"):
                yield text[at:], _Reading("span", line, used)
            elif kind == "end":
                if used is not None and self._has_more(used):
                    yield self.separator.encode(), _Reading("span", line, used)
                if line + 1 < len(self.heads):
                    yield self._heads[line + 1], _Reading("span", line + 1, ())

    def tokens_after(self, span: bytes, lead: bytes, vocabulary: "Vocabulary") -> tuple[dict[int, bytes], set[int]]:
        """Returns what may follow a begun span, whatever was said before it.

        Args:
          span: what has been read of it.
          lead: what each token has to begin with before it goes on with the span.
          vocabulary: of all tokens.

        Returns:
          {token: the span with it} for every token that stays inside a span, and the tokens in which one may end.
        """
        if (span, lead) not in self._after:
            inside, across, texts = {}, set(), vocabulary.texts
            todo = [(b"", *(vocabulary.within(0, len(texts), lead) if lead else (0, len(texts))))]
            ends = {self.separator.encode()[0], ord("\n")}
            while todo:
                prefix, low, high = todo.pop()
                if self.closes(span + prefix, ()):
                    for end in ends:
                        first, last = vocabulary.within(low, high, lead + prefix + bytes((end,)))
                        across |= set(vocabulary.ids[first:last]) if prefix else set()
                for byte in self._follow(span + prefix):
                    text = prefix + bytes((byte,))
                    first, last = vocabulary.within(low, high, lead + text)
                    while first < last and len(texts[first]) == len(lead + text):
                        inside[vocabulary.ids[first]] = span + text
                        first += 1
                    if first < last:
                        todo.append((text, first, last))
            self._after[span, lead] = inside, across
        return self._after[span, lead]

    @cached_property
    def _idle(self) -> bytes:
        """White space and the characters of the separator, which are no span by themselves."""
        return b" \t\r\n\v\f" + self.separator.encode()

    @cached_property
    def _tails(self) -> tuple[bytes, ...]:
        """What completes the answer after each line: the other lines without terms."""
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
    def _inside(self) -> dict[bytes, dict[int, bytes]]:
        return {}

    def spans_after(self, span: bytes, vocabulary: "Vocabulary") -> dict[int, bytes]:
        """Returns {token: the span with it} for every token that goes on inside a span, whatever was said before."""
        if span not in self._inside:
            found, todo, texts = {}, [(b"", 0, len(vocabulary.texts))], vocabulary.texts
            while todo:
                prefix, low, high = todo.pop()
                for byte in self._follow(span + prefix):
                    text = prefix + bytes((byte,))
                    first, last = vocabulary.within(low, high, text)
                    while first < last and len(texts[first]) == len(text):
                        found[vocabulary.ids[first]] = span + text
                        first += 1
                    if first < last:
                        todo.append((text, first, last))
            self._inside[span] = found
        return self._inside[span]

    def _literal(self, kind: str, line: int, used: tuple[bytes, ...], text: bytes, at: int) -> set[_Reading] | State:
        """Returns the readings after `at` bytes of a fixed text: at its end those of what follows it."""
        if at < len(text):
            return frozenset({_Reading(kind, line, used, text, at)})
        if kind == "label":
            return frozenset({_Reading("end", line, tuple(sorted((*used, text))))})
        if kind == "nothing":
            return frozenset({_Reading("end", line, None)})
        found = {_Reading("label", line, used, label) for label in self._labels if label not in used}
        if not self.labels:
            found.add(_Reading("span", line, used))
        if self.nothing and kind == "head":
            found.add(_Reading("nothing", line, used, self.nothing.encode()))
        return frozenset(found)

    def _starts(self, span: bytes) -> tuple[int, ...]:
        """Returns where in the source a span, or the beginning of one, stands."""
        known = self._known_starts
        if span not in known:
            before, last, text = self._starts(span[:-1]), len(span) - 1, self._bytes
            known[span] = tuple(at for at in before if at + last < len(text) and text[at + last] == span[-1])
        return known[span]

    def _follow(self, span: bytes) -> set[int]:
        ends = (at + len(span) for at in self._starts(span))
        return {self._bytes[end] for end in ends if end < len(self._bytes)} - {ord("\n")}

    def _span(self, line: int, used: tuple[bytes, ...], span: bytes) -> set[_Reading]:
        if span.endswith(b"\n") or not self._starts(span):
            return set()
        found = {_Reading("end", line, tuple(sorted((*used, span))))} if self.closes(span, used) else set()
        if not found and not self.may_follow(used, span):
            return set()
        return found | {_Reading("span", line, used, span)}

    def may_follow(self, used: tuple[bytes, ...], span: bytes) -> bool:
        """Tells whether a begun span can become one that may be said after the terms `used`."""
        if not any(term.startswith(span) for term in used) and span.strip(self._idle):
            return True
        return next(self._shortest(span, used), None) is not None

    def closes(self, span: bytes, used: tuple[bytes, ...]) -> bool:
        """Tells whether a span may end here: at the end of a character, and not said more often than it is there."""
        starts = self._starts(span)
        if not span or not starts:
            return False
        end = starts[0] + len(span)
        whole = end == len(self._bytes) or self._bytes[end] & 0xC0 != 0x80
        return whole and bool(span.strip(self._idle)) and used.count(span) < len(starts)

    def _shortest(self, span: bytes, used: tuple[bytes, ...]) -> Iterator[bytes]:
        """Yields what a begun span lacks to be one, for each of its places the shortest."""
        if self.closes(span, used):
            yield b""
            return
        seen, begun = set(), set()
        for at in self._starts(span):
            next_bytes = self._bytes[at + len(span) : at + len(span) + _LONGEST_CHARACTER]
            if not used and next_bytes in begun:
                continue
            begun.add(next_bytes)
            stop = self._bytes.find(b"\n", at)
            stop = len(self._bytes) if stop < 0 else stop
            ends = range(at + len(span) + 1, stop + 1)
            end = next((end for end in ends if self.closes(self._bytes[at:end], used)), None)
            if end and (rest := self._bytes[at + len(span) : end]) not in seen:
                seen.add(rest)
                yield rest

    def _has_more(self, used: tuple[bytes, ...]) -> bool:
        if self.labels:
            return len(used) < len(self.labels)
        # Each place of a character that may be a span is one occurrence, so fewer terms cannot have used all of them.
        return len(used) < self._places or next(self._shortest(b"", used), None) is not None


class Vocabulary:
    """The bytes of all tokens, sorted, so that those along a grammar are found without looking at the others."""

    def __init__(self, token_bytes: Mapping[int, bytes], size: int) -> None:
        """Takes the bytes of each token that answers may hold ({id: bytes}), and the number of ids of the model."""
        self.size = size
        pairs = sorted((text, index) for index, text in token_bytes.items() if text)
        self.texts, self.ids = [text for text, _ in pairs], [index for _, index in pairs]
        self.of_id = {index: text for text, index in pairs}
        self.longest = max(map(len, self.texts), default=0)
        self._fewest: dict[bytes, int | float] = {b"": 0}

    def within(self, low: int, high: int, prefix: bytes) -> tuple[int, int]:
        """Returns the range of the tokens in [low, high) that begin with `prefix`, of which all share what precedes."""
        low = bisect_left(self.texts, prefix, low, high)
        if prefix[-1] == 255:
            return low, high
        return low, bisect_left(self.texts, prefix[:-1] + bytes((prefix[-1] + 1,)), low, high)

    def fewest(self, text: bytes) -> int | float:
        """Returns the smallest number of tokens that write a text; infinity where none do."""
        known = self._fewest
        if text not in known:
            for at in range(len(text) - 1, -1, -1):
                if (rest := text[at:]) not in known:
                    known[rest] = 1 + min((known[rest[end:]] for end in self._lengths(rest)), default=float("inf"))
        return known[text]

    def _lengths(self, text: bytes) -> Iterator[int]:
        low, high = 0, len(self.texts)
        for end in range(1, len(text) + 1):
            low, high = self.within(low, high, text[:end])
            if low == high:
                return
            if len(self.texts[low]) == end:
                yield end


class Answer:
    """One answer as it is written: the state after the tokens so far, and what may come next."""

    def __init__(self, form: Form, vocabulary: Vocabulary, max_new_tokens: int) -> None:
        """Begins an answer of at most `max_new_tokens` tokens, of which those of an end-of-sequence token are none.

        Raises:
          DataError: the vocabulary has no way to write the shortest answer, or none that is short enough.
        """
        self._form, self._vocabulary, self._room = form, vocabulary, max_new_tokens
        self._state = form.start()
        least = self._distance(self._state)
        if least > max_new_tokens:
            raise DataError(
                f"the shortest answer that the task's form allows has {least} tokens; the limit is {max_new_tokens}"
            )

    @property
    def name(self) -> str:
        """What tells forms apart that the same prompt may have."""
        return repr(self._form)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._form.complete(self._state)

    def allowed(self) -> list[int]:
        """Returns the ids that may come next, beside the end of the sequence."""
        left, (spare, tail) = self._room - 1, self._form.longest_closing(self._state)
        far = left >= spare + self._vocabulary.longest + self._vocabulary.fewest(tail)
        found = {index for index, state in self._moves() if far or self._distance(state) <= left}
        for lead, reading in self._form.begun_spans(self._state):
            inside, across = self._form.tokens_after(reading.text, lead, self._vocabulary)
            found |= self._inside(reading, inside, left, far)
            for index in across - found:
                state = self._after(self._state, index)
                if state and (far or self._distance(state) <= left):
                    found.add(index)
        return sorted(found)

    def _inside(self, reading: _Reading, inside: Mapping[int, bytes], left: int, far: bool) -> set[int]:
        """Returns which of the tokens that only make a begun span longer may come next."""
        form, found, said = self._form, set(), reading.used or ()
        restricted = {term[:end] for term in said for end in range(len(reading.text), len(term) + 1)}
        ended = far or self._distance(frozenset({_Reading("end", reading.line, said)})) <= left
        for index, span in inside.items():
            if form.closes(span, said if span in restricted else ()):
                allowed = ended
            else:
                state = frozenset({reading._replace(text=span)})
                allowed = form.may_follow(said, span) and (far or self._distance(state) <= left)
            if allowed:
                found.add(index)
        return found

    def add(self, token: int) -> None:
        """Goes on with one token.

        Raises:
          DataError: it is not allowed.
        """
        state = self._after(self._state, token) if token in self._vocabulary.of_id else frozenset()
        if not state or self._room < 1:
            raise DataError(f"token {token} is not allowed here")
        self._state, self._room = state, self._room - 1

    def _after(self, state: State, token: int) -> State:
        for byte in self._vocabulary.of_id[token]:
            state = self._form.step(state, byte)
        return state

    def _distance(self, state: State) -> int | float:
        return min(map(self._vocabulary.fewest, self._form.closings(state)), default=float("inf"))

    def _moves(self) -> list[tuple[int, State]]:
        """Returns (token, the state after it) for every token that is read without entering a span."""
        found, texts = [], self._vocabulary.texts
        todo = [(self._state, b"", 0, len(texts))]
        while todo:
            before, prefix, low, high = todo.pop()
            before = frozenset(reading for reading in before if reading.kind != "span")
            for byte in self._form.next_bytes(before):
                text = prefix + bytes((byte,))
                first, last = self._vocabulary.within(low, high, text)
                after = self._form.step(before, byte) if first < last else None
                if not after:
                    continue
                while first < last and len(texts[first]) == len(text):
                    found.append((self._vocabulary.ids[first], after))
                    first += 1
                if first < last:
                    todo.append((after, text, first, last))
        return found


def masks(answers: Sequence[Answer | None], eos_ids: Sequence[int], size: int) -> np.ndarray:
    """Returns which of `size` ids each row may take next, bool [rows, size]; all of them where a row has no answer.

    Raises:
      DataError: a row may neither go on nor end.
    """
    found = np.zeros((len(answers), size), np.bool_)
    for row, answer in enumerate(answers):
        if answer is None:
            found[row] = True
            continue
        ids = answer.allowed() + (list(eos_ids) if answer.complete else [])
        if not ids:
            raise DataError("a constrained answer can neither go on nor end")
        found[row, ids] = True
    return found
