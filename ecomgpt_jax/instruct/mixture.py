"""From the settings to rows: which tasks, which records, which split, in which order.

A record and all that is derived from it falls into one split, by the hash of its source and group. Sources are read one
at a time; a task's rows come in a seeded order, so that a lower limit keeps a part of what a higher one keeps.
"""

import fnmatch
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ecomgpt_jax.config import DataConfig, nearest
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.instruct import contamination, task_folder
from ecomgpt_jax.instruct.contamination import Exclusion, normalise, texts_of
from ecomgpt_jax.instruct.duplicates import NearDuplicates
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.rows import Account, Row, Rows, as_folder, as_row
from ecomgpt_jax.instruct.sources import catalogue as real_sources
from ecomgpt_jax.instruct.synthetic import catalogue as synthetic_sources
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow
from ecomgpt_jax.instruct.tasks import plain_text, real, synthetic
from ecomgpt_jax.instruct.tasks.task import Task

TEST_SHARE = 0.02  # of the groups of a source
TEST_ROWS = 50  # a task at most
HELD_OUT_ROWS = 100  # a task at most
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def source_names(data: DataConfig) -> list[str]:
    """Returns the sources that the mixture reads, in order of name.

    Raises:
      ConfigError: `data.sources` names one that does not exist or has no task.
    """
    known = sorted({task.source for task in _declared(data)})
    for name in data.sources:
        if name not in known:
            hint = "" if data.mixture == "synthetic" else "; the sources with tasks are " + ", ".join(known)
            raise ConfigError(f"data.sources: {name!r} is no source of the {data.mixture} mixture{hint}")
    return [name for name in known if not data.sources or name in data.sources]


def _declared(data: DataConfig) -> list[Task]:
    declared = synthetic.tasks() if data.mixture == "synthetic" else real.tasks()
    if not data.plain_text:
        return declared
    if data.mixture == "synthetic":
        languages = {name: (name.rsplit("_", 1)[1],) for name in synthetic_sources.SOURCES}
    else:
        languages = {name: tuple(each.language.split("+")) for name, each in real_sources.SOURCES.items()}
    return [task for task in declared if task.held_out] + plain_text.tasks(languages)


def held_out_tasks(data: DataConfig) -> list[Task]:
    """Returns the tasks that are kept out of training, whatever the filters say."""
    return [task for task in _declared(data) if task.held_out]


def training_tasks(data: DataConfig) -> list[Task]:
    """Returns the tasks to train on, in the order of their declaration.

    `num_tasks` takes the first of a seeded order, so a smaller choice is a part of a larger one.

    Raises:
      ConfigError: the filters leave no task, or fewer than `num_tasks`.
    """
    sources = set(source_names(data))
    tasks = [
        task
        for task in _declared(data)
        if not task.held_out
        and task.language in data.languages
        and task.source in sources
        and (data.chain_of_task or not task.operator)
    ]
    known = [task.name for task in _declared(data) if not task.held_out]
    chosen = set(choose([task.name for task in tasks], data, known))
    return [task for task in tasks if task.name in chosen]


def choose(names: Sequence[str], data: DataConfig, known: Sequence[str] = ()) -> list[str]:
    """Returns the task names that `tasks` allows; of these, the `num_tasks` that come first in a seeded order, or all.

    Args:
      names: tasks that the other settings allow.
      data: the settings.
      known: names that a pattern may fit, whatever the other settings allow; none: `names`.

    Raises:
      ConfigError: a pattern fits no name, there are no tasks, or fewer than `num_tasks`.
    """
    for pattern in data.tasks:
        if not fnmatch.filter(known or names, pattern):
            raise ConfigError(f"data.tasks: {pattern!r} fits no task to train on{nearest(pattern, known or names)}")
    if data.tasks:
        names = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in data.tasks)]
    if not names:
        raise ConfigError("data: languages, sources and chain_of_task leave no task to train on")
    if data.num_tasks > len(names):
        raise ConfigError(f"data.num_tasks={data.num_tasks}, and the other settings leave {len(names)} tasks")
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{data.seed} {name}".encode()).digest())
    return ranked[: data.num_tasks or None]


def split_of(source: str, group: str) -> str:
    """Returns "held_out", "test" or "train" for a group of records; never depends on anything else."""
    if source.startswith(synthetic_sources.PREFIX):
        if group.startswith(synthetic_sources.EVALUATION):
            return "held_out"
        source = source.removeprefix(synthetic_sources.PREFIX).rsplit("_", 1)[1]  # parts of a product stay together
    digest = hashlib.blake2b(f"{source}\n{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") < TEST_SHARE * 2**64 else "train"


def sources_dir(data: DataConfig) -> Path:
    """Returns the folder of real sources.

    Raises:
      MissingInputError: neither the setting nor the environment names one, or it is not there.
    """
    named = data.sources_dir or os.environ.get("ECOMGPT_SOURCES", "")
    if not named:
        raise MissingInputError("data.mixture=real needs the sources: set data.sources_dir or ECOMGPT_SOURCES")
    if not (directory := Path(named).expanduser()).is_dir():
        raise MissingInputError(f"{directory}: no such folder of sources (data.sources_dir or ECOMGPT_SOURCES)")
    return directory


def evaluation_dirs(data: DataConfig) -> list[Path]:
    """Returns the evaluation tasks whose text must stay out; the embedded catalogue needs none.

    Raises:
      MissingInputError: ECOMGPT_EVAL names no folder.
    """
    named = os.environ.get("ECOMGPT_EVAL", "")
    if data.mixture == "synthetic" or not named:
        return []
    if not Path(named).expanduser().is_dir():
        raise MissingInputError(f"ECOMGPT_EVAL={named}: no such folder of evaluation tasks")
    return [Path(named).expanduser()]


