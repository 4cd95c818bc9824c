"""Parses JSON strictly: no values that writers refuse, no repeated keys, every error with its position."""

import contextlib
import json
import math
import re
from typing import Any

_MAX_DEPTH = 100  # of nested lists and objects; writers are limited too
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s"{}\[\],:]+', re.DOTALL)  # without commas and colons
_COLON = re.compile(r"\s*:")
_HALF_PAIR = re.compile(
    r"\\u[dD][89abAB][\da-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][\da-fA-F]{2})\\u[dD][c-fC-F]"
)


class NotJSON(ValueError):
    """Position (line and column from 1) and reason why a text is not JSON."""

    def __init__(self, line: int, column: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.column, self.reason = line, column, reason


class _Refused(ValueError):
    """The text is accepted by `json`, but not here; `_refusal` returns position and reason."""


def _refuse(_: str) -> None:
    raise _Refused


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refused
    return value


def _refusal(text: str) -> tuple[int, str] | None:
    """Returns offset and reason of the first part of a JSON text that `json` accepts and `parse` refuses."""
    keys: list[set[str]] = []  # so far, of each open list or object
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in "{[":
            keys.append(set())
            if len(keys) > _MAX_DEPTH:
                return token.start(), f"nested too deeply, more than {_MAX_DEPTH} levels"
        elif word in "}]":
            keys.pop()
        elif word[0] == '"' and _COLON.match(text, token.end()):
            key = json.loads(word, strict=False)
            if key in keys[-1]:
                return token.start(), f"the key {key!r:.80} occurs twice"
            keys[-1].add(key)
        elif word in ("NaN", "Infinity", "-Infinity"):
            return token.start(), f"{word} is not JSON"
        elif word[0] in "-0123456789" and re.search("[.eE]", word) and math.isinf(float(word)):
            return token.start(), f"{word:.40} is larger than any floating-point number"
    return None


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def parse(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises:
      NotJSON: it is invalid, or contains values that writers refuse or other readers lose: a number that is not finite,
        half a surrogate pair, a repeated key, or more than 100 levels.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
        if text.count("[") + text.count("{") > _MAX_DEPTH and (found := _refusal(text)):
            raise NotJSON(*_place(text, found[0]), found[1])
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except json.JSONDecodeError as error:
        raise NotJSON(error.lineno, error.colno, error.msg) from None
    except (_Refused, RecursionError):
        offset, reason = _refusal(text) or (0, "nested too deeply")
        raise NotJSON(*_place(text, offset), reason) from None
    except UnicodeEncodeError:
        half = _HALF_PAIR.search(text)
        raise NotJSON(1, half.start() + 1 if half else 1, "an escape is half of a surrogate pair") from None
    except NotJSON:
        raise
    except ValueError as error:  # an integer past Python's digit limit
        raise NotJSON(1, 1, str(error).split(";")[0]) from None


def layout_fault(text: str) -> str:
    """Returns "line:column: problem" of a text that is one array, or whose first value goes over several lines."""
    start = len(text) - len(text.lstrip())
    first = text[start:].split("\n", 1)[0]
    array, problem = "a JSON array; write one object per line, for example with jq -c '.[]'", ""
    try:
        value = json.loads(first)
        if isinstance(value, list) and isinstance((value or [{}])[0], dict) and not text[start + len(first) :].strip():
            problem = array
    except RecursionError:
        return ""
    except ValueError:
        if re.match(r"\[\s*[{\[]", text[start : start + 1000]):
            problem = array
        elif first.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                end = json.JSONDecoder().raw_decode(text, start)[1]
                lines = text.count("\n", start, end) + 1
                if lines > 1:
                    problem = f"a JSON object over {lines} lines; write one object per line, for example with jq -c ."
                elif text[end : end + 1] == "\r":
                    problem = "lines end with a carriage return alone; convert them: tr '\\r' '\\n'"
    line, column = _place(text, start)
    return f"{line}:{column}: {problem}" if problem else ""
