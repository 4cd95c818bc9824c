"""Reads user files and Hub data sets into records: one object of fields per line, row or table row.

A record that cannot be read becomes a `BadRecord`, and reading continues. A file that cannot be read is an error:
compressed, in another encoding, with a repeated column name. Text with the character U+0000 is always an error.

CSV follows RFC 4180. In TSV a field in double quotes is read as a spreadsheet writes it (it may hold tabs, line breaks
and doubled quotes) if the record then has as many fields as the header; all other quotes are plain characters. Lines
that have as many fields as the header without this interpretation are separate records.

Parquet is read by `pyarrow`, `hub:owner/name@commit[:split]` by `datasets` (extra `hub`), which runs no code of a data
set. A commit is 40 hexadecimal digits, so that a data set cannot change.
"""

import csv
import hashlib
import importlib
import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError, StorageError
from ecomgpt_jax.files import MAX_LINE_BYTES, BadRecord, read_text, scan_json_lines
from ecomgpt_jax.waiting import notice

Read = tuple[int, str, dict[str, Any] | BadRecord]  # line (or row) number, text, record
_HUB = re.compile(r"hub:(?P<name>[\w.\-]+/[\w.\-]+)@(?P<commit>[0-9a-f]{40})(?::(?P<split>[\w.\-]+))?")
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z")
_CELL = re.compile(r'"((?:[^"]|"")*+)"(?=[\t\n]|\Z)|[^\t\n]*')
_WHOLE_CELL = re.compile(r'"((?:[^"]|"")*)"')


def read(spec: str) -> Iterator[Read]:
    """Yields (line, text, record) for each record of a file or Hub data set; a bad one as a `BadRecord`.

    Raises:
      ConfigError: it is of an unknown kind.
      MissingInputError: it does not exist.
      DataError: it is empty or cannot be read at all.
      StorageError: the Hub cannot be reached.
    """
    empty = True
    for line, text, record in _reader(spec)(spec):
        empty = False
        if isinstance(record, dict):
            for number, (field, value) in enumerate(record.items(), 1):
                if any("\0" in part for part in (field, *_strings(value))):
                    column = text.find("\\u0000") + 1 or number
                    record = BadRecord(spec, line, column, f"{field!r} holds the character U+0000 (NUL)", text)
                    break
        yield line, text, record
    if empty:
        raise DataError(f"{spec}: empty, no record in it")


def checksum(spec: str) -> str:
    """Returns the sha256 of a file, or the name of a Hub data set, which contains the commit.

    Raises:
      MissingInputError: the file does not exist.
    """
    if spec.startswith("hub:"):
        return spec
    with _existing(spec).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(spec: str) -> Path:
    path = Path(spec).expanduser()
    if path.is_dir():
        raise MissingInputError(f"{spec}: a folder, not a file; name the files in it (data.files)")
    if not path.is_file():
        raise MissingInputError(f"{spec}: no such file (data.files)")
    return path


def _reader(spec: str) -> Callable[[str], Iterator[Read]]:
    if spec.startswith("hub:"):
        return _read_hub
    suffix = Path(spec).suffix.lower()
    if suffix in _PACKED:
        raise ConfigError(f"data.files: {spec} is packed; unpack it and name the file in it")
    if suffix not in _READERS and not Path(spec).expanduser().is_dir():
        raise ConfigError(f"data.files: {spec} is none of {', '.join(_READERS)} and hub:owner/name@commit[:split]")
    return _READERS[suffix] if _existing(spec).stat().st_size else lambda _: iter(())


