"""Finds and reads sources and evaluation tasks for a build, splits a source's records, and counts them.

A record and everything derived from it are in one split, by the hash of its source and group. Of user data at most a
tenth is in the test split, so that training data remains however few groups there are.
"""

import collections
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.files import BadRecord, find_data, write_json_lines
from ecomgpt_jax.instruct import benchmarks, contamination
from ecomgpt_jax.instruct.contamination import Exclusion, texts_of
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.sources import all_sources
from ecomgpt_jax.instruct.sources.reading import ReadLog
from ecomgpt_jax.instruct.synthetic import products

MAX_BAD_SHARE = 0.001  # of a source's records; above it the file is damaged or in another format
TEST_SHARE = 0.02  # of the groups of a source
_TEXT = 2000  # characters of a bad record that are kept
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclasses.dataclass
class BuildStats:
    """Counts of a build, or of one shard of it.

    Attributes:
      bad_file: file that lists the bad records; None: they are kept in memory.
      rows: rows by split and task.
      dropped: records and rows left out, by reason.
      sources: counts of upstream's records, those read and those left out, by source.
      bad: the records that could not be read.
      own: language, family, ... of each task from users' files.
      files: description of each of the users' files.
    """

    bad_file: Path | None = None
    rows: dict[str, collections.Counter[str]] = dataclasses.field(
        default_factory=lambda: {"train": collections.Counter(), "test": collections.Counter()}
    )
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    sources: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    bad: list[BadRecord] = dataclasses.field(default_factory=list)
    own: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def add_bad(self, source: str, count: int, bad: Sequence[BadRecord]) -> None:
        """Adds the bad ones of the `count` records of a source.

        Raises:
          DataError: their share exceeds `MAX_BAD_SHARE`; names the first, and the file that lists all.
        """
        self.bad += bad
        if len(bad) > MAX_BAD_SHARE * count:
            self.write_bad()
            listed = f"; all are listed in {self.bad_file}" if self.bad_file else ""
            raise DataError(
                f"{bad[0]} ({len(bad):,} of {count:,} records of {source} are bad, above {MAX_BAD_SHARE:.1%}{listed})"
            )

    def write_bad(self) -> None:
        """Writes the file of bad records; if there are none, removes that of an earlier build."""
        if self.bad_file and self.bad:
            lines = ({"place": f"{b.file}:{b.line}:{b.column}", "reason": b.reason, "text": b.text} for b in self.bad)
            write_json_lines(self.bad_file, (line | {"text": line["text"][:_TEXT]} for line in lines))
        elif self.bad_file:
            self.bad_file.unlink(missing_ok=True)

    def add_source(self, name: str, records: int, refused: int, fates: Iterable[str]) -> dict[str, Any]:
        """Adds records of user data to their entry of `sources`, and returns it.

        Args:
          name: of the file or the data set of task folders.
          records: their number.
          refused: number of bad ones.
          fates: for each of the others "train", "test", or the reason to leave it out.
        """
        entry = self.sources.setdefault(name, {"records": 0, "train": 0, "test": 0, "refused": 0, "left_out": {}})
        counts = collections.Counter(fates)
        for key, count in (("records", records), ("refused", refused), *((k, counts.pop(k, 0)) for k in self.rows)):
            entry[key] += count
        entry["left_out"] = dict(sorted((collections.Counter(entry["left_out"]) + counts).items()))
        return entry

    def nothing_made(self) -> str:
        """Returns the reason why no training row was made, from the counts."""
        said = [f"{name}: {describe_fates(entry)}" for name, entry in self.sources.items() if "left_out" in entry]
        said += [f"dropped, {reason}: {count:,}" for reason, count in self.dropped.items()]
        return "; ".join(said)

    def as_json(self) -> dict[str, Any]:
        """Returns the counts as JSON values, the input of `add`."""
        return {name: value for name, value in vars(self).items() if name != "bad_file"}

    def add(self, shard: Mapping[str, Any]) -> None:
        """Adds the counts of a shard."""
        for split, counts in shard["rows"].items():
            self.rows[split].update(counts)
        self.dropped.update(shard["dropped"])
        self.bad += [BadRecord(*record) for record in shard["bad"]]
        for name in ("sources", "own", "files"):
            getattr(self, name).update(shard[name])


def licence_of(source: str) -> str:
    """Returns the licence of a source; that of users' files is unknown."""
    if source in all_sources.SOURCES:
        return all_sources.source(source).licence
    return "generated by ecomgpt_jax" if source.startswith(products.PREFIX) else "see its origin"


def describe_fates(entry: Mapping[str, Any]) -> str:
    """Returns the counts of a file's records (its entry in `BuildStats.sources`) as text."""
    left = ", ".join(f"{reason}: {count:,}" for reason, count in entry["left_out"].items())
    return (
        f"{entry['train']:,} trained on, {entry['test']:,} tested, {entry['refused']:,} refused, "
        f"{sum(entry['left_out'].values()):,} left out" + (f" ({left})" if left else "")
    )


def sources_dir(data: DataConfig) -> Path:
    """Returns the folder of real sources.

    Raises:
      MissingInputError: there is none, or the setting or the variable does not name a folder.
    """
    if not (directory := find_data(data.sources_dir, "ECOMGPT_SOURCES", "sources")):
        raise MissingInputError(
            f"data.mixture={data.mixture} needs the sources: run `python -m ecomgpt_jax.fetch sources`, or set "
            "data.sources_dir or ECOMGPT_SOURCES"
        )
    return directory


