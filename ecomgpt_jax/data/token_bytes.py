"""The bytes of each token: for byte-level BPE, and for SentencePiece vocabularies with byte tokens."""

import json
from typing import Any

from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.errors import DataError

_PROBE = "a  red mug, 红色 马克杯 😀\n1: É_x"


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Returns {id: bytes} of all tokens that encode text; control tokens are left out.

    Raises:
      DataError: the tokenizer changes text before encoding, or its decoder is neither of the two kinds.
    """
    backend = tokenizer.backend
    kinds = {step["type"] for step in _steps(json.loads(backend.to_str()).get("decoder") or {})}
    added = backend.get_added_tokens_decoder()
    control = {index for index, token in added.items() if token.special}
    found: dict[int, bytes] = {}
    for text, index in backend.get_vocab(with_added_tokens=True).items():
        if index in control:
            continue
        if index in added:
            found[index] = added[index].content.encode()
        elif "ByteLevel" in kinds:
            found[index] = b"".join(BYTES.get(character, character.encode()) for character in text)
        elif len(text) == 6 and text.startswith("<0x") and "ByteFallback" in kinds:
            found[index] = bytes((int(text[3:5], 16),))
        else:
            found[index] = text.replace("\u2581", " ").encode()
    for text in (_PROBE, "x"):
        written = b"".join(found.get(index, b"\0") for index in tokenizer.encode(text))
        if written != (lead(tokenizer) + text).encode():
            raise DataError(
                f"{tokenizer.directory}: its tokens do not spell the text that they encode ({text[:20]!r} came back as "
                f"{written.decode(errors='replace')[:24]!r}), so answers cannot be constrained; decode them freely"
            )
    return found


def lead(tokenizer: Tokenizer) -> str:
    """Returns the prefix that the tokenizer adds to every text: a blank, or nothing."""
    first = tokenizer.backend.id_to_token(tokenizer.encode("x")[0]) or ""
    return " " if first.startswith("\u2581") else ""


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for part in decoder.get("decoders", ()) for step in _steps(part)] + [decoder] if decoder else []


def _byte_characters() -> dict[str, int]:
    """Returns the byte that each character of a byte-level vocabulary represents.

    Printable Latin-1 characters represent themselves, the characters from 256 on the other bytes, ascending.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(code): byte for code, byte in [*zip(shown, shown, strict=True), *zip(range(256, 512), hidden)]}  # noqa: B905


BYTES = {character: bytes((byte,)) for character, byte in _byte_characters().items()}
