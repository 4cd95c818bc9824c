"""Decodes tokens to text incrementally: holds back incomplete characters, and ends at stop strings."""

import re
from collections.abc import Sequence

from ecomgpt_jax.data.tokenizer import Tokenizer

_HALF = "\ufffd"  # decoding of an incomplete character
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece token of one byte, whose text depends on its neighbours
_CONTEXT = 8  # tokens decoded again with new ones, since the text of a token may depend on those before it


class AnswerText:
    """The text of one answer while its tokens arrive.

    The joined results of `push` and `finish` equal `Tokenizer.decode` of all ids up to the earliest stop string in it.
    If one token completes several, the one that begins first is used.

    Attributes:
      stopped: a stop string was found; `push` must not be called again.
      length: characters of the text so far, including those held back.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._ids: list[int] = []
        self._complete = [0]  # token counts without an incomplete character; decoding starts at the first
        self._held = ""  # whole characters that may be the beginning of a stop string
        self.stopped, self.length = False, 0

    def push(self, index: int) -> str:
        """Adds a token and returns the text that is final."""
        self._ids.append(index)
        start, end = self._complete[0], self._complete[-1]
        before, text = (self._tokenizer.decode(self._ids[start:stop]) for stop in (end, len(self._ids)))
        held = before if end == len(self._ids) - 1 else self._tokenizer.decode(self._ids[start:-1])
        if text == held:  # a token without text does not make the text before it final
            return ""
        if text.endswith(_HALF) or BYTE_TOKEN.fullmatch(self._tokenizer.backend.id_to_token(index) or ""):
            return ""
        self._complete.append(len(self._ids))
        while len(self._complete) > 2 and len(self._ids) - self._complete[1] >= _CONTEXT:
            del self._complete[0]
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """Returns the rest of the text; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        start, end = self._complete[0], self._complete[-1]
        before, text = (self._tokenizer.decode(self._ids[start:stop]) for stop in (end, len(self._ids)))
        rest = text[len(before) :]
        whole = rest.rstrip(_HALF)  # a stop string never ends inside a character
        said = self._release(whole)
        if not self.stopped:
            said, self._held = said + self._held + rest[len(whole) :], ""
            self.length += len(rest) - len(whole)
        return said

    def _release(self, text: str) -> str:
        pending = self._held + text
        self.length += len(text)
        found = [at for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return pending[: min(found)]
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        tails = (pending[-size:] for size in range(min(longest, len(pending)), 0, -1))
        self._held = next((tail for tail in tails if any(stop.startswith(tail) for stop in self._stops)), "")
        return pending[: len(pending) - len(self._held)]
