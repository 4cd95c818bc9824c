"""File forms: functions that turn one file into its rows, one for each common way to write a data set.

A form yields (number, row): the line from 1 on which a row begins, or the index of an element. For a row that it cannot
read it yields an `Unreadable`, which the reader counts and lists. `.gz` files and `.zip` archives of one file are
decompressed.
"""

import ast
import csv
import gzip
import io
import json
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecomgpt_jax.errors import DataError

MAX_MEMBER_BYTES = 64 * 2**20
MAX_MEMBER_RATIO = 200
_LONGEST_FIELD = 131_072  # characters; an unclosed quotation mark extends a field to the end of the file


class Unreadable(ValueError):
    """The reason why a row cannot be read; `text` is its content."""

    def __init__(self, reason: str, text: object) -> None:
        super().__init__(reason)
        self.text = text


class Counted(NamedTuple):
    """A row put together from several upstream rows, or (0) something that upstream does not count."""

    upstream: int
    row: Any


def clean_text(text: str) -> str:
    """Returns the text without byte order marks and without blanks at its ends."""
    return text.replace("\ufeff", "").strip()


def one_line(text: str) -> str:
    """Returns the text with single blanks for runs of blanks and line ends, stripped."""
    return " ".join(text.split())


def literal(text: str) -> Any:
    """Returns the value of a Python literal, which is parsed and never run; raises ValueError for anything else."""
    try:
        return ast.literal_eval(text)
    except (MemoryError, RecursionError, SyntaxError, TypeError) as error:
        raise ValueError(f"not a Python literal: {error}") from error


def text_lines(path: Path, fallback: str = "") -> Iterator[tuple[int, str | Unreadable]]:
    """Yields each line without its end, the first without a byte order mark.

    Args:
        path: The file, in UTF-8.
        fallback: Encoding of single lines that are not UTF-8; "": they are unreadable.
    """
    data = _unpacked(path).removesuffix(b"\n")
    if not data:
        return
    try:
        lines: Iterable[str | bytes] = data.decode().split("\n")
    except UnicodeDecodeError:
        lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if isinstance(line, bytes):
            try:
                line = line.decode()
            except UnicodeDecodeError as error:
                if not fallback:
                    yield number, Unreadable(f"not utf-8: {error.reason}", line)
                    continue
                line = line.decode(fallback)
        line = line.removesuffix("\r")
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def filled_lines(path: Path, fallback: str = "") -> Iterator[tuple[int, str | Unreadable]]:
    """Yields the lines of `text_lines` that are not blank."""
    return (
        (number, line)
        for number, line in text_lines(path, fallback=fallback)
        if isinstance(line, Unreadable) or line.strip()
    )


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | Unreadable]]:
    """Yields the object on each line that is not blank."""
    for number, line in filled_lines(path):
        try:
            row = line if isinstance(line, Unreadable) else json.loads(line)
        except (ValueError, RecursionError) as error:
            row = Unreadable(f"invalid JSON: {error}", line)
        yield number, row if isinstance(row, dict | Unreadable) else Unreadable("not a JSON object", line)


def json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields the elements of a file that is one JSON array; lines that begin with "#" are comments.

    Raises:
        DataError: The file is not a JSON array.
    """
    lines = (line for _, line in text_lines(path) if isinstance(line, str) and not line.startswith("#"))
    try:
        rows = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: invalid JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: not a JSON array")
    yield from enumerate(rows, 1)


def csv_rows(
    path: Path,
    *,
    delimiter: str = "",
    encoding: str = "utf-8-sig",
    columns: Sequence[str] = (),
    quoted: bool = True,
) -> Iterator[tuple[int, dict[str, str] | Unreadable]]:
    """Yields the fields of each row by column.

    Args:
        path: The file.
        delimiter: Field separator; "": a tab if the first line contains one, else a comma.
        encoding: Of the file.
        columns: Column names of a file without a header line.
        quoted: Whether double quotes enclose fields.

    Raises:
        DataError: A field never ends.
    """
    data = _unpacked(path)
    delimiter = delimiter or ("\t" if b"\t" in data.partition(b"\n")[0] else ",")
    stream = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, errors="surrogateescape", newline="")
    csv.field_size_limit(_LONGEST_FIELD)  # a setting of the process; users' data allows more
    rows = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    names, end = list(columns), 0
    try:
        for fields in rows:
            start, end = end + 1, rows.line_num
            if not fields:
                continue
            if not names:
                names = fields
            elif len(fields) != len(names):
                yield start, Unreadable(f"{len(fields)} fields instead of {len(names)}", fields)
            elif broken := [name for name, value in zip(names, fields, strict=True) if not _is_text(value)]:
                yield start, Unreadable(f"{broken[0]}: bytes that are not text in the file's encoding", ascii(fields))
            else:
                yield start, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{end + 1}: {error}") from error


def conll_rows(path: Path) -> Iterator[tuple[int, tuple[list[str], list[str]] | Unreadable]]:
    """Yields (tokens, tags) of each block of lines: the first and the last column; a blank line ends a block.

    Columns are separated by tabs where a line holds one, else by blanks. A line that begins with the separator has a
    blank as its token. Blocks of `-DOCSTART-` are left out.
    """
    start, block, broken = 1, [], None
    for number, line in (*text_lines(path), (0, "")):
        if isinstance(line, Unreadable):
            broken = line
        elif line.strip():
            block.append(line.rstrip().split("\t" if "\t" in line else " "))
            continue
        else:
            if broken:
                yield start, broken
            elif block and block[0][0] != "-DOCSTART-":
                yield start, ([columns[0] or " " for columns in block], [columns[-1] for columns in block])
            start, block, broken = number + 1, [], None


def xml_elements(path: Path, tag: str) -> Iterator[tuple[int, ElementTree.Element]]:
    """Yields the elements of that tag below the root.

    Raises:
        DataError: The file is not XML.
    """
    try:
        yield from enumerate(ElementTree.fromstring(_unpacked(path)).findall(tag), 1)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: invalid XML: {error}") from error


def zip_member(path: Path, member: str = "") -> bytes:
    """Returns the one file of a zip archive whose path ends in `member`; nothing is written to disk.

    Raises:
        DataError: No such archive or member, or one that unpacks to more than 64 MiB or more than 200-fold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if f"/{name}".endswith(f"/{member}" if member else "")]
            if len(found) != 1:
                raise DataError(f"{path}: {len(found)} files {member!r} in the archive instead of one")
            size, packed = archive.getinfo(found[0]).file_size, archive.getinfo(found[0]).compress_size
            if size > MAX_MEMBER_BYTES or size > MAX_MEMBER_RATIO * max(packed, 1):
                raise DataError(f"{path}: {found[0]} unpacks from {packed} to {size} bytes; not read")
            with archive.open(found[0]) as stream:
                return stream.read(size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: {error}; fetch the archive again") from error


def _unpacked(path: Path) -> bytes:
    """Returns the file's bytes, those inside of a `.gz` or `.zip` file."""
    if path.suffix == ".zip":
        return zip_member(path)
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path, "rb") as stream:
            data = stream.read(MAX_MEMBER_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}; fetch the file again") from error
    if len(data) > MAX_MEMBER_BYTES:
        raise DataError(f"{path}: unpacks to more than {MAX_MEMBER_BYTES} bytes; not read")
    return data


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
