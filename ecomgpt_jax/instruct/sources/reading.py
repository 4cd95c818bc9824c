"""What every reader shares: the description of a source, the log of a reading, and files turned into rows.

A reader is a function `(folder, files, log) -> Iterator[Record]`. It counts every upstream record in `log.rows`; one
that it leaves out on purpose is counted under its reason in `log.skipped`, a malformed one goes to `log.bad`. A row
that carries several kinds of annotation becomes one record of each, with ids `file:line`, `file:line#kind`, one group.
"""

import ast
import collections
import csv
import dataclasses
import hashlib
import io
import json
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.records import Record, Span

MAX_MEMBER_BYTES = 64 * 2**20
MAX_MEMBER_RATIO = 200


class BadRow(NamedTuple):
    """A row that could not be read: where it stands, which field is wrong, why, and the beginning of what it holds."""

    file: str
    line: int
    column: str
    reason: str
    text: str


@dataclasses.dataclass
class ReadLog:
    """What one reading counts: upstream rows seen, rows left out on purpose by reason, malformed rows."""

    rows: int = 0
    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: list[BadRow] = dataclasses.field(default_factory=list)

    def reject(self, file: str, line: int, column: str, reason: str, text: object) -> None:
        """Adds a malformed row."""
        self.bad.append(BadRow(file, line, column, reason, str(text)[:200]))


Reader = Callable[[Path, Sequence[str], ReadLog], Iterator[Record]]


@dataclasses.dataclass(frozen=True)
class Upstream:
    """Where a source comes from: a public GitHub repository at a commit.

    Attributes:
        repo: `owner/name`.
        commit: 40 hexadecimal digits.
        path: Folder of the files in the repository, "" for its root.
        renamed: Upstream path (below the repository root) of each file that is not at `path/file`; `archive.zip!name`
            takes the file of that name, in whichever folder, out of a zip archive.
        derive: Makes the file's bytes from the upstream bytes, for sources that carry a part of a file.
    """

    repo: str
    commit: str
    path: str = ""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    derive: Callable[[bytes], bytes] | None = None

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}@{self.commit}" if self.path else f"{self.repo}@{self.commit}"


@dataclasses.dataclass(frozen=True)
class Source:
    """One raw data set.

    Attributes:
        name: Folder name below the sources folder.
        language: "en", "zh" or "zh+en".
        licence: As upstream states it.
        redistributable: Whether that licence allows redistribution.
        upstream: Repository, commit and paths.
        files: sha256 of each file, by its path inside the source's folder.
        records: Upstream records in the files, before any merging or splitting.
        read: The reader.
        note: Why the reader's records differ in number from `records`, in one line.
    """

    name: str
    language: str
    licence: str
    redistributable: bool
    upstream: Upstream
    files: Mapping[str, str]
    records: int
    read: Reader
    note: str = ""


