"""From the settings to rows: which tasks, which records, which split, in which order.

A record and all that is derived from it falls into one split, by the hash of its source and group. Of what users bring
at most a tenth is tested on, so that something is left to train on however few groups there are. Sources are read one
at a time; a task's rows come in a seeded order, so that a lower limit keeps a part of what a higher one keeps.
"""

import collections
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, MissingInputError
from ecomgpt_jax.files import BadRecord
from ecomgpt_jax.instruct import choice, inputs, own_data, task_folder
from ecomgpt_jax.instruct.contamination import Exclusion, normalise, texts_of
from ecomgpt_jax.instruct.duplicates import Sketch, sketch
from ecomgpt_jax.instruct.quarantine import Quarantine
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.rows import Account, Row, Rows, as_folder, as_row, describe_fates
from ecomgpt_jax.instruct.sources import catalogue as real_sources
from ecomgpt_jax.instruct.synthetic import catalogue as synthetic_sources
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow
from ecomgpt_jax.instruct.tasks.task import Task

TEST_SHARE = 0.02  # of the groups of a source
TEST_ROWS = 50  # a task at most
HELD_OUT_ROWS = 100  # a task at most
FOLDERS, FILES = "folder", "files"  # parts that are no source
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DESCRIBED = ("language", "family", "operator", "parent", "source")


def split_of(source: str, group: str) -> str:
    """Returns "held_out", "test" or "train" for a group of records; never depends on anything else."""
    if source.startswith(synthetic_sources.PREFIX):
        if group.startswith(synthetic_sources.EVALUATION):
            return "held_out"
        source = source.removeprefix(synthetic_sources.PREFIX).rsplit("_", 1)[1]  # parts of a product stay together
    return "test" if _share(source, group) < TEST_SHARE else "train"