def read_source(name: str, data: DataConfig) -> Sequence[Record]:
    """Returns all records of a source.

    Raises:
      EcomError: the source is missing or broken.
    """
    if data.mixture == "synthetic":
        return synthetic_sources.read(name, data.synthetic_records, data.seed)
    return list(real_sources.read(real_sources.source(name), sources_dir(data)))


def split_records(
    name: str,
    records: Sequence[Record],
    exclusion: Exclusion | None,
    account: Account,
    duplicates: NearDuplicates | None = None,
    used: Collection[str] = (),
) -> dict[str, list[Record]]:
    """Returns the records by split, without those that must stay out; each one left out is counted.

    Args:
      name: of the source.
      records: all of its records.
      exclusion: evaluation text; None: there is none.
      account: gets the counts.
      duplicates: what earlier sources hold; None: near duplicates stay.
      used: ids of the records that a task reads: only these are compared with each other.
    """
    kept: list[Record] = []
    for record in records:
        reason = exclusion.reason(record) if exclusion else ""
        if reason:
            account.dropped[f"evaluation {reason}"] += 1
        elif any(map(_CONTROL.search, texts_of(record))):
            account.dropped["control character"] += 1
        else:
            kept.append(record)
    if duplicates:
        kept = duplicates.without(name, kept, used, account.dropped)
    split: dict[str, list[Record]] = {"train": [], "test": [], "held_out": []}
    for record in kept:
        split[split_of(name, record.group)].append(record)
    kept_out = {texts_of(record) for record in split["held_out"]}
    if kept_out:
        clean = [record for record in split["train"] if texts_of(record) not in kept_out]
        account.dropped["held-out copy"] += len(split["train"]) - len(clean)
        split["train"] = clean
    account.sources[name] = {"records": len(records), **{key: len(part) for key, part in split.items()}}
    return split


def generate(
    data: DataConfig, account: Account, test: list[Row], held_out: dict[str, tuple[TaskFolder, list[TaskRow]]]
) -> Iterator[Row]:
    """Yields the training rows; test rows and held-out tasks are left in the two containers on the way.

    Args:
      data: the settings.
      account: gets the counts.
      test: gets the rows of the test split.
      held_out: gets task folder and rows by the name of the held-out task.

    Raises:
      EcomError: a source or task folder is missing or broken.
    """
    directories = evaluation_dirs(data)
    exclusion = contamination.load_exclusion(directories) if directories else None
    rows = Rows(data, account, exclusion)
    if data.mixture == "folder":
        made = _from_folders(data, account, rows, exclusion, test)
    else:
        made = _from_sources(data, account, rows, exclusion, test, held_out)
    for row in made:
        account.rows["train"][row["task"]] += 1
        yield row
    for row in test:
        account.rows["test"][row["task"]] += 1
    if not account.rows["train"]:
        raise DataError("data: no training row was made; see data.sources, data.languages and data.synthetic_records")


def _from_sources(
    data: DataConfig,
    account: Account,
    rows: Rows,
    exclusion: Exclusion | None,
    test: list[Row],
    held_out: dict[str, tuple[TaskFolder, list[TaskRow]]],
) -> Iterator[Row]:
    training, kept_out = training_tasks(data), held_out_tasks(data)
    # The embedded catalogue is made of templates: its sentences are alike on purpose.
    duplicates = None if data.mixture == "synthetic" else NearDuplicates()
    for name in sorted({task.source for task in (*training, *kept_out)}):
        records = read_source(name, data)
        own, used = [], set()
        for task in training:
            if task.source == name:
                selected = task.select(records)
                own.append((task, task.label_set(selected)))
                used.update(record.id for record in selected)
        split = split_records(name, records, exclusion, account, duplicates, used)
        for task in kept_out:
            if task.source == name:
                labels = task.label_set(task.select(records))
                made = rows.examples(task, task.select(split["held_out"]), labels, "held_out", HELD_OUT_ROWS)
                held_out[task.name] = (as_folder(task, labels), [as_row(task, example) for example, _ in made])
        for task, labels in own:
            made = rows.examples(task, task.select(split["test"]), labels, "test", TEST_ROWS)
            test.extend(row for _, row in made)
        for task, labels in own:
            made = rows.examples(task, task.select(split["train"]), labels, "train", data.instances_per_task)
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
    chosen = set(choose([task.name for task in tasks], data))
    return [task for task in tasks if task.name in chosen]


def _from_folders(
    data: DataConfig, account: Account, rows: Rows, exclusion: Exclusion | None, test: list[Row]
) -> Iterator[Row]:
    for task in folder_tasks(data):
        split: dict[str, list[tuple[int, TaskRow]]] = {"train": [], "test": []}
        for index, row in enumerate(task_folder.read_rows(task, "train")):
            reason = exclusion.reason_of_texts((row.sentences, *(s.term for s in row.spans))) if exclusion else ""
            if reason:
                account.dropped[f"evaluation {reason}"] += 1
            else:
                split[split_of(task.dataset, normalise(row.sentences))].append((index, row))
        account.sources.setdefault(task.dataset, {"records": 0, "train": 0, "test": 0})
        for key, part in split.items():
            account.sources[task.dataset][key] += len(part)
            account.sources[task.dataset]["records"] += len(part)
        test.extend(rows.folder(task, split["test"], "test", TEST_ROWS))
        yield from rows.folder(task, split["train"], "train", data.instances_per_task)