def _strings(value: object) -> Iterator[str]:
    """Yields each text in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield str(key)
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _check_names(place: str, names: Sequence[str]) -> None:
    """Raises DataError for a repeated column, exact or apart from case and blanks at the ends."""
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.get(key := name.strip().casefold())) is not None:
            differs = "occurs twice" if first == name else f"differs from {first!r} by case or blanks alone"
            raise DataError(f"{place}: the column {name!r} {differs}; rename or remove one")
        seen[key] = name


def _read_json_lines(spec: str) -> Iterator[Read]:
    return scan_json_lines(Path(spec).expanduser())


def _read_table(spec: str) -> Iterator[Read]:
    tabs = spec.lower().endswith(".tsv")
    text = read_text(Path(spec).expanduser())
    rows = (_tab_separated if tabs else _comma_separated)(spec, text)
    header: list[str] | None = None
    for line, cells in rows:
        if not any(map(str.strip, cells)) and (header is None or len(cells) < 2):
            continue  # a blank line
        if header is None:
            header = _names(cells)
            _check_names(f"{spec}:{line}:1", header)
            continue
        whole, reason = "\t".join(cells), ""
        if len(cells) != len(header):
            reason = f"{len(cells)} fields, the header has {len(header)}"
        elif _names(cells) == header:
            reason = "the header again; were files joined?"
        elif len(whole) > MAX_LINE_BYTES // 4 and (size := len(whole.encode())) > MAX_LINE_BYTES:
            reason = f"the record has {size:,} bytes, more than {MAX_LINE_BYTES:,}; split or shorten it"
        yield line, whole, BadRecord(spec, line, 1, reason, whole) if reason else dict(zip(header, cells, strict=True))


def _names(cells: Sequence[str]) -> list[str]:
    return [name.strip("\ufeff\u200b \t\r\n\xa0") or f"(column {i})" for i, name in enumerate(cells, 1)]


def _comma_separated(spec: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, fields) of each record of CSV."""
    csv.field_size_limit(max(len(text), MAX_LINE_BYTES))
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 0
    try:
        for cells in reader:
            yield line + 1, cells
            line = reader.line_num
    except csv.Error as error:
        hint = "a field with quotes in it is written in quotes, and they are doubled"
        raise DataError(f"{spec}:{line + 1}:1: the record that begins here is not CSV ({error}); {hint}") from None


def _tab_separated(spec: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, fields) of each record of TSV; the module describes quotes."""
    text, at, line, width = text.replace("\r\n", "\n").replace("\r", "\n"), 0, 1, 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        cells, stop = _plain(text[at:end]), end
        if '"' in text[at:end] and width:
            quoted, quoted_end = _quoted(text, at)
            spanned = text[at:quoted_end].split("\n")
            if len(quoted) == width and any(part.count("\t") + 1 != width for part in spanned):
                cells, stop = quoted, quoted_end
        yield line, cells
        width = width or len(cells) * any(map(str.strip, cells))
        line += text.count("\n", at, stop) + 1
        at = stop + 1


def _plain(line: str) -> list[str]:
    """Returns the fields of a line; quotes around a whole field are removed."""
    return [m[1].replace('""', '"') if (m := _WHOLE_CELL.fullmatch(cell)) else cell for cell in line.split("\t")]


def _quoted(text: str, at: int) -> tuple[list[str], int]:
    """Returns the fields of the record at an offset, with quotes as spreadsheets write them, and its end."""
    cells: list[str] = []
    while True:
        cell = _CELL.match(text, at)
        cells.append(cell[0] if cell[1] is None else cell[1].replace('""', '"'))
        at = cell.end() + 1
        if text[cell.end() : at] != "\t":
            return cells, cell.end()


def _read_parquet(spec: str) -> Iterator[Read]:
    parquet = _library(spec, "pyarrow.parquet")
    try:
        with parquet.ParquetFile(Path(spec).expanduser()) as file:
            _check_fields(spec, file.schema_arrow)
            yield from _numbered(row for batch in file.iter_batches() for row in batch.to_pylist())
    except DataError:
        raise
    except Exception as error:  # pyarrow's own errors, OSError, ...
        raise DataError(f"{spec}: cannot be read as Parquet ({_reason(error)})") from None


def _check_fields(place: str, fields: Iterable[Any]) -> None:
    """Raises DataError if a Parquet schema, or a structure in it, has a name twice."""
    fields = list(fields)
    _check_names(place, [field.name for field in fields])
    for field in fields:
        kind = field.type
        while hasattr(kind, "value_type"):  # nested lists
            kind = kind.value_type
        _check_fields(f"{place}: in {field.name!r}", [kind.field(i) for i in range(kind.num_fields)])


def _read_hub(spec: str) -> Iterator[Read]:
    match = _HUB.fullmatch(spec)
    if not match:
        raise ConfigError(f"data.files: {spec} must be hub:owner/name@commit[:split], the commit in 40 hex digits")
    datasets = _library(spec, "datasets")
    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):  # the error below reports the failure
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        with notice(f"{spec} from the Hub"):
            rows = datasets.load_dataset(match["name"], revision=match["commit"], split=match["split"] or "train")
    except Exception as error:  # errors of the library, the network and the disk
        hint = "check name, commit and network, or use a local file"
        raise StorageError(f"{spec}: cannot be loaded from the Hub ({_reason(error)}); {hint}") from None
    yield from _numbered(rows)


def _library(spec: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        needed = name.split(".")[0]
        raise ConfigError(f"data.files: {spec} needs the {needed} package; pip install 'ecomgpt_jax[hub]'") from None


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[Read]:
    for number, row in enumerate(rows, 1):
        yield number, "\t".join(map(str, row.values())), row


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


_READERS = {
    **dict.fromkeys((".jsonl", ".json"), _read_json_lines),
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}