def evaluation_dirs(data: DataConfig) -> list[Path]:
    """Returns the evaluation tasks whose text must not be trained on, with those of every installed benchmark.

    The embedded catalogue needs none.

    Raises:
      MissingInputError: ECOMGPT_EVAL or ECOMGPT_BENCHMARKS does not name a folder.
      DataError: a benchmark is not the pinned one.
    """
    if not _compares(data):
        return []
    directory = find_data("", "ECOMGPT_EVAL", "evaluation")
    at_hand = [name for name in benchmarks.BENCHMARKS if benchmarks.find_benchmark(name)]
    return ([directory] if directory else []) + [benchmarks.task_folders(name, data.cache_dir) for name in at_hand]


def missing_evaluation(data: DataConfig, what: str) -> str:
    """Returns a line if the official evaluation tasks, with which `what` ("row") is compared, are not installed."""
    if not _compares(data) or find_data("", "ECOMGPT_EVAL", "evaluation"):
        return ""
    return (
        f"no official evaluation tasks are installed, so no {what} was compared with them; "
        "`python -m ecomgpt_jax.fetch evaluation` installs them"
    )


def _compares(data: DataConfig) -> bool:
    return data.mixture != "synthetic" or bool(data.files)  # the embedded catalogue holds no real text


def exclusion(data: DataConfig) -> Exclusion | None:
    """Returns the exclusion of the texts of `evaluation_dirs`; None if there are none."""
    directories = tuple(evaluation_dirs(data))
    return _load_exclusion(directories, tuple(map(contamination.checksum, directories))) if directories else None


@functools.lru_cache(maxsize=1)
def _load_exclusion(directories: tuple[Path, ...], checksums: tuple[str, ...]) -> Exclusion:
    """Returns the exclusion, loaded once per process and set of checksums."""
    return contamination.load_exclusion(directories)


def read_source(name: str, data: DataConfig, stats: BuildStats | None = None) -> Sequence[Record]:
    """Returns all records of a source; adds upstream's count, rows left out and bad records to `stats`.

    Raises:
      EcomError: the source is missing or broken, or too many of its records are bad.
    """
    if name.startswith(products.PREFIX):
        return products.read(name, data.synthetic_records, data.seed)
    log, source = ReadLog(), all_sources.source(name)
    records = list(all_sources.read(source, sources_dir(data), log))
    bad = [BadRecord(f"{name}/{b.file}", b.line, 1, b.reason, b.text) for b in log.bad]
    stats = stats or BuildStats()
    stats.add_bad(name, log.rows, bad)
    stats.sources[name] = {
        "upstream": source.records,
        "read": log.rows,
        "skipped": dict(sorted(log.skipped.items())),
        "malformed": len(log.bad),
        "note": source.note,
    }
    return records


def split_of(source: str, group: str) -> str:
    """Returns "held_out", "test" or "train" for a group of records, which depends only on source and group."""
    if source.startswith(products.PREFIX):
        if group.startswith(products.EVALUATION):
            return "held_out"
        source = source.removeprefix(products.PREFIX).rsplit("_", 1)[1]  # one split per product
    return "test" if _share(source, group) < TEST_SHARE else "train"


def _share(source: str, group: str) -> float:
    digest = hashlib.blake2b(f"{source}\n{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def groups_to_test(source: str, sizes: Mapping[str, int], most: int) -> set[str]:
    """Returns the groups of user data for the test split: those that `split_of` selects, up to the limit.

    Args:
      source: hashed together with the group.
      sizes: rows by group.
      most: maximum number of test rows; a tenth of all rows is the other limit.
    """
    room, chosen = min(most, sum(sizes.values()) // 10), set()
    for group in sorted(sizes, key=lambda group: _share(source, group)):
        if _share(source, group) < TEST_SHARE and sizes[group] <= room:
            room -= sizes[group]
            chosen.add(group)
    return chosen


def split_records(
    name: str,
    records: Sequence[Record],
    exclusion: Exclusion | None,
    stats: BuildStats,
    repeats: Mapping[str, str] | None = None,
) -> dict[str, list[Record]]:
    """Returns the records by split; counts those left out.

    Args:
      name: of the source.
      records: all of its records.
      exclusion: evaluation text; None: no check.
      stats: receives the counts.
      repeats: {id of a record to leave out: reason}.
    """
    split: dict[str, list[Record]] = {"train": [], "test": [], "held_out": []}
    for record in records:
        reason = unfit(record, exclusion) or (repeats or {}).get(record.id)
        if reason:
            stats.dropped[reason] += 1
        else:
            split[split_of(name, record.group)].append(record)
    kept_out = {texts_of(record) for record in split["held_out"]}
    if kept_out:
        clean = [record for record in split["train"] if texts_of(record) not in kept_out]
        stats.dropped["held-out copy"] += len(split["train"]) - len(clean)
        split["train"] = clean
    counts = {"records": len(records), **{key: len(kept) for key, kept in split.items()}}
    stats.sources[name] = stats.sources.get(name, {}) | counts
    return split


def unfit(record: Record, exclusion: Exclusion | None) -> str:
    """Returns the reason to leave a record out, independent of other records, or an empty string."""
    if exclusion and (reason := exclusion.reason(record)):
        return f"evaluation {reason}"
    return "control character" if any(map(_CONTROL.search, texts_of(record))) else ""
