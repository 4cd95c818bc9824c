"""Builds pieces of an answer from tokens, and OpenAI's response objects from pieces, complete or in chunks."""

import secrets
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ecomgpt_jax.data.token_bytes import BYTES
from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.decoding.continuous import ENDED, Token
from ecomgpt_jax.serving.answer_text import BYTE_TOKEN, AnswerText
from ecomgpt_jax.serving.protocol import Job

_KINDS = {
    False: ("cmpl", "text_completion", "text_completion"),
    True: ("chatcmpl", "chat.completion", "chat.completion.chunk"),
}


class Piece(NamedTuple):
    """A part of one answer.

    Attributes:
      index: of the answer.
      text: new text.
      tokens: (text offset, token) of the tokens since the previous piece, if log-probabilities are requested.
      finish: `stop`, `length`, or None if more pieces follow.
    """

    index: int
    text: str
    tokens: list[tuple[int, Token]]
    finish: str | None


class Answer:
    """One answer during decoding; `count` is the number of its tokens, without the end-of-sequence token."""

    def __init__(self, index: int, tokenizer: Tokenizer, job: Job) -> None:
        self._index, self._wanted = index, job.alternatives is not None
        self._text, self._tokens = AnswerText(tokenizer, job.stops), []
        self.count, self.finish = 0, None

    def push(self, token: Token) -> Piece | None:
        """Adds a token; returns the new piece for the client, if any."""
        said = ""
        if token.id != ENDED:
            self.count += 1
            if self._wanted:
                self._tokens.append((self._text.length, token))
            said = self._text.push(token.id)
        if token.last and not self._text.stopped:
            said += self._text.finish()
        if token.last or self._text.stopped:
            self.finish = "stop" if self._text.stopped or token.id == ENDED else "length"
        if not (said or self.finish):
            return None
        tokens, self._tokens = self._tokens, []
        return Piece(self._index, said, tokens, self.finish)


class Writer:
    """Writes the response objects of one request."""

    def __init__(self, job: Job, model: str, tokenizer: Tokenizer) -> None:
        self._job, self._tokenizer = job, tokenizer
        prefix, self._whole, self._chunk = _KINDS[job.chat]
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, pieces: Sequence[Sequence[Piece]], usage: dict[str, Any]) -> dict[str, Any]:
        """Returns the response to a request without a stream, from the pieces of each answer."""
        choices = []
        for index, parts in enumerate(pieces):
            text = "".join(part.text for part in parts)
            said = (
                {"message": {"role": "assistant", "content": text, "refusal": None}}
                if self._job.chat
                else {"text": text}
            )
            told = self._logprobs([pair for part in parts for pair in part.tokens])
            choices.append({"index": index, **said, "logprobs": told, "finish_reason": parts[-1].finish})
        return {**self._head, "object": self._whole, "choices": choices, "usage": usage}

    def opening(self) -> list[dict[str, Any]]:
        """Returns the chunks before any text: in a chat the chunk with the role."""
        return [self._one(0, {"delta": {"role": "assistant"}}, None, None)] if self._job.chat else []

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Returns the chunks of a piece; a finish reason is a separate chunk without text."""
        found, told = [], self._logprobs(piece.tokens)
        if piece.text or piece.tokens:
            said = {"delta": {"content": piece.text}} if self._job.chat else {"text": piece.text}
            found.append(self._one(piece.index, said, told, None))
        if piece.finish:
            found.append(self._one(piece.index, {"delta": {}} if self._job.chat else {"text": ""}, None, piece.finish))
        return found

    def closing(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the chunk after all text: the number of tokens, if requested."""
        chunk = {**self._head, "object": self._chunk, "choices": [], "usage": usage}
        return [chunk] if self._job.include_usage else []

    def _one(self, index: int, said: dict[str, Any], told: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, **said, "logprobs": told, "finish_reason": finish}
        return {**self._head, "object": self._chunk, "choices": [choice]}

    def _logprobs(self, tokens: Sequence[tuple[int, Token]]) -> dict[str, Any] | None:
        if self._job.alternatives is None or not tokens:
            return None
        rows = [
            (offset, (token.id, token.logprob), token.likeliest[: self._job.alternatives]) for offset, token in tokens
        ]
        if self._job.chat:
            content = [
                {**self._entry(*chosen), "top_logprobs": [self._entry(*pair) for pair in likeliest]}
                for _, chosen, likeliest in rows
            ]
            return {"content": content, "refusal": None}
        top = [
            {token_text(self._tokenizer, i)[0]: chance for i, chance in reversed(likeliest)} for *_, likeliest in rows
        ]
        return {
            "tokens": [token_text(self._tokenizer, chosen[0])[0] for _, chosen, _ in rows],
            "token_logprobs": [chosen[1] for _, chosen, _ in rows],
            "top_logprobs": top if self._job.alternatives else None,
            "text_offset": [offset for offset, *_ in rows],
        }

    def _entry(self, index: int, chance: float) -> dict[str, Any]:
        text, content = token_text(self._tokenizer, index)
        return {"token": text, "logprob": chance, "bytes": list(content)}


def token_text(tokenizer: Tokenizer, index: int) -> tuple[str, bytes]:
    """Returns a single token as text and bytes; an incomplete character is "bytes:" and hexadecimal digits."""
    token = tokenizer.backend.id_to_token(index) or ""
    if byte := BYTE_TOKEN.fullmatch(token):
        content = bytes([int(byte[1], 16)])
    elif "\u2581" in token:  # SentencePiece's blank, which a decoder would strip from a token alone
        content = token.replace("\u2581", " ").encode()
    else:
        text = tokenizer.backend.decode([index], skip_special_tokens=False)
        halves = "\ufffd" in text and all(character in BYTES for character in token)
        content = b"".join(BYTES[character] for character in token) if halves else text.encode()
    try:
        return content.decode(), content
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content), content
