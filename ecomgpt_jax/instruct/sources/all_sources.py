"""All sources by name, and the reading of one of them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ecomgpt_jax.config import nearest
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.sources import (
    aspects,
    attributes,
    dialogues,
    entities,
    listings,
    matching,
    queries,
    questions,
    reviews,
    triplets,
)
from ecomgpt_jax.instruct.sources.checksums import file_sha256
from ecomgpt_jax.instruct.sources.reading import ReadLog, Source, read_records

_FAMILIES = (aspects, attributes, listings, dialogues, entities, matching, queries, questions, reviews, triplets)
SOURCES: dict[str, Source] = {
    each.name: each for each in sorted((s for family in _FAMILIES for s in family.SOURCES), key=lambda s: s.name)
}


def source(name: str) -> Source:
    """Returns the source with this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in SOURCES:
        raise ConfigError(f"data.sources: no source {name!r}{nearest(name, SOURCES)}")
    return SOURCES[name]


def check_files(source: Source, sources_dir: str | os.PathLike[str], changed_after: float = 0) -> Path:
    """Returns the source's folder after comparing the sha256 of each file that changed (`st_ctime`) after a time.

    Raises:
        ConfigError: No checksums are pinned.
        MissingInputError: The folder or a file is missing.
        DataError: A file differs from the pinned one.
    """
    folder = Path(sources_dir) / source.name
    if not source.files:
        raise ConfigError(
            f"{source.name}: files.sha256 lists none of its files; run "
            f"`python -m ecomgpt_jax.fetch --pin sources/{source.name} --dir DIR`"
        )
    for file, expected in source.files.items():
        path = folder / file
        if not path.is_file():
            how = f"run `python -m ecomgpt_jax.fetch sources {source.name}`" if source.place else "put it there"
            raise MissingInputError(
                f"{path}: missing; {how}, or point ECOMGPT_SOURCES (or data.sources_dir) at the folder that holds "
                f"{source.name}"
            )
        if path.stat().st_ctime > changed_after and (found := file_sha256(path)) != expected:
            again = "fetch the source again, or pin" if source.place else "pin"
            raise DataError(
                f"{path}: sha256 {found}, expected {expected}; {again} it anew: "
                f"`python -m ecomgpt_jax.fetch --pin sources/{source.name} --dir DIR`"
            )
    return folder


def check_changed(names: Iterable[str], sources_dir: str | os.PathLike[str], after: float) -> None:
    """Compares the files of the sources whose folders exist, if they changed after a time (POSIX, seconds).

    Raises:
        MissingInputError: A file is missing.
        DataError: A file differs from the pinned one.
    """
    for name in names:
        if (Path(sources_dir) / name).is_dir():
            check_files(SOURCES[name], sources_dir, after)


def read(
    source: Source, sources_dir: str | os.PathLike[str], log: ReadLog | None = None, *, verify: bool = True
) -> Iterator[Record]:
    """Yields the records of a source.

    Args:
        source: From `source(name)` or `SOURCES`.
        sources_dir: Folder that holds one folder per source.
        log: Receives rows read, rows left out and malformed rows; complete when the iterator ends.
        verify: Whether to compare checksums before the first record; False if they were compared already.

    Raises:
        ConfigError: No checksums are pinned.
        MissingInputError: The folder or a file is missing.
        DataError: A file differs from the pinned one.
    """
    folder = check_files(source, sources_dir) if verify else Path(sources_dir) / source.name
    yield from read_records(source, folder, source.files, log if log is not None else ReadLog())
