"""The tokens that may follow in an answer of a given form.

A form is a grammar over the bytes of the answer's text (`forms.py`), and a token is allowed where its bytes continue
the grammar. So an answer may be cut into tokens in any way, and the tokenizer's own way of writing it is always among
them: a label after a separator may have other tokens than the same label at the beginning, and a span may begin inside
a token of the prompt. Each state knows the fewest tokens that complete its answer, and a token that would leave no room
for them is not allowed.
"""

import copy
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ecomgpt_jax.decoding.forms import Form, Reading, State
from ecomgpt_jax.errors import DataError


class Vocabulary:
    """The bytes of all tokens, sorted, so that those along a grammar are found without looking at the others."""

    def __init__(self, token_bytes: Mapping[int, bytes]) -> None:
        """Takes the bytes of each token that answers may hold, {id: bytes}."""
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
    """One answer during decoding: the state after the tokens so far, and the tokens that may follow."""

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
        """A key that distinguishes forms of the same prompt."""
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
            inside, across = self._tokens_after(reading.text, lead)
            found |= self._inside(reading, inside, left, far)
            for index in across - found:
                state = self._after(self._state, index)
                if state and (far or self._distance(state) <= left):
                    found.add(index)
        return sorted(found)

    def _tokens_after(self, span: bytes, lead: bytes) -> tuple[dict[int, bytes], set[int]]:
        """Returns what may follow a begun span, whatever was said before it.

        Args:
          span: what has been read of it.
          lead: what each token has to begin with before it goes on with the span.

        Returns:
          {token: the span with it} for every token that stays inside a span, and the tokens in which one may end.
        """
        form, vocabulary = self._form, self._vocabulary
        if (span, lead) not in form.tokens_after:
            inside, across, texts = {}, set(), vocabulary.texts
            todo = [(b"", *(vocabulary.within(0, len(texts), lead) if lead else (0, len(texts))))]
            ends = {form.separator.encode()[0], ord("\n")}
            while todo:
                prefix, low, high = todo.pop()
                if form.closes(span + prefix, ()):
                    for end in ends:
                        first, last = vocabulary.within(low, high, lead + prefix + bytes((end,)))
                        across |= set(vocabulary.ids[first:last]) if prefix else set()
                for byte in form.follow(span + prefix):
                    text = prefix + bytes((byte,))
                    first, last = vocabulary.within(low, high, lead + text)
                    while first < last and len(texts[first]) == len(lead + text):
                        inside[vocabulary.ids[first]] = span + text
                        first += 1
                    if first < last:
                        todo.append((text, first, last))
            form.tokens_after[span, lead] = inside, across
        return form.tokens_after[span, lead]

    def _inside(self, reading: Reading, inside: Mapping[int, bytes], left: int, far: bool) -> set[int]:
        """Returns which of the tokens that only make a begun span longer may come next."""
        form, found, said = self._form, set(), reading.used or ()
        restricted = {term[:end] for term in said for end in range(len(reading.text), len(term) + 1)}
        ended = far or self._distance(frozenset({Reading("end", reading.line, said)})) <= left
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
        """Adds one token.

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


class Begun:
    """The answers during decoding, by the number of their prompt."""

    def __init__(self, empty: Mapping[int, Answer | None]) -> None:
        """Takes for each prompt its empty answer, which stays as it is; None where anything may be said."""
        self._empty, self._begun, self._counts = empty, {}, {}

    def masks(self, indices: Sequence[int | None], eos_ids: Sequence[int], size: int) -> np.ndarray:
        """Returns which of `size` ids may come next in the row of each prompt, bool [rows, size].

        All of them for None and for unrestricted answers.

        Raises:
          DataError: an answer can neither continue nor end.
        """
        found = np.ones((len(indices), size), np.bool_)
        for row, index in enumerate(indices):
            if (answer := self._answer(index)) is None:
                continue
            ids = answer.allowed() + (list(eos_ids) if answer.complete else [])
            if not ids:
                raise DataError("a constrained answer can neither go on nor end")
            found[row] = False
            found[row, ids] = True
        return found

    def follow(self, indices: Sequence[int | None], tokens: np.ndarray, counts: np.ndarray) -> None:
        """Adds the newest token of each row; `counts` are the tokens that rows have, and -1 is no token."""
        for row, index in enumerate(indices):
            answer = self._answer(index)
            if answer is not None and counts[row] > self._counts.get(index, 0) and tokens[row] >= 0:
                answer.add(int(tokens[row]))
                self._counts[index] = int(counts[row])

    def _answer(self, index: int | None) -> Answer | None:
        if index is not None and index not in self._begun:
            self._begun[index] = copy.copy(self._empty[index])
        return None if index is None else self._begun[index]
