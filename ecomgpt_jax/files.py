"""Reads files strictly and writes them atomically: UTF-8 text, JSON, JSON lines.

Every error names the file and, if known, line and column. A file or directory is written under a temporary name in the
same folder and then renamed, so it is never incomplete.
"""

import codecs
import contextlib
import errno
import fcntl
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ecomgpt_jax import strict_json
from ecomgpt_jax.errors import DataError, MissingInputError

# Patterns of the files of a Hugging Face tokenizer, including slow ones, other libraries' and chat templates.
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "encoder.json", "bpe.codes",
    "tekken.json", "*.model", "*.spm", "*.tiktoken", "chat_template.json", "*.jinja", "*chat_templates/*.jinja",
)  # fmt: skip
MAX_LINE_BYTES = 2**20  # per record; a longer line is a damaged file, not an instance
_HEAD_BYTES = 2**20  # bytes of a file that determine its kind
_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",  # before UTF-16, whose mark is a prefix of this one
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
_MAGIC = {
    b"\x1f\x8b": "packed with gzip", b"BZh91AY&SY": "packed with bzip2", b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd", b"PK\x03\x04": "a zip archive or a spreadsheet", b"PAR1\x15": "Parquet",
}  # fmt: skip


class BadRecord(NamedTuple):
    """A record that cannot be used: its file, line and column (from 1), the reason, and its text."""

    file: str
    line: int
    column: int
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.reason}"


def guess_encoding(content: bytes) -> str:
    """Returns the likely encoding of bytes that are not UTF-8: "GBK" or "Latin-1 or damaged".

    Most Latin-1 text is valid GBK, in which an accented letter and the next letter are one character. So for GBK at
    least half of the other characters must be in GB2312, where both bytes are high.
    """
    try:
        high = [character for character in content.decode("gb18030") if character > "\x7f"]
    except UnicodeDecodeError:
        return "Latin-1 or damaged"
    common = "".join(high).encode("gb2312", "ignore")
    return "GBK" if len(common) >= len(high) else "Latin-1 or damaged"


def foreign(head: bytes) -> str:
    """Returns the kind of a file with this beginning that is not UTF-8 text, and what to do; "" if it may be text.

    UTF-16 without a byte order mark is recognised by the zero bytes of its ASCII characters, at even or at odd offsets.
    If all bytes are valid UTF-8 too, nearly all characters must be ASCII, since a table may contain NUL characters.
    """
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            return f"{what}, not text; unpack or export it as UTF-8 text"
    found = next((name for mark, name in _BOMS.items() if head.startswith(mark)), "")
    how = "by its byte order mark"
    start = head[:8192]
    few, many = sorted(start[offset::2].count(0) for offset in (0, 1))
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
        least = 0.75 * len(start) / 2
    except UnicodeDecodeError:
        least = len(start) / 40
    if not found and many >= 4 and many > least and many >= 4 * few:
        found, how = ("UTF-16BE" if start[::2].count(0) == many else "UTF-16LE"), "by its zero bytes"
    return f"{found}, not UTF-8 ({how}); convert it: iconv -f {found} -t UTF-8" if found else ""


def column_of(text: str, field: str, occurrence: int = 0) -> int:
    """Returns the column (from 1) of a field's value in the JSON text of a line; 1 where the field is not found."""
    found = list(re.finditer(rf'"{re.escape(field)}"\s*:\s*', text))
    return found[occurrence].end() + 1 if occurrence < len(found) else 1


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns the text of a UTF-8 file; a byte order mark is dropped.

    Raises:
      MissingInputError: the file does not exist.
      DataError: it is not UTF-8; names line, column, byte offset and the probable encoding.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise MissingInputError(f"{path}: a folder, not a file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"{path}: no such file") from None
    if problem := foreign(content[:_HEAD_BYTES]):
        raise DataError(f"{path}:1:1: {problem}")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        at = len(content) - len(error.object) + error.start
        start, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
        line = content.count(b"\n", 0, at) + 1
        column = len(content[start:at].removeprefix(codecs.BOM_UTF8).decode("utf-8")) + 1
        looks = guess_encoding(content[start : end if end >= 0 else None])
        raise DataError(
            f"{path}:{line}:{column}: not UTF-8 at byte {at} (looks like {looks}); convert it to UTF-8"
        ) from None


def parse_json(text: str, path: str | os.PathLike[str], line: int = 1) -> Any:
    """Parses one JSON value that starts at `line` of `path`.

    Numbers that are not finite (NaN, 1e999), repeated keys, half a surrogate pair, and more than 100 levels are errors
    too.

    Raises:
      DataError: `path:line:column: what is wrong`.
    """
    try:
        return strict_json.parse(text)
    except strict_json.NotJSON as error:
        raise DataError(f"{path}:{line + error.line - 1}:{error.column}: {error.reason}") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns the one JSON value of a file; raises like `read_text` and `parse_json`."""
    return parse_json(read_text(path), path)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each line that is not blank.

    Raises:
      MissingInputError: the file is not there.
      DataError: a line is not one JSON object.
    """
    text = read_text(path)
    if problem := strict_json.layout_fault(text):
        raise DataError(f"{path}:{problem}")
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would also split at U+2028
        if line.strip():
            value = parse_json(line, path, number)
            if not isinstance(value, dict):
                raise DataError(f"{path}:{number}:1: a {type(value).__name__}, not an object; one JSON object per line")
            yield number, value


def scan_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, dict[str, Any] | BadRecord]]:
    """Yields (line number from 1, its text, object) for each line that is not blank; for a damaged one a `BadRecord`.

    Reads line by line, so a file may be larger than memory, and reading continues after a bad line.

    Raises:
      MissingInputError: the file does not exist.
      DataError: it is not a JSON lines file: compressed, UTF-16, one JSON array, or objects over several lines.
    """
    path, offset = Path(path), 0
    if not path.is_file():
        raise MissingInputError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        problem = foreign(head)
        if problem := f"1:1: {problem}" if problem else strict_json.layout_fault(head.decode("utf-8-sig", "replace")):
            raise DataError(f"{path}:{problem}")
        file.seek(0)
        for number, raw in enumerate(file, start=1):
            start, offset = offset, offset + len(raw)
            content = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            start += len(raw) - len(content)
            content = content.rstrip(b"\r\n")
            text = content[:MAX_LINE_BYTES].decode("utf-8", "replace")
            if text.strip():
                value = _scan(content, text, start)
                yield number, text, value if isinstance(value, dict) else BadRecord(str(path), number, *value, text)


