"""Builds the instruction data set: the rows of a mixture as a tfds data set, named by a hash of its inputs.

    <cache_dir>/datasets/<key>/ecom_instruct/1.0.0/   the tfds data set
                              /held_out/              task folders of the held-out tasks
                              /built.json             fingerprint and statistics, written last

A build runs from `choose` (which tasks) over `read` and `make` (records to rows, one shard per source) to `write`. With
`data.total_instances`, the data set of all tasks is built first, and rows of the chosen tasks are selected from it:
settings that differ only in that choice share the build. The records that repeat others are listed in
`<key>.repeats.json`, for builds that differ in seed, wording and limits.

A build writes into a temporary folder next to the final one and renames it when it is complete; a lock prevents two
processes from doing the same work, and the process that holds it removes the folders of killed builds.
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
from ecomgpt_jax.instruct import choose, make, own_data, task_folder, write
from ecomgpt_jax.instruct.choose import Choice
from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Row
from ecomgpt_jax.instruct.read import BuildStats
from ecomgpt_jax.instruct.task_folder import TaskFolder
from ecomgpt_jax.instruct.tasks.task import Task
from ecomgpt_jax.instruct.write import SPLITS
from ecomgpt_jax.waiting import file_lock

# Settings that choose among the rows of a whole data set, at values that keep all rows.
_NO_CHOICE = {
    "tasks": (), "operators": (), "leave_out_abilities": (), "chain_of_task": True, "num_tasks": 0,
    "total_instances": 0, "temperature": 1.0, "family_temperature": 1.0, "unseen_tasks": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Built:
    """A built data set.

    Attributes:
      directory: the tfds data set (array_record), for `open_split`.
      fingerprint: sha256 over each split's name and the sha256 (`write.digest`) of each of its decoded rows, in order.
      stats: {"tasks": {name: {"language", "family", "operator", "parent", "source", "abilities", "train", "test",
        "held_out"}}, "sources": {...}, "files": {...}, "near_held_out": {...}, "quarantine": {...}, "dropped": {...},
        "totals": {...}}.
      held_out_dir: task folders of the held-out tasks; None if the mixture has none.
    """

    directory: Path
    fingerprint: str
    stats: dict[str, Any]
    held_out_dir: Path | None


def build(data: DataConfig) -> Built:
    """Returns the data set of the settings, which is built unless an earlier call built it.

    Raises:
      ConfigError: a script called this at its top level, so that the processes of a build call it too.
      EcomError: a setting, source or task folder is wrong or missing; no file is left.
    """
    root = _root(data)
    root.mkdir(parents=True, exist_ok=True)
    final = root / (key := choose.cache_key(data))
    write.refuse_in_worker()
    choose.check_sources(data, final / "built.json")
    with file_lock(root / f"{key}.lock", "another process that builds the same data set"):
        if not (final / "built.json").is_file():
            _remove_leftovers(root, key)
            shutil.rmtree(final, ignore_errors=True)
            working = Path(tempfile.mkdtemp(prefix=f"{key}.tmp", dir=root))
            try:
                whole = build(dataclasses.replace(data, **_NO_CHOICE)) if data.total_instances else None
                _build_in(working, root / f"{key}.quarantine.jsonl", choose.choose(data), whole)
                os.replace(working, final)
            finally:
                shutil.rmtree(working, ignore_errors=True)
    return load_built(final)


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


def write_unseen(data: DataConfig, folder: Path) -> list[str]:
    """Writes the tasks of `data.unseen_tasks` as task folders, with rows held back from training; returns their names.

    Raises:
      ConfigError: there are none, or they are task folders already.
      EcomError: a source is missing or broken.
    """
    choice = choose.choose(data)
    if not choice.unseen or data.mixture == "folder":
        raise ConfigError("data.unseen_tasks: no task of a source is unseen; set it, and data.mixture=real or all")
    whole = dataclasses.replace(data, **_NO_CHOICE)
    build(whole)  # finds the records that repeat others
    known = _repeats_file(whole, make.compared_shards(choose.choose(whole)))
    repeats = read_json(known) if known.is_file() else {}
    sources = sorted({task.source for task in choice.unseen})
    found = [make.unseen_rows(choice, source, BuildStats(), repeats.get(source)) for source in sources]
    return [task_folder.write_task(folder, *each).name for of_source in found for each in of_source.values()]


def _repeats_file(data: DataConfig, compared: Sequence[str]) -> Path:
    return _root(data) / f"{choose.repeats_key(data, compared)}.repeats.json"


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
    return write.StoredRows(builder.as_data_source(split, deserialize_method=raw))


def _root(data: DataConfig) -> Path:
    return Path(data.cache_dir).expanduser() / "datasets"


def _remove_leftovers(root: Path, own: str) -> None:
    """Removes working folders of builds whose lock no process holds; `own` is the key that this process has locked."""
    for leftover in root.glob("*.tmp*"):
        key = leftover.name.split(".tmp")[0]
        lock = contextlib.nullcontext() if key == own else file_lock(root / f"{key}.lock", key, wait=False)
        with contextlib.suppress(BlockingIOError), lock:
            shutil.rmtree(leftover, ignore_errors=True)


def _build_in(working: Path, bad_file: Path, choice: Choice, whole: Built | None) -> None:
    """Builds a data set in a folder, from the sources or from a whole data set."""
    made = working / "shards"
    made.mkdir()
    builder = EcomInstruct(choice, made, bad_file, whole, data_dir=str(working), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # tfds logs a download that does not happen
        builder.download_and_prepare(download_dir=str(working / "downloads"))
    shutil.rmtree(working / "downloads", ignore_errors=True)
    if whole is not None and whole.held_out_dir:
        shutil.copytree(whole.held_out_dir, working / "held_out")
    elif (made / "held_out").is_dir():
        os.replace(made / "held_out", working / "held_out")
    stats = _describe_build(choice, builder.stats, builder.held_out)
    if whole is not None:
        stats["quarantine"] = whole.stats["quarantine"]
    shutil.rmtree(made)
    directory = str(Path(builder.data_path).relative_to(working))
    built = {"directory": directory, "fingerprint": builder.digest.hexdigest(), "stats": stats}
    write_json(working / "built.json", built)


class EcomInstruct(tfds.core.dataset_builder.FileReaderBuilder):
    """The tfds builder: one stored shard per shard of `make.shards`, made in processes here or, with options, on Beam.

    Attributes:
      stats: counts of all records and rows.
      held_out: number of rows of each held-out task.
      digest: of all rows, the data set's fingerprint.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos: typing.ClassVar[dict[str, Any]] = {}  # else tfds looks for a list of URLs next to this file

    def __init__(self, choice: Choice, folder: Path, bad_file: Path, whole: Built | None = None, **kwargs: Any) -> None:
        """Sets the tasks, the folder for shards and the file for bad records; all workers need access to both.

        Rows are selected from the `whole` data set if it is given, and made otherwise.
        """
        self._choice, self._folder, self._whole = choice, folder, whole
        self.stats, self.held_out, self.digest = BuildStats(bad_file), {}, hashlib.sha256()
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in ROW_FIELDS})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        names = self._make_shards() if self._whole is None else self._take_from(self._whole)
        if not self.stats.rows["train"]:
            why = self.stats.nothing_made() or "see data.sources, data.languages, data.synthetic_records"
            raise DataError(f"data: no training row was made; {why}")
        splits = [self._collect(split, names) for split in SPLITS]
        self.info.set_splits(tfds.core.SplitDict([split for split in splits if split.num_examples]))

    def _make_shards(self) -> list[str]:
        """Makes all shards from their sources; returns their names."""
        data, folder = self._choice.data, self._folder
        shards, compared = make.shards(self._choice), make.compared_shards(self._choice)
        arguments = self._choice, folder, self.stats.bad_file
        workers = max(1, min(data.workers or os.cpu_count() or 1, len(shards)))
        with contextlib.ExitStack() as stack:
            if data.beam_options:
                run = write.beam_workers(data.beam_options)
            else:
                run = stack.enter_context(write.processes(workers))
            if compared:
                known = _repeats_file(data, compared)
                if not known.is_file():
                    run(functools.partial(sketch_shard, *arguments), compared, "compare")
                    write_json(known, write.find_duplicates(compared, folder))
                for shard, repeats in read_json(known).items():
                    write_json(folder / f"{shard}.repeats.json", repeats)
            run(functools.partial(make_shard, *arguments), shards, "build")
        for shard in shards:
            made = read_json(folder / f"{shard}.json")
            self.stats.add(made["stats"])
            self.held_out |= made["held_out"]
        self.stats.write_bad()
        return shards

    def _take_from(self, whole: Built) -> list[str]:
        """Takes `data.total_instances` rows of a whole data set as one shard; returns its name."""
        data, stats, every = self._choice.data, self.stats, whole.stats["tasks"]
        self.held_out = {name: entry["test"] for name, entry in every.items() if entry["held_out"]}
        own = every.keys() - self.held_out.keys() - {task.name for task in self._choice.declared}
        wanted = own.union(task.name for task in self._choice.training)
        chosen = {name: entry for name, entry in every.items() if name in wanted}
        sizes = {name: entry["train"] for name, entry in chosen.items()}
        chosen |= {task.name: every[task.name] for task in self._choice.unseen}
        groups = {name: f"{of['language']} {of['family']} {of['operator'] > ''}" for name, of in chosen.items()}
        train = write.allocate(sizes, data.total_instances, data.temperature, groups, data.family_temperature)
        limits = {"train": train, "test": {name: entry["test"] for name, entry in chosen.items()}}
        stats.rows = write.take_rows(limits, functools.partial(open_split, whole.directory), self._folder)
        stats.own, stats.sources = {name: chosen[name] for name in chosen if name in own}, whole.stats["sources"]
        for spec, text in whole.stats["files"].items():
            taken = sum(train[name] for name, of in stats.own.items() if of["source"] == own_data.name_of(spec))
            stats.files[spec] = f"{text}; data.total_instances takes {taken:,} instances to train on"
        stats.dropped.update(whole.stats["dropped"])
        return [write.SAMPLE]

    def _collect(self, split: str, names: Sequence[str]) -> tfds.core.SplitInfo:
        """Moves the files of a split to the paths of tfds' shards, and adds their digests to the fingerprint."""
        made = [file for name in names if (file := self._folder / f"{name}.{split}").is_file()]
        template = self._get_filename_template(split)
        lengths, size = [], 0
        self.digest.update(split.encode())
        for index, file in enumerate(made):
            digests = file.with_name(f"{file.name}.digests").read_bytes()
            self.digest.update(digests)
            lengths.append(len(digests) // write.DIGEST_BYTES)
            size += file.stat().st_size
            os.replace(file, template.sharded_filepath(shard_index=index, num_shards=len(made)))
        return tfds.core.SplitInfo(split, lengths, size, template)


def sketch_shard(choice: Choice, folder: Path, bad_file: Path, shard: str) -> int:
    """Writes the sketches of a shard's records; returns their number.

    Raises:
      EcomError: the source is missing or broken; `bad_file` lists its bad records.
    """
    ids, sketch = make.sketch_shard(choice, shard, BuildStats(bad_file))
    write.write_sketch(folder, shard, ids, sketch)
    return len(ids)


def make_shard(choice: Choice, folder: Path, bad_file: Path, shard: str) -> int:
    """Makes and writes one shard; returns its number of training rows.

    Raises:
      EcomError: a source or task folder is missing or broken; `bad_file` lists its bad records.
    """
    stats, test = BuildStats(bad_file), []
    held_out: make.HeldOut = {}
    known = folder / f"{shard}.repeats.json"
    repeats = read_json(known) if known.is_file() else None

    def train() -> Iterator[Row]:
        for split, row in make.make_rows(choice, shard, stats, held_out, repeats):
            if split == "train":
                yield row
            else:
                test.append(row)

    write.write_rows(folder, f"{shard}.train", train())
    write.write_rows(folder, f"{shard}.test", test)
    for task, rows in held_out.values():
        if rows:
            task_folder.write_task(folder / "held_out", task, rows)
    counts = {name: len(rows) for name, (_, rows) in held_out.items()}
    write_json(folder / f"{shard}.json", {"held_out": counts, "stats": stats.as_json()})
    return stats.rows["train"].total()


def _describe_build(choice: Choice, stats: BuildStats, held_out: dict[str, int]) -> dict[str, Any]:
    """Returns `Built.stats`."""
    train, test = stats.rows["train"], stats.rows["test"]
    tasks = {task.name: _describe_task(task) for task in (*choice.training, *choice.unseen)} | stats.own
    for name, entry in tasks.items():
        entry |= {"train": train[name], "test": test[name], "held_out": False}
    for task in choice.held_out:
        tasks[task.name] = {
            **_describe_task(task), "train": 0, "test": held_out.get(task.name, 0), "held_out": True
        }  # fmt: skip
    training = [entry for entry in tasks.values() if not entry["held_out"]]
    totals = {
        "tasks": len(tasks),
        "training_tasks": len(training) - len(choice.unseen),
        "held_out_tasks": len(tasks) - len(training),
        "atomic_tasks": sum(bool(entry["operator"]) for entry in tasks.values()),
        "train": train.total(),
        "test": test.total(),
        "empty_tasks": sorted(name for name, entry in tasks.items() if not entry["train"] + entry["test"]),
    }
    return {
        "tasks": tasks,
        "sources": stats.sources,
        "files": stats.files,
        "near_held_out": dict(choice.near),
        "quarantine": {"records": len(stats.bad), "file": str(stats.bad_file)},
        "dropped": dict(sorted(stats.dropped.items())),
        "totals": totals,
    }


def _describe_task(task: Task | TaskFolder) -> dict[str, Any]:
    """Returns the statistics of a task except its counts."""
    if isinstance(task, TaskFolder):
        return {"language": task.language, "family": task.family, "operator": "", "parent": "", "source": task.dataset}
    names = ("language", "family", "operator", "parent", "source")
    return {**{name: getattr(task, name) for name in names}, "abilities": list(task.abilities)}