def text_group(text: str, fallback: str) -> str:
    """Returns a group that equal texts share: a hash of the letters and digits, case and width folded.

    Args:
        text: The sentence, review, query or title.
        fallback: The group when nothing is left of the text (the record's id).
    """
    kept = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
    return hashlib.blake2b(kept.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if kept else fallback


def make_span(text: str, start: int, end: int, kind: str) -> Span:
    """Returns the span `text[start:end]` without blanks at its ends.

    Raises:
        ValueError: The offsets are outside the text or hold only blanks.
    """
    if not 0 <= start < end <= len(text):
        raise ValueError(f"span {start}:{end} is outside the text of {len(text)} characters")
    term = text[start:end]
    start += len(term) - len(term.lstrip())
    if not (term := term.strip()):
        raise ValueError(f"span {start}:{end} holds only blanks")
    return Span(start, start + len(term), kind, term)


def bio_spans(tokens: Sequence[str], tags: Sequence[str], kind: Callable[[str], str]) -> tuple[Span, ...]:
    """Returns the spans of BIO tags over the tokens' concatenation; an I that continues nothing begins a span.

    Args:
        tokens: Characters (or longer pieces) whose concatenation is the text, each with its tag.
        tags: "O", "B-type" or "I-type".
        kind: Maps a tag's type to the span's.

    Raises:
        ValueError: Unknown tag, or unequal lengths.
    """
    if len(tokens) != len(tags):
        raise ValueError(f"{len(tokens)} tokens but {len(tags)} tags")
    unknown = next((tag for tag in set(tags) if not re.fullmatch(r"O|[BI]-.+", tag)), None)
    if unknown is not None:
        raise ValueError(f"unknown tag {unknown!r}")
    text = "".join(tokens)
    spans: list[Span] = []
    start, current, position = 0, "", 0
    for token, tag in zip((*tokens, ""), (*tags, "O"), strict=True):
        if current and tag != f"I-{current}":
            spans.append(make_span(text, start, position, kind(current)))
            current = ""
        if tag != "O" and not current:
            start, current = position, tag[2:]
        position += len(token)
    return tuple(spans)


def find_spans(text: str, terms: Iterable[tuple[str, str]]) -> tuple[Span, ...]:
    """Returns a span for the first free occurrence of each (type, term), longest terms first, none overlapping."""
    taken = [False] * len(text)
    spans = []
    for kind, term in sorted(terms, key=lambda pair: -len(pair[1])):
        start = text.find(term) if term else -1
        while start >= 0 and any(taken[start : start + len(term)]):
            start = text.find(term, start + 1)
        if start >= 0:
            spans.append(Span(start, start + len(term), kind, term))
            taken[start : start + len(term)] = [True] * len(term)
    return tuple(sorted(spans, key=lambda span: span.start))


def join_tokens(tokens: Sequence[str], language: str) -> str:
    """Joins tokens by a blank, for Chinese only between two words in Latin letters or digits."""
    if language != "zh":
        return " ".join(tokens)
    joined = ""
    for token in tokens:
        apart = joined[-1:].isascii() and joined[-1:].isalnum() and token[:1].isascii() and token[:1].isalnum()
        joined += " " + token if apart else token
    return joined


def literal(text: str) -> Any:
    """Returns the value of a Python literal, which is parsed and never run; raises ValueError for anything else."""
    try:
        return ast.literal_eval(text)
    except (MemoryError, RecursionError, SyntaxError, TypeError) as error:
        raise ValueError(f"not a Python literal: {error}") from error


def clean_text(text: str) -> str:
    """Returns the text without byte order marks and without blanks at its ends."""
    return text.replace("\ufeff", "").strip()


def text_lines(
    folder: Path, file: str, log: ReadLog, encoding: str = "utf-8", fallback: str = ""
) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its end); a byte order mark before the first line is taken off.

    Args:
        folder: Folder of the source.
        file: File in it.
        log: Gets the lines that do not decode.
        encoding: Of the file.
        fallback: Encoding of single lines that do not decode, "" for none.
    """
    data = (folder / file).read_bytes().removesuffix(b"\n")
    if not data:
        return
    try:
        lines: Iterable[str | bytes] = data.decode(encoding).split("\n")
    except UnicodeDecodeError:
        lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if isinstance(line, bytes):
            try:
                line = line.decode(encoding)
            except UnicodeDecodeError as error:
                if not fallback:
                    log.reject(file, number, "", f"not {encoding}: {error.reason}", line)
                    continue
                line = line.decode(fallback)
        line = line.removesuffix("\r")
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def json_array(folder: Path, file: str, log: ReadLog) -> Iterator[tuple[int, Any]]:
    """Yields (position from 1, element) of a file that is one JSON array, counting rows; lines from a `#` are comments.

    Raises:
        DataError: The file is no JSON array.
    """
    lines = (line for _, line in text_lines(folder, file, log) if not line.startswith("#"))
    try:
        rows = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise DataError(f"{folder / file}:{error.lineno}:{error.colno}: invalid JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise DataError(f"{folder / file}: not a JSON array")
    for number, row in enumerate(rows, 1):
        log.rows += 1
        yield number, row


def json_lines(folder: Path, file: str, log: ReadLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a JSON-lines file, counting rows."""
    for number, line in text_lines(folder, file, log):
        if not line.strip():
            continue
        log.rows += 1
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            log.reject(file, number, str(error.colno), f"invalid JSON: {error.msg}", line)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            log.reject(file, number, "", "not a JSON object", line)


def csv_rows(
    folder: Path,
    file: str,
    log: ReadLog,
    *,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    columns: Sequence[str] = (),
    quoted: bool = True,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line number where the row starts, fields by column name) of a delimited file, counting rows.

    Args:
        folder: Folder of the source.
        file: File in it.
        log: Gets the counts and the rows whose number of fields is wrong.
        delimiter: Field separator.
        encoding: Of the file.
        columns: Column names of a file without a header line.
        quoted: Whether double quotes enclose fields.
    """
    with (folder / file).open(encoding=encoding, errors="surrogateescape", newline="") as stream:
        yield from _csv_stream(stream, file, log, delimiter, columns, quoted)


def zip_member(path: Path, member: str) -> bytes:
    """Returns the one file of a zip archive whose path ends in `member`; nothing is written to disk.

    Raises:
        DataError: No such archive or member, or one that unpacks to more than 64 MiB or more than 200-fold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if f"/{name}".endswith(f"/{member}")]
            if len(found) != 1:
                raise DataError(f"{path}: {len(found)} files {member!r} in the archive instead of one")
            size, packed = archive.getinfo(found[0]).file_size, archive.getinfo(found[0]).compress_size
            if size > MAX_MEMBER_BYTES or size > MAX_MEMBER_RATIO * max(packed, 1):
                raise DataError(f"{path}: {member} unpacks from {packed} to {size} bytes; not read")
            with archive.open(found[0]) as stream:
                return stream.read(size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: {error}; fetch the archive again") from error


def zip_csv_rows(folder: Path, file: str, member: str, log: ReadLog) -> Iterator[tuple[int, dict[str, str]]]:
    """As `csv_rows` (UTF-8, comma), from one file of a zip archive."""
    stream = io.TextIOWrapper(
        io.BytesIO(zip_member(folder / file, member)), encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    yield from _csv_stream(stream, file, log, ",", (), True)


def _csv_stream(
    stream: Iterable[str], file: str, log: ReadLog, delimiter: str, columns: Sequence[str], quoted: bool
) -> Iterator[tuple[int, dict[str, str]]]:
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rows = csv.reader(stream, delimiter=delimiter, quoting=quoting)
    names = list(columns)
    end = 0
    for fields in rows:
        start, end = end + 1, rows.line_num
        if not fields:
            continue
        if not names:
            names = fields
            continue
        log.rows += 1
        if len(fields) != len(names):
            log.reject(file, start, "", f"{len(fields)} fields instead of {len(names)}", fields)
            continue
        row = dict(zip(names, fields, strict=True))
        broken = next((name for name, value in row.items() if not _is_text(value)), None)
        if broken is None:
            yield start, row
        else:
            log.reject(file, start, broken, "bytes that are not text in the file's encoding", ascii(row[broken]))


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