def _scan(content: bytes, text: str, start: int) -> dict[str, Any] | tuple[int, str]:
    """Returns the object of a line that begins at byte `start`, or column and reason of its error."""
    if len(content) > MAX_LINE_BYTES:
        return 1, f"the line has {len(content):,} bytes, more than {MAX_LINE_BYTES:,}; split or shorten the record"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(content[: error.start].decode("utf-8")) + 1
        looks = guess_encoding(content)
        return column, f"not UTF-8 at byte {start + error.start} (looks like {looks}); convert it to UTF-8"
    if "\0" in text:
        return text.index("\0") + 1, "holds the character U+0000 (NUL)"
    try:
        value = strict_json.parse(text)
    except strict_json.NotJSON as error:
        return error.column, error.reason
    return (
        value if isinstance(value, dict) else (1, f"a {type(value).__name__}, not an object; one JSON object per line")
    )


def data_home() -> Path:
    """Returns the default folder of fetched data: $ECOMGPT_DATA or the user's cache."""
    return Path(os.environ.get("ECOMGPT_DATA") or "~/.cache/ecomgpt_jax/data").expanduser().absolute()


def find_data(named: str, variable: str, group: str) -> Path | None:
    """Returns a data folder: that of the setting, the environment, or `fetch`, in this order; None if there is none.

    Args:
      named: the setting's value; "" where it is not set.
      variable: name of the environment variable.
      group: name of the folder in `data_home()`: sources, evaluation or benchmarks.

    Raises:
      MissingInputError: the setting or the variable does not name a folder.
    """
    if found := named or os.environ.get(variable, ""):
        folder = Path(found).expanduser()
        if not folder.is_dir():
            where = variable if not named else "the setting"
            raise MissingInputError(
                f"{folder}: no such folder ({where}); `python -m ecomgpt_jax.fetch {group}` makes one"
            )
        return folder
    folder = data_home() / group
    return folder if folder.is_dir() else None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 file atomically; its folder is created if needed."""
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
    """Writes one JSON object per line."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values))


def check_output(path: str | os.PathLike[str]) -> None:
    """Creates the folder of a file that will be written after a long computation, and checks that it is writable.

    Raises:
      OSError: the path is a folder, or its folder cannot be made or written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def copy_tokenizer_files(source: Path, target: Path) -> None:
    """Copies the files of a Hugging Face tokenizer into an existing directory, in place of another tokenizer's."""

    def found(folder: Path) -> dict[Path, Path]:
        paths = (path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file())
        return {path.relative_to(folder): path for path in paths}

    if source.resolve() == target.resolve():
        return
    for path in found(target).values():
        path.unlink()
    for name, path in found(source).items():
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target / name)


@contextlib.contextmanager
def new_directory(directory: str | os.PathLike[str], *, shared: bool = False) -> Iterator[Path]:
    """Yields a scratch folder that is renamed to `directory` when the block ends, and removed when it raises.

    Scratch folders of killed processes are removed first; those in use are locked.

    Args:
      directory: must not exist or be empty, else OSError.
      shared: several processes may write the same content concurrently; the first result is kept.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{directory.name[:100]}.making-"
    for leftover in directory.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))
    try:
        with _locked(scratch):
            yield scratch
            scratch.chmod(0o755)
            try:
                os.replace(scratch, directory)
            except OSError:
                if not (shared and directory.is_dir()):
                    raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder until this process ends; raises BlockingIOError if another one holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def safe_name(name: str, what: str) -> str:
    """Returns a name from a file or a flag if it is safe in a path: letters, digits, `.`, `_`, `-`.

    Raises:
      DataError: it has other characters, begins with a dot or is longer than 200 characters.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        raise DataError(f"{what}: {name!r:.120} is not a safe name; use letters, digits, '.', '_' and '-'")
    return name
