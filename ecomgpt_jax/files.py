"""Files read strictly and written whole: UTF-8 text, JSON, JSON lines.

Every error names the file and, where there is one, line and column. Nothing is ever half written: text goes to a
temporary name in the same folder and is moved over the old file.
"""

import codecs
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ecomgpt_jax.errors import DataError, MissingInputError


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns the text of a UTF-8 file; a byte order mark is dropped.

    Raises:
      MissingInputError: the file is not there.
      DataError: it is not UTF-8; names the byte offset and the encoding it looks like.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingInputError(f"{path}: no such file") from None
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        try:
            content.decode("gb18030")
            guess = "GBK"
        except UnicodeDecodeError:
            guess = "Latin-1 or damaged"
        at = len(content) - len(error.object) + error.start
        raise DataError(f"{path}: not UTF-8 at byte {at} (looks like {guess}); convert it to UTF-8") from None


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_json(text: str, path: str | os.PathLike[str], line: int = 1) -> Any:
    """Parses one JSON value that starts at `line` of `path`; NaN, Infinity and lone surrogates are refused.

    Raises:
      DataError: `path:line:column: what is wrong`.
    """
    try:
        value = json.loads(text, parse_constant=_reject_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{line + error.lineno - 1}:{error.colno}: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path}:{line}:1: nested too deeply") from None
    except UnicodeEncodeError:
        raise DataError(f"{path}:{line}:1: an escape is half of a surrogate pair") from None
    except ValueError as error:  # NaN and the like, or an integer past Python's digit limit
        raise DataError(f"{path}:{line}:1: {str(error).split(';')[0]}") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns the one JSON value of a file; raises like `read_text` and `parse_json`."""
    return parse_json(read_text(path), path)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each line that is not blank.

    Raises:
      MissingInputError: the file is not there.
      DataError: a line is not one JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would cut at U+2028 too
        if line.strip():
            value = parse_json(line, path, number)
            if not isinstance(value, dict):
                raise DataError(f"{path}:{number}:1: a {type(value).__name__}, not an object; one JSON object a line")
            yield number, value


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 file whole or not at all; its folder is created if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a value as indented JSON; NaN and infinities are refused with ValueError."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def write_json_lines(path: str | os.PathLike[str], values: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values))
