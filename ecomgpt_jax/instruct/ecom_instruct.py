"""Builds the instruction data set: the rows of a mixture as a tfds data set, under a hash of what made them.

    <cache_dir>/datasets/<key>/ecom_instruct/1.0.0/   the tfds data set
                              /held_out/              task folders of the held-out tasks
                              /built.json             fingerprint and statistics, written last

Where `data.total_instances` says how many rows there are, the whole data set is built first, with all tasks, and rows
of the chosen ones are taken from it (`sample`): settings that differ in their choice alone share all the reading. Which
records repeat others is kept in `<key>.repeats.json` for builds that differ in seed, wording and limits.

A build happens in a folder of its own beside the final one and is moved there when it is whole; a lock keeps a second
process from doing the same work, and whoever holds it removes what killed builds have left.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import shutil
import tempfile
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.files import read_json, write_json
from ecomgpt_jax.instruct import choice, keys, mixture, parts, sample
from ecomgpt_jax.instruct.parts import DIGEST_BYTES, SPLITS, from_example
from ecomgpt_jax.instruct.quarantine import Quarantine
from ecomgpt_jax.instruct.rows import FIELDS, Account, Row
from ecomgpt_jax.instruct.tasks.task import Task
from ecomgpt_jax.waiting import file_lock


@dataclasses.dataclass(frozen=True)
class Built:
    """A built data set.

    Attributes:
      directory: the tfds data set (array_record), for `open_split`.
      fingerprint: sha256 over each split's name and the sha256 (`parts.digest`) of each of its decoded rows, in order.
      stats: {"tasks": {name: {"language", "family", "operator", "parent", "source", "abilities", "train", "test",
        "held_out"}}, "sources": {...}, "files": {...}, "near_held_out": {...}, "quarantine": {...}, "dropped": {...},
        "totals": {...}}.
      held_out_dir: task folders of the held-out tasks; None where the mixture has none.
    """

    directory: Path
    fingerprint: str
    stats: dict[str, Any]
    held_out_dir: Path | None


class EcomInstruct(tfds.core.dataset_builder.FileReaderBuilder):
    """The tfds builder: one shard a part of `mixture.parts`, made in processes here or, with Beam options, on Beam.

    Attributes:
      account: what became of everything.
      held_out: rows of each held-out task.
      digest: of all rows, the data set's fingerprint.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos: typing.ClassVar[dict[str, Any]] = {}  # nothing to download; tfds would look for a list beside this file

    def __init__(
        self, data: DataConfig, folder: Path, quarantine: Path, whole: Built | None = None, **kwargs: Any
    ) -> None:
        """Takes the settings, the folder to make parts in and the file for bad records; all workers must see both.

        Rows are taken from the `whole` data set if there is one, and made otherwise.
        """
        self._data, self._folder, self._whole = data, folder, whole
        self.account, self.held_out = Account(quarantine=Quarantine(quarantine)), {}
        self.digest = hashlib.sha256()
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in FIELDS})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        if self._whole is None:
            names = self._make(download_config)
        else:
            read, stats = functools.partial(open_split, self._whole.directory), self._whole.stats
            names = [sample.take(self._data, stats, read, self._folder, self.account)]
            self.held_out = {name: entry["test"] for name, entry in stats["tasks"].items() if entry["held_out"]}
        if not self.account.rows["train"]:
            why = self.account.nothing_made() or "see data.sources, data.languages, data.synthetic_records"
            raise DataError(f"data: no training row was made; {why}")
        splits = [self._collect(split, names) for split in SPLITS]
        self.info.set_splits(tfds.core.SplitDict([split for split in splits if split.num_examples]))

    def _make(self, download_config: tfds.download.DownloadConfig) -> list[str]:
        """Makes all parts from their sources; returns their names."""
        names = mixture.parts(self._data)
        bad = self.account.quarantine.path
        runner, options = download_config.beam_runner, download_config.beam_options
        workers = max(1, min(self._data.workers or os.cpu_count() or 1, len(names)))
        with contextlib.ExitStack() as stack:
            if runner or options:
                run = parts.beam_workers(runner, options)
            else:
                run = stack.enter_context(parts.processes(workers))
            if surveyed := mixture.surveyed(self._data):
                known = _root(self._data) / f"{keys.survey_key(self._data, surveyed)}.repeats.json"
                if not known.is_file():
                    run(functools.partial(parts.survey_part, self._data, self._folder, bad), surveyed, "survey")
                    write_json(known, parts.settle(surveyed, self._folder))
                for part, repeats in read_json(known).items():
                    write_json(self._folder / f"{part}.repeats.json", repeats)
            run(functools.partial(parts.make_part, self._data, self._folder, bad), names, "build")
        for name in names:
            made = read_json(self._folder / f"{name}.json")
            self.account.add(made["account"])
            self.held_out |= made["held_out"]
        self.account.quarantine.write()
        return names

    def _collect(self, split: str, names: Sequence[str]) -> tfds.core.SplitInfo:
        """Moves the files of a split's parts to where tfds looks for its shards, and takes up their digests."""
        made = [file for name in names if (file := self._folder / f"{name}.{split}").is_file()]
        template = self._get_filename_template(split)
        lengths, size = [], 0
        self.digest.update(split.encode())
        for index, file in enumerate(made):
            digests = file.with_name(f"{file.name}.digests").read_bytes()
            self.digest.update(digests)
            lengths.append(len(digests) // DIGEST_BYTES)
            size += file.stat().st_size
            os.replace(file, template.sharded_filepath(shard_index=index, num_shards=len(made)))
        return tfds.core.SplitInfo(split, lengths, size, template)


def _root(data: DataConfig) -> Path:
    return Path(data.cache_dir).expanduser() / "datasets"


def build(data: DataConfig) -> Built:
    """Returns the data set of the settings, built now or found where an earlier call has left it.

    Raises:
      ConfigError: a script called this at its top level, so that the processes of a build call it too.
      EcomError: a setting, source or task folder is wrong or missing; nothing is left behind.
    """
    root = _root(data)
    root.mkdir(parents=True, exist_ok=True)
    key = keys.cache_key(data)
    final = root / key
    parts.refuse_in_worker()
    with file_lock(root / f"{key}.lock", "another process that builds the same data set"):
        if not (final / "built.json").is_file():
            _remove_leftovers(root, key)
            shutil.rmtree(final, ignore_errors=True)
            working = Path(tempfile.mkdtemp(prefix=f"{key}.tmp", dir=root))
            try:
                _write(data, working, build(sample.whole(data)) if data.total_instances else None)
                os.replace(working, final)
            finally:
                shutil.rmtree(working, ignore_errors=True)
    return load_built(final)


def _remove_leftovers(root: Path, own: str) -> None:
    """Removes the working folders of builds that no process holds the lock of (`own` is ours)."""
    for leftover in root.glob("*.tmp*"):
        key = leftover.name.split(".tmp")[0]
        lock = contextlib.nullcontext() if key == own else file_lock(root / f"{key}.lock", key, wait=False)
        with contextlib.suppress(BlockingIOError), lock:
            shutil.rmtree(leftover, ignore_errors=True)


def load_built(directory: Path) -> Built:
    """Returns the data set that `build` left in a folder."""
    built = read_json(directory / "built.json")
    held_out = directory / "held_out"
    return Built(
        directory=directory / built["directory"],
        fingerprint=built["fingerprint"],
        stats=built["stats"],
        held_out_dir=held_out if held_out.is_dir() else None,
    )


def _write(data: DataConfig, working: Path, whole: Built | None) -> None:
    made = working / "parts"
    made.mkdir()
    config = tfds.download.DownloadConfig(beam_options=parts.beam_options(data) if data.beam_options else None)
    quarantine = working.parent / f"{working.name.split('.')[0]}.quarantine.jsonl"
    builder = EcomInstruct(data, made, quarantine, whole, data_dir=str(working), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # tfds announces a download, and there is none
        builder.download_and_prepare(download_dir=str(working / "downloads"), download_config=config)
    shutil.rmtree(working / "downloads", ignore_errors=True)
    if whole is not None and whole.held_out_dir:
        shutil.copytree(whole.held_out_dir, working / "held_out")
    elif (made / "held_out").is_dir():
        os.replace(made / "held_out", working / "held_out")
    stats = _stats(data, builder)
    if whole is not None:
        stats["quarantine"] = whole.stats["quarantine"]
    shutil.rmtree(made)
    write_json(
        working / "built.json",
        {
            "directory": str(Path(builder.data_path).relative_to(working)),
            "fingerprint": builder.digest.hexdigest(),
            "stats": stats,
        },
    )


def _stats(data: DataConfig, builder: EcomInstruct) -> dict[str, Any]:
    account = builder.account
    train, test = account.rows["train"], account.rows["test"]
    tasks: dict[str, dict[str, Any]] = {}
    if data.mixture == "folder":
        for folder in mixture.folder_tasks(data):
            described = {"language": folder.language, "family": folder.family, "operator": "", "parent": ""}
            tasks[folder.name] = {**described, "source": folder.dataset}
    elif data.mixture != "files":
        for task in choice.training_tasks(data):
            tasks[task.name] = describe(task)
    tasks |= account.own
    for name, entry in tasks.items():
        entry |= {"train": train[name], "test": test[name], "held_out": False}
    if data.mixture != "folder":
        for task in choice.held_out_tasks(data):
            rows = builder.held_out.get(task.name, 0)
            tasks[task.name] = {**describe(task), "train": 0, "test": rows, "held_out": True}
    training = [entry for entry in tasks.values() if not entry["held_out"]]
    totals = {
        "tasks": len(tasks),
        "training_tasks": len(training),
        "held_out_tasks": len(tasks) - len(training),
        "atomic_tasks": sum(bool(entry["operator"]) for entry in tasks.values()),
        "train": train.total(),
        "test": test.total(),
        "empty_tasks": sorted(name for name, entry in tasks.items() if not entry["train"] + entry["test"]),
    }
    return {
        "tasks": tasks,
        "sources": account.sources,
        "files": account.files,
        "near_held_out": choice.near_sources(data) if data.strict_held_out else {},
        "quarantine": {"records": len(account.quarantine.records), "file": str(account.quarantine.path)},
        "dropped": dict(sorted(account.dropped.items())),
        "totals": totals,
    }


def describe(task: Task) -> dict[str, Any]:
    """Returns what the statistics say of a task beside its counts."""
    names = ("language", "family", "operator", "parent", "source")
    return {**{name: getattr(task, name) for name in names}, "abilities": list(task.abilities)}


class _Split(Sequence[Row]):
    """Random access to the rows of a split; parses the stored bytes itself, five times as fast as tfds does."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @typing.overload
    def __getitem__(self, index: int) -> Row: ...

    @typing.overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row]:
        """Returns several rows at once, which costs less a row."""
        return [from_example(raw) for raw in self._source.__getitems__(indices)]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), 1024):
            yield from self[start : start + 1024]


def open_split(directory: str | os.PathLike[str], split: str) -> Sequence[Row]:
    """Returns the rows of a split ("train" or "test") as dictionaries of strings with random access.

    Raises:
      ConfigError: there is no such split name.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is none of {', '.join(SPLITS)}")
    builder = tfds.builder_from_directory(str(directory))
    if split not in builder.info.splits:
        return []
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return _Split(builder.as_data_source(split, deserialize_method=raw))