def _share(source: str, group: str) -> float:
    digest = hashlib.blake2b(f"{source}\n{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def groups_to_test(source: str, sizes: Mapping[str, int], most: int) -> set[str]:
    """Returns the groups of what a user brings that are tested on: those that `split_of` says, as far as they fit.

    Args:
      source: what the hash hangs on beside the group.
      sizes: rows by group.
      most: rows to test on; a tenth of all rows is the other bound.
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
    account: Account,
    repeats: Mapping[str, str] | None = None,
) -> dict[str, list[Record]]:
    """Returns the records by split, without those that must stay out; each one left out is counted.

    Args:
      name: of the source.
      records: all of its records.
      exclusion: evaluation text; None: there is none.
      account: gets the counts.
      repeats: why records stay out that say what others say, by id.
    """
    split: dict[str, list[Record]] = {"train": [], "test": [], "held_out": []}
    for record in records:
        reason = _unfit(record, exclusion) or (repeats or {}).get(record.id)
        if reason:
            account.dropped[reason] += 1
        else:
            split[split_of(name, record.group)].append(record)
    kept_out = {texts_of(record) for record in split["held_out"]}
    if kept_out:
        clean = [record for record in split["train"] if texts_of(record) not in kept_out]
        account.dropped["held-out copy"] += len(split["train"]) - len(clean)
        split["train"] = clean
    counts = {"records": len(records), **{key: len(part) for key, part in split.items()}}
    account.sources[name] = account.sources.get(name, {}) | counts
    return split


def _unfit(record: Record, exclusion: Exclusion | None) -> str:
    """Returns why a record stays out whatever the others are, or an empty string."""
    if exclusion and (reason := exclusion.reason(record)):
        return f"evaluation {reason}"
    return "control character" if any(map(_CONTROL.search, texts_of(record))) else ""


def parts(data: DataConfig) -> list[str]:
    """Returns the parts that the rows are made in, in order: each source, all task folders, all files of one's own."""
    if data.mixture == "folder":
        names = [FOLDERS]
    elif data.mixture == "files":
        names = []
    else:
        names = sorted({task.source for task in (*choice.training_tasks(data), *choice.held_out_tasks(data))})
    return [*names, FILES] if data.files else names


def surveyed(data: DataConfig) -> list[str]:
    """Returns the parts whose records must not nearly repeat others; the catalogue's are alike by design."""
    return [part for part in parts(data) if part in real_sources.SOURCES]


def survey(data: DataConfig, part: str, quarantine: Quarantine | None = None) -> tuple[list[str], Sketch]:
    """Returns the ids of a part's records that may repeat others, and what they are compared by.

    Records that no task reads are not compared, since nothing can repeat them. It counts which tasks there are, not
    which are chosen: the same records stay whatever is trained on.

    Raises:
      EcomError: the source is missing or broken.
    """
    records = inputs.read_source(part, data, Account(quarantine=quarantine or Quarantine()))
    exclusion = inputs.exclusion(data)
    select = _selector(records)
    declared = (task for task in choice.declared_tasks(data) if task.source == part and not task.held_out)
    used = {record.id for task in declared for record in select(task)}
    compared = [record for record in records if record.id in used and not _unfit(record, exclusion)]
    return [record.id for record in compared], sketch(part, compared)


def task_names(data: DataConfig) -> list[str]:
    """Returns the names of the tasks that the settings choose; those of one's own files are no choice.

    Raises:
      EcomError: the filters leave none, or a folder of tasks is missing.
    """
    if data.mixture == "folder":
        return [task.name for task in folder_tasks(data)]
    return [] if data.mixture == "files" else [task.name for task in choice.training_tasks(data)]


def generate(
    data: DataConfig,
    part: str,
    account: Account,
    test: list[Row],
    held_out: dict[str, tuple[TaskFolder, list[TaskRow]]],
    repeats: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Yields the training rows of a part; its test rows and held-out tasks are left in the two containers on the way.

    Parts are made apart, in any order and in several processes: what one knows of others is in `repeats`.

    Args:
      data: the settings.
      part: one of `parts(data)`.
      account: gets the counts.
      test: gets the rows of the test split.
      held_out: gets task folder and rows by the name of the held-out task.
      repeats: why records stay out that say what others say, by id.

    Raises:
      EcomError: a source or task folder is missing or broken.
    """
    exclusion = inputs.exclusion(data)
    rows = Rows(data, account, exclusion)
    if part == FOLDERS:
        made = _from_folders(data, account, rows, exclusion, test)
    elif part == FILES:
        made = _from_files(data, account, rows, exclusion, test)
    else:
        made = _from_source(data, part, account, rows, exclusion, test, held_out, repeats)
    for row in made:
        account.rows["train"][row["task"]] += 1
        yield row
    for row in test:
        account.rows["test"][row["task"]] += 1


def _selector(records: Sequence[Record]) -> Callable[[Task], list[Record]]:
    """Returns `task.select` of these records, done once for consecutive tasks that read the same ones."""
    last: dict[tuple[int, type[Record]], list[Record]] = {}

    def select(task: Task) -> list[Record]:
        key = id(task.dataset), task.form.record
        if key not in last:
            last.clear()
            last[key] = task.select(records)
        return last[key]

    return select


def _from_source(
    data: DataConfig,
    name: str,
    account: Account,
    rows: Rows,
    exclusion: Exclusion | None,
    test: list[Row],
    held_out: dict[str, tuple[TaskFolder, list[TaskRow]]],
    repeats: Mapping[str, str] | None,
) -> Iterator[Row]:
    records = inputs.read_source(name, data, account)
    split = split_records(name, records, exclusion, account, repeats)
    select = _selector(records)
    own = [(task, task.label_set(select(task))) for task in choice.training_tasks(data) if task.source == name]
    for task in choice.held_out_tasks(data):
        if task.source == name:
            labels = task.label_set(select(task))
            made = rows.examples(task, task.select(split["held_out"]), labels, "held_out", HELD_OUT_ROWS)
            held_out[task.name] = (as_folder(task, labels), [as_row(task, example) for example, _ in made])
    select = _selector(split["test"])
    for task, labels in own:
        test.extend(row for _, row in rows.examples(task, select(task), labels, "test", TEST_ROWS))
    select = _selector(split["train"])
    for task, labels in own:
        made = rows.examples(task, select(task), labels, "train", data.instances_per_task)
        yield from (row for _, row in made)


def folder_tasks(data: DataConfig) -> list[TaskFolder]:
    """Returns the task folders under `data.tasks_dir` to train on.

    Raises:
      MissingInputError: the folder is not there or holds no task with a `train.json`.
      ConfigError: the filters leave no task, or fewer than `num_tasks`.
    """
    if not data.tasks_dir:
        raise ConfigError("data.mixture=folder needs data.tasks_dir, a folder of <Dataset>/tasks/<task>/train.json")
    directory = Path(data.tasks_dir).expanduser()
    tasks = [task for task in task_folder.load_tasks(directory) if (task.path / "train.json").is_file()]
    if not tasks:
        raise MissingInputError(f"{directory}: no task folder has a train.json")
    tasks = [task for task in tasks if task.language in data.languages]
    chosen = set(choice.choose([task.name for task in tasks], data))
    return [task for task in tasks if task.name in chosen]


def _from_folders(
    data: DataConfig, account: Account, rows: Rows, exclusion: Exclusion | None, test: list[Row]
) -> Iterator[Row]:
    tasks = folder_tasks(data)
    found: dict[str, list[tuple[int, TaskRow]]] = {}
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    sizes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    bad: dict[str, int] = {}
    for task in tasks:
        scanned = [row for _, _, row in task_folder.scan_rows(task, "train")]
        refused = [row for row in scanned if isinstance(row, BadRecord)]
        account.quarantine.add(task.name, len(scanned), refused)
        bad[task.name], found[task.name] = len(refused), []
        for index, row in enumerate(scanned):
            if isinstance(row, BadRecord):
                continue
            reason = exclusion.reason_of_texts((row.sentences, *(s.term for s in row.spans))) if exclusion else ""
            if reason:
                left_out[task.name].append(f"evaluation {reason}")
                account.dropped[f"evaluation {reason}"] += 1
            else:
                found[task.name].append((index, row))
                sizes[task.dataset][normalise(row.sentences)] += 1
    most = collections.Counter(task.dataset for task in tasks)
    tested = {name: groups_to_test(name, sizes[name], TEST_ROWS * count) for name, count in most.items()}
    for task in tasks:
        split: dict[str, list[tuple[int, TaskRow]]] = {"test": [], "train": []}
        for index, row in found.pop(task.name):
            split["test" if normalise(row.sentences) in tested[task.dataset] else "train"].append((index, row))
        fates = left_out[task.name]
        for part, limit in (("test", TEST_ROWS), ("train", data.instances_per_task)):
            for row, reason in rows.folder(task, split[part], part, limit):
                fates.append(reason or part)
                if part == "train" and not reason:
                    yield row
                elif not reason:
                    test.append(row)
        account.settle(task.dataset, len(fates) + bad[task.name], bad[task.name], fates)


def _from_files(
    data: DataConfig, account: Account, rows: Rows, exclusion: Exclusion | None, test: list[Row]
) -> Iterator[Row]:
    for file in own_data.load_files(data.files):
        account.quarantine.add(file.spec, file.records, file.bad)
        fates = dict(file.left_out)  # of each record, by line
        chosen: list[tuple[own_data.Instance, Row]] = []
        for instance in file.instances:
            row = own_data.to_row(file, instance)
            if row["language"] not in data.languages:
                fates.setdefault(instance.line, f"language {row['language']} is not in data.languages")
            elif reason := exclusion.reason_of_texts(instance.texts) if exclusion else "":
                account.dropped[f"evaluation {reason}"] += 1
                fates.setdefault(instance.line, f"evaluation {reason}")
            else:
                account.own[row["task"]] = {name: row[name] for name in _DESCRIBED}
                chosen.append((instance, row))
        sizes = collections.Counter(instance.group for instance, _ in chosen)
        tested = groups_to_test(f"{data.seed} {file.name}", sizes, TEST_ROWS)
        lines = {instance.place: instance.line for instance, _ in chosen}
        for part, limit in (("test", TEST_ROWS), ("train", data.instances_per_task)):
            split: dict[str, list[Row]] = {}
            for instance, row in chosen:
                if (instance.group in tested) == (part == "test"):
                    split.setdefault(row["task"], []).append(row)
            for task in sorted(split):
                for row, reason in rows.own(split[task], part, limit):
                    line = lines[row["record_id"]]
                    if reason:
                        fates.setdefault(line, reason)
                        continue
                    fates[line] = part
                    if part == "train":
                        yield row
                    else:
                        test.append(row)
        entry = account.settle(file.name, file.records, len(file.bad), fates.values())
        account.files[file.spec] = f"{file}; {describe_fates(entry)}"
