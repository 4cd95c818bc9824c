"""Where records and evaluation rows are found, by settings and environment, and how a source is read."""

import functools
from collections.abc import Sequence
from pathlib import Path

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.files import BadRecord, find_data
from ecomgpt_jax.instruct import contamination
from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.rows import Account
from ecomgpt_jax.instruct.sources import catalogue as real_sources
from ecomgpt_jax.instruct.sources.reading import Intake
from ecomgpt_jax.instruct.synthetic import catalogue as synthetic_sources


def sources_dir(data: DataConfig) -> Path:
    """Returns the folder of real sources.

    Raises:
      MissingInputError: there is none, or the setting or the environment names no folder.
    """
    if not (directory := find_data(data.sources_dir, "ECOMGPT_SOURCES", "sources")):
        raise MissingInputError(
            f"data.mixture={data.mixture} needs the sources: run `python -m ecomgpt_jax.fetch sources`, or set "
            "data.sources_dir or ECOMGPT_SOURCES"
        )
    return directory


def evaluation_dirs(data: DataConfig) -> list[Path]:
    """Returns the evaluation tasks whose text must stay out; the embedded catalogue alone needs none.

    Raises:
      MissingInputError: ECOMGPT_EVAL names no folder.
    """
    if data.mixture == "synthetic" and not data.files:
        return []
    directory = find_data("", "ECOMGPT_EVAL", "evaluation")
    return [directory] if directory else []


def exclusion(data: DataConfig) -> Exclusion | None:
    """Returns what keeps the texts of `evaluation_dirs` out of training; None where there are none."""
    directories = tuple(evaluation_dirs(data))
    return _load_exclusion(directories, tuple(map(contamination.checksum, directories))) if directories else None


@functools.lru_cache(maxsize=1)
def _load_exclusion(directories: tuple[Path, ...], checksums: tuple[str, ...]) -> Exclusion:
    """Returns the exclusion, loaded once for all parts that a process makes; the checksums tell when it is outdated."""
    return contamination.load_exclusion(directories)


def read_source(name: str, data: DataConfig, account: Account | None = None) -> Sequence[Record]:
    """Returns all records of a source; the account gets upstream's number of them, what was left out and what is bad.

    Raises:
      EcomError: the source is missing or broken, or too many of its records are bad.
    """
    if name.startswith(synthetic_sources.PREFIX):
        return synthetic_sources.read(name, data.synthetic_records, data.seed)
    intake = Intake()
    source = real_sources.source(name)
    records = list(real_sources.read(source, sources_dir(data), intake))
    bad = [BadRecord(f"{name}/{b.file}", b.line, 1, f"{b.column}: {b.reason}".lstrip(": "), b.text) for b in intake.bad]
    account = account or Account()
    account.quarantine.add(name, intake.rows, bad)
    account.sources[name] = {
        "upstream": source.records,
        "read": intake.rows,
        "skipped": dict(sorted(intake.skipped.items())),
        "malformed": len(intake.bad),
        "note": source.note,
    }
    return records
