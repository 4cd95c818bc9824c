"""Masks secrets before anything is written, by the names of fields and by the form of values.

No setting of this project holds a token, but a URL, a path or an error message may contain one.
"""

import re
from typing import Any

MASK = "[masked]"
_VALUES = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[A-Za-z0-9_-]{16,}"
    r"|AIza[\w-]{30,}|ya29\.[\w.-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|xox[abprs]-[\w-]{10,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+|(?<=://)[^\s/@'\"]+(?=@)|(?i:(?<=bearer )[\w.~+/=-]{8,})"
    r"|(?i:(?<=[?&]token=)[^\s&'\"]+|(?<=[?&]key=)[^\s&'\"]+|(?<=[?&]password=)[^\s&'\"]+)"
)
# "tokenizer" and "pad_token" are not secrets, so a plain "token" does not match.
_KEYS = re.compile(
    r"(?i)^token$|(?:^|[._-])(?:password|passwd|secret|credentials?|api_?key|private_?key|access_?key|authorization"
    r"|(?:access|auth|api|hf|hub|github|bearer|refresh|session)_?token)$"
)


def mask_text(text: str) -> str:
    """Returns `text` with everything that looks like a token, a key or the user part of a URL masked."""
    return _VALUES.sub(MASK, text)


def mask_secrets(value: Any) -> Any:
    """Returns a copy of a nested value with secrets masked: values of keys that name one, and parts of texts."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, dict):
        return {
            mask_secrets(key): MASK if isinstance(key, str) and item and _KEYS.search(key) else mask_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(mask_secrets(item) for item in value)
    return value
