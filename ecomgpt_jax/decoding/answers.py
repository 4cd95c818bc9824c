"""The tokens that are allowed next in an answer of a given form.

A form is a grammar over the bytes of the answer's text (`forms.py`), and a token is allowed if its bytes continue the
grammar. So every split of an answer into tokens is allowed, including the tokenizer's own: a label after a separator
may have other tokens than the same label at the beginning, and a span may begin inside a token of the prompt. The
fewest tokens that complete an answer are known in each state, and a token that would leave no room for them is not
allowed.
"""

import copy
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ecomgpt_jax.decoding.forms import LONGEST_CHARACTER, Form, Reading, State
from ecomgpt_jax.errors import DataError


class Vocabulary:
    """The bytes of all tokens, sorted, so that tokens that fit a grammar are found without reading the others."""

    def __init__(self, token_bytes: Mapping[int, bytes]) -> None:
        """Sorts the bytes of each token that answers may contain, {id: bytes}."""
        pairs = sorted((text, index) for index, text in token_bytes.items() if text)
        self.texts, self.ids = [text for text, _ in pairs], [index for _, index in pairs]
        self.of_id = {index: text for text, index in pairs}
        self._ranges: dict[bytes, tuple[int, int]] = {b"": (0, len(pairs))}
        self._fewest: dict[bytes, int | float] = {b"": 0}
        self._most: dict[bytes, int] = {}
        # Results of `Answer`: the tokens allowed next, and the states after tokens.
        self.moves: dict[tuple, tuple[np.ndarray, list[tuple[int, State]]]] = {}
        self.steps: dict[tuple, State] = {}

    def within(self, low: int, high: int, prefix: bytes) -> tuple[int, int]:
        """Returns the range of the tokens that begin with `prefix`; [low, high): those with all but its last byte."""
        if prefix not in self._ranges:
            low = bisect_left(self.texts, prefix, low, high)
            if prefix[-1] < 255:
                high = bisect_left(self.texts, prefix[:-1] + bytes((prefix[-1] + 1,)), low, high)
            self._ranges[prefix] = low, high
        return self._ranges[prefix]

    def most(self, part: bytes) -> int:
        """Returns the maximum number of times that one token contains a text."""
        if part not in self._most:
            self._most[part] = max((text.count(part) for text in self.texts), default=0)
        return self._most[part]

    def fewest(self, text: bytes) -> int | float:
        """Returns the smallest number of tokens that spell a text; infinity if none do."""
        known, new, rest = self._fewest, [], text
        while rest not in known:  # the suffixes of a known text are known
            new.append(rest)
            rest = rest[1:]
        for rest in reversed(new):
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
    """One answer during decoding: the state after the tokens so far, and the tokens that are allowed next."""

    def __init__(self, form: Form, vocabulary: Vocabulary, max_new_tokens: int) -> None:
        """Begins an answer of at most `max_new_tokens` tokens, not counting the end-of-sequence token.

        Raises:
          DataError: no tokens spell the shortest answer, or too many are needed.
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
        """A key that distinguishes forms of the same prompt."""
        return repr(self._form)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._form.complete(self._state)

    def allowed(self) -> list[int]:
        """Returns the ids that are allowed next, besides the end-of-sequence token."""
        return sorted({index for piece in self.next_ids() for index in piece.tolist()})

    def next_ids(self) -> list[np.ndarray]:
        """Returns the ids of `allowed` as int32 arrays, which may overlap and are shared with other answers."""
        left, (spare, tail) = self._room - 1, self._form.longest_closing(self._state)
        spare += LONGEST_CHARACTER * self._vocabulary.most(self._form.separator.encode())  # terms inside one token
        far = left >= spare + max(self._vocabulary.fewest(tail[start:]) for start in range(len(tail) + 1))
        fixed, unsure = self._fixed(left, far)
        pieces, found = [fixed], [index for index, state in unsure if self._fits(state, left)]
        across: set[int] = set()  # the same for many readings; each is computed from the whole state
        for lead, reading in self._form.begun_spans(self._state):
            begun = self._begun_span(reading.text, lead)
            if begun.inside:
                pieces += self._inside(reading, begun, left, far)
            across |= begun.across
        for index in across:
            state = self._after(self._state, index)
            if state and (far or self._fits(state, left)):
                found.append(index)
        return [piece for piece in (*pieces, _array(found)) if len(piece)]

    def _fixed(self, left: int, far: bool) -> tuple[np.ndarray, list[tuple[int, State]]]:
        """Returns the tokens outside spans, and those whose answer only a span can complete within the limit.

        The latter come with their states. Answers whose forms differ only in their source share the result.
        """
        key = self._form.without_source(self._state)
        known = self._vocabulary.moves if key else {}
        key = key and (*key, None if far else left)
        if key not in known:
            moves = self._moves()
            sure = {index for index, state in moves if far or self._fits(_without_spans(state), left)}
            known[key] = _array(sure), [(index, state) for index, state in moves if index not in sure]
        return known[key]

    def _begun_span(self, span: bytes, lead: bytes) -> "_BegunSpan":
        """Returns the tokens allowed after a begun span, independent of the answer before it.

        Args:
          span: its text so far.
          lead: bytes with which each token must begin before it continues the span.
        """
        form, vocabulary = self._form, self._vocabulary
        if (span, lead) not in form.tokens_after:
            inside: dict[bytes, list[int]] = {}
            across, closing, texts = set(), set(), vocabulary.texts
            low, high = vocabulary.within(0, len(texts), lead)
            todo = [(b"", form.ends(span), low, high)] if low < high else []
            stops = {after[:1] for after in form.after_terms}
            while todo:
                prefix, ends, low, high = todo.pop()
                read = lead + prefix
                for stop in stops if prefix and form.is_span(span + prefix, ends[0]) else ():
                    after = range(*vocabulary.within(low, high, read + stop))
                    across |= {vocabulary.ids[at] for at in after if form.goes_on(texts[at][len(read) :])}
                for byte, longer in form.go_on(ends).items():
                    text = prefix + bytes((byte,))
                    first, last = vocabulary.within(low, high, lead + text)
                    while first < last and len(texts[first]) == len(lead + text):
                        inside.setdefault(span + text, []).append(vocabulary.ids[first])
                        if form.is_span(span + text, longer[0]):
                            closing.add(span + text)
                        first += 1
                    if first < last:
                        todo.append((text, longer, first, last))
            blank = {text for text in inside if form.is_blank(text)}
            others = inside.keys() - blank - closing
            ids = [_array(index for text in kind for index in inside[text]) for kind in (closing, others)]
            form.tokens_after[span, lead] = _BegunSpan(inside, across, blank, closing, others, *ids)
        return form.tokens_after[span, lead]

    def _inside(self, reading: Reading, begun: "_BegunSpan", left: int, far: bool) -> list[np.ndarray]:
        """Returns which tokens that only lengthen a begun span are allowed next, as several arrays."""
        form, said, inside = self._form, reading.used or (), begun.inside
        # The answer before the span matters only for beginnings of the terms in it, and for blanks.
        single = {term[:end] for term in said for end in range(len(reading.text), len(term) + 1)} & inside.keys()
        closing, others = begun.closing_ids, begun.other_ids
        if single:
            closing, others = (
                _array(index for text in kind - single for index in inside[text])
                for kind in (begun.closing, begun.others)
            )
        single |= begun.blank | (set() if far else begun.others)
        ended = far or self._fits(frozenset({Reading("end", reading.line, said)}), left)
        found: list[int] = []
        for text in single:
            if form.closes(text, said):
                allowed = ended
            else:
                state = frozenset({reading._replace(text=text)})
                allowed = form.may_follow(said, text) and (far or self._fits(state, left))
            if allowed:
                found += inside[text]
        return [*([closing] if ended else ()), *([others] if far else ()), _array(found)]

    def add(self, token: int) -> None:
        """Adds one token.

        Raises:
          DataError: it is not allowed.
        """
        state = self._after(self._state, token) if token in self._vocabulary.of_id else frozenset()
        if not state or self._room < 1:
            raise DataError(f"token {token} is not allowed here")
        self._state, self._room = state, self._room - 1

    def _after(self, state: State, token: int) -> State:
        key = self._form.labels and (*self._form.without_source(state), token)
        known = self._vocabulary.steps if key else {}
        if key not in known:
            for byte in self._vocabulary.of_id[token]:
                state = self._form.step(state, byte)
            known[key] = state
        return known[key]

    def _fits(self, state: State, tokens: int) -> bool:
        """Returns whether at most this many tokens complete an answer."""
        return any(self._vocabulary.fewest(text) <= tokens for text in self._form.closings(state))

    def _distance(self, state: State) -> int | float:
        return min(map(self._vocabulary.fewest, self._form.closings(state)), default=float("inf"))

    def _moves(self) -> list[tuple[int, State]]:
        """Returns (token, the state after it) for every token that does not enter a span."""
        found, texts = [], self._vocabulary.texts
        todo = [(self._state, b"", 0, len(texts))]
        while todo:
            before, prefix, low, high = todo.pop()
            before = _without_spans(before)
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


class _BegunSpan(NamedTuple):
    """The tokens allowed after a begun span, independent of the answer before it.

    Attributes:
      inside: {the span after a token: ids of that token}, for tokens that stay inside the span.
      across: the tokens in which the span may end.
      blank: keys of `inside` that are not a span by themselves.
      closing: keys that are complete spans.
      others: the other keys.
      closing_ids: int32, the ids of `closing`.
      other_ids: int32, the ids of `others`.
    """

    inside: dict[bytes, list[int]]
    across: set[int]
    blank: set[bytes]
    closing: set[bytes]
    others: set[bytes]
    closing_ids: np.ndarray
    other_ids: np.ndarray


def _array(ids: Iterable[int]) -> np.ndarray:
    return np.fromiter(ids, np.int32)


def _without_spans(state: State) -> State:
    return frozenset(reading for reading in state if reading.kind != "span")


class Begun:
    """The answers during decoding, by the number of their prompt."""

    def __init__(self, empty: Mapping[int, Answer | None]) -> None:
        """Takes the empty answer of each prompt, which is not changed; None if answers are free."""
        self._empty, self._begun, self._counts = empty, {}, {}

    def masks(self, indices: Sequence[int | None], eos_ids: Sequence[int], size: int) -> np.ndarray:
        """Returns which of `size` ids are allowed next in the row of each prompt, bool [rows, size].

        All of them for None and for free answers.

        Raises:
          DataError: an answer can neither continue nor end.
        """
        found, eos = np.ones((len(indices), size), np.bool_), np.asarray(eos_ids)
        for row, index in enumerate(indices):
            if (answer := self._answer(index)) is None:
                continue
            pieces = answer.next_ids() + ([eos] if answer.complete else [])
            if not pieces:
                raise DataError("a constrained answer can neither continue nor end")
            found[row] = False
            for piece in pieces:
                found[row, piece] = True
        return found

    def follow(self, indices: Sequence[int | None], tokens: np.ndarray, counts: np.ndarray) -> None:
        """Adds the newest token of each row; `counts` are the numbers of tokens per row, and -1 means no token."""
        for row, index in enumerate(indices):
            answer = self._answer(index)
            if answer is not None and counts[row] > self._counts.get(index, 0) and tokens[row] >= 0:
                answer.add(int(tokens[row]))
                self._counts[index] = int(counts[row])

    def _answer(self, index: int | None) -> Answer | None:
        if index is not None and index not in self._begun:
            self._begun[index] = copy.copy(self._empty[index])
        return None if index is None else self._begun[index]
