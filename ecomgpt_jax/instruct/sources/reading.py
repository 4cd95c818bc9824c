"""The declaration of a source, and the function that reads all sources.

A declaration has the origin of the files, their form (`rows`), and the records of a row (`fields`, or a function that
yields drafts of records). The reader counts rows, sets id, group and language of records, and lists each malformed row,
so declarations need not do this.
"""

import collections
import dataclasses
import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecomgpt_jax.instruct.records import Draft, LeftOut, Record
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.rows import Counted, csv_rows

NO_LICENCE = "unclear (repo has no licence file)"
_PLACE = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})(?:/(.+))?")
_NO_DATA = re.compile(r"(?i)(?:.*/)?(?:readme(?:\.(?:txt|rst))?|[^/]*\.(?:md|py))")  # guides and code next to the data
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)


class BadRow(NamedTuple):
    """A row that could not be read: its place, the reason, and the beginning of its content."""

    file: str
    line: int
    reason: str
    text: str


@dataclasses.dataclass
class ReadLog:
    """Counts of one reading: upstream rows read, rows left out intentionally, by reason, malformed rows."""

    rows: int = 0
    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: list[BadRow] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One raw data set; its files are those that `files.sha256` lists.

    Attributes:
        name: Folder below the sources folder; begins with the language of the texts: `en_`, `zh_` or `zh_en_`.
        licence: As upstream states it.
        redistributable: Whether that licence allows redistribution.
        place: Public GitHub repository, commit (40 hexadecimal digits) and folder: `owner/name@commit/folder`; "" for
            a local source, which `fetch` never downloads.
        renamed: Upstream path (below the repository root) of each file that is not at `folder/file`;
            `archive.zip!name` is the file of that name in any folder of a zip archive.
        derive: Makes a file's bytes from the upstream bytes, for sources that contain a part of a file.
        records: Upstream records in the files, before any merging or splitting.
        rows: Form of the files: path -> (line number, row) pairs, see `rows.py`.
        joined: For rows that need several files: (folder, files) -> (file, line number, row) triples; replaces `rows`.
        record: (row, file) -> drafts of the row's records; raises `LeftOut` for a row to leave out, and
            any error of values, types or keys for a malformed one.
        note: Reason why the number of records read differs from `records`, in one line.
    """

    name: str
    licence: str
    redistributable: bool = False
    place: str = ""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    derive: Callable[[bytes], bytes] | None = None
    records: int
    rows: Callable[[Path], Iterable[tuple[int, Any]]] = csv_rows
    joined: Callable[[Path, Sequence[str]], Iterable[tuple[str, int, Any]]] | None = None
    record: Callable[[Any, str], Iterable[Draft]]
    note: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a name without a language or a place that is not `owner/name@commit/folder`."""
        if not re.match(r"(zh_|en_)+\w", self.name):
            raise ValueError(f"source {self.name!r}: its name must begin with the language: en_, zh_ or zh_en_")
        if self.place and not _PLACE.fullmatch(self.place):
            form = 'owner/name@<40 hex digits>/folder, or "" for local files'
            raise ValueError(f"source {self.name}: place {self.place!r} is not {form}")

    @property
    def language(self) -> str:
        """The languages of the texts: "en", "zh" or "zh+en"."""
        return re.match(r"((?:zh_|en_)+)", self.name)[1].rstrip("_").replace("_", "+")

    @property
    def files(self) -> Mapping[str, str]:
        """The sha256 of each file, by its path inside the source's folder."""
        return FILES.get(self.name, {})

    def remote(self, file: str) -> str:
        """Returns where a file comes from: `owner/name/commit/path`, with `!name` after the path of an archive.

        The source must have a place.
        """
        repo, commit, folder = _PLACE.fullmatch(self.place).groups()
        return f"{repo}/{commit}/{self.renamed.get(file) or (f'{folder}/{file}' if folder else file)}"


def text_group(text: str, fallback: str) -> str:
    """Returns a group that equal texts share: a hash of the letters and digits, case and width folded.

    Args:
        text: The sentence, review, query or title.
        fallback: The group if the text has no letters or digits (the record's id).
    """
    kept = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
    return hashlib.blake2b(kept.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if kept else fallback


def read_records(source: Source, folder: Path, files: Iterable[str], log: ReadLog) -> Iterator[Record]:
    """Yields the records of a source's files, with ids `file:line` and `file:line#part`.

    The records of a row share a group. Guides (`README`, `README.txt`, `.md`) and code among the files are not read.

    Args:
        source: The declaration.
        folder: Folder of the files.
        files: Files in it, in order.
        log: Receives all rows, and the reasons for those left out or malformed.

    Raises:
        DataError: A file does not have its form at all.
    """
    files = [file for file in files if not _NO_DATA.fullmatch(file)]
    rows = source.joined(folder, files) if source.joined else _rows_by_file(source, folder, files)
    language = source.language
    for file, number, row in rows:
        count, row = row if isinstance(row, Counted) else (1, row)
        log.rows += count
        try:
            if isinstance(row, Exception):
                raise row
            records = list(_complete(source.record(row, file), f"{file}:{number}", language))
            if len({record.id for record in records}) < len(records):
                raise ValueError(f"two of its records have no name after the type: {records[0].id}")
        except LeftOut as reason:
            log.skipped[str(reason)] += 1
        except _MALFORMED as error:
            log.bad.append(BadRow(file, number, _reason(error), str(getattr(error, "text", row))[:200]))
        else:
            yield from records


def _rows_by_file(source: Source, folder: Path, files: Iterable[str]) -> Iterator[tuple[str, int, Any]]:
    for file in files:
        for number, row in source.rows(folder / file):
            yield file, number, row


def _complete(drafts: Iterable[Draft], id_: str, language: str) -> Iterator[Record]:
    """Yields the records of drafts; their group is the given one, or that of the first draft's first text."""
    group = ""
    for kind, part, fields in drafts:
        group = fields.get("group") or group or text_group(fields[_first_text(kind)], id_)
        yield kind(**{"id": f"{id_}#{part}" if part else id_, "language": language} | fields | {"group": group})


@functools.cache
def _first_text(kind: type[Record]) -> str:
    return dataclasses.fields(kind)[len(dataclasses.fields(Record))].name


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing or unknown"
    return str(error) if isinstance(error, ValueError) else f"not as expected: {error!r}"
