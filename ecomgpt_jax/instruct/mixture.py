"""From the settings to rows: which tasks, which records, which split, in which order.

A record and all that is derived from it falls into one split, by the hash of its source and group. Sources are read one
at a time; a task's rows come in a seeded order, so that a lower limit keeps a part of what a higher one keeps.

The file is longer than 350 lines because all settings that decide the rows are read here, in the order of the work.
"""

import collections
import dataclasses
import fnmatch
import functools
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.config import DataConfig, nearest
from ecomgpt_jax.errors import ConfigError, MissingInputError
from ecomgpt_jax.files import BadRecord
from ecomgpt_jax.instruct import contamination, label_space, own_data, task_folder
from ecomgpt_jax.instruct.contamination import Exclusion, normalise, texts_of
from ecomgpt_jax.instruct.duplicates import Sketch, sketch
from ecomgpt_jax.instruct.quarantine import Quarantine
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.rows import Account, Row, Rows, as_folder, as_row
from ecomgpt_jax.instruct.sources import catalogue as real_sources
from ecomgpt_jax.instruct.sources.reading import Intake
from ecomgpt_jax.instruct.synthetic import catalogue as synthetic_sources
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow
from ecomgpt_jax.instruct.tasks import plain_text, real, synthetic
from ecomgpt_jax.instruct.tasks.task import Task

TEST_SHARE = 0.02  # of the groups of a source
TEST_ROWS = 50  # a task at most
HELD_OUT_ROWS = 100  # a task at most
FOLDERS, FILES = "folder", "files"  # parts that are no source
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
REDISTRIBUTABLE = "redistributable"
_DESCRIBED = ("language", "family", "operator", "parent", "source")


def source_names(data: DataConfig) -> list[str]:
    """Returns the sources that the mixture reads, in order of name.

    Raises:
      ConfigError: `data.sources` names one that does not exist or has no task, `data.licences` a licence that none has.
    """
    known = sorted({task.source for task in _declared(data)})
    for name in data.sources:
        if name not in known:
            hint = "" if data.mixture == "synthetic" else "; the sources with tasks are " + ", ".join(known)
            raise ConfigError(f"data.sources: {name!r} is no source of the {data.mixture} mixture{hint}")
    licences = {name: each.licence for name, each in real_sources.SOURCES.items() if name in known}
    for wanted in data.licences:
        if wanted != REDISTRIBUTABLE and not any(map(functools.partial(_is_licence, wanted), licences.values())):
            names = sorted({licence.split(" (")[0] for licence in licences.values()})
            raise ConfigError(f"data.licences: {wanted!r} is none of {REDISTRIBUTABLE}, {', '.join(names)}")
    return [
        name
        for name in known
        if (not data.sources or name in data.sources)
        and (not data.licences or any(_allows(wanted, name) for wanted in data.licences))
    ]


def _is_licence(wanted: str, licence: str) -> bool:
    return licence.lower().startswith(wanted.lower())


def _allows(wanted: str, name: str) -> bool:
    if name.startswith(synthetic_sources.PREFIX):
        return True  # made here, nobody else's
    source = real_sources.source(name)
    return source.redistributable if wanted == REDISTRIBUTABLE else _is_licence(wanted, source.licence)


def _declared(data: DataConfig) -> list[Task]:
    declared, languages = [], {}
    if data.mixture in ("real", "all"):
        declared += real.tasks()
        languages |= {name: tuple(each.language.split("+")) for name, each in real_sources.SOURCES.items()}
    if data.mixture in ("synthetic", "all"):
        declared += synthetic.tasks()
        languages |= {name: (name.rsplit("_", 1)[1],) for name in synthetic_sources.SOURCES}
    if not data.plain_text:
        return declared
    return [task for task in declared if task.held_out] + plain_text.tasks(languages)


def held_out_tasks(data: DataConfig) -> list[Task]:
    """Returns the tasks that are kept out of training, whatever the filters say."""
    return [task for task in _declared(data) if task.held_out]


def training_tasks(data: DataConfig) -> list[Task]:
    """Returns the tasks to train on, in the order of their declaration.

    `num_tasks` takes the first of a seeded order, so a smaller choice is a part of a larger one.

    Raises:
      ConfigError: the filters leave no task, or fewer than `num_tasks`, or an ability is none of any task.
      EcomError: with `strict_held_out`, a source cannot be read.
    """
    declared = _declared(data)
    abilities = {ability for task in declared for ability in task.abilities}
    for ability in data.leave_out_abilities:
        if ability not in abilities:
            raise ConfigError(f"data.leave_out_abilities: no task uses {ability!r}{nearest(ability, abilities)}")
    sources = set(source_names(data))
    if data.strict_held_out:
        sources -= set(near_sources(data))
    tasks = [
        task
        for task in declared
        if not task.held_out
        and task.language in data.languages
        and task.source in sources
        and (data.chain_of_task or not task.operator)
        and (not data.operators or (task.operator or "base") in data.operators)
        and not set(task.abilities) & set(data.leave_out_abilities)
    ]
    known = [task.name for task in declared if not task.held_out]
    chosen = set(choose([task.name for task in tasks], data, known))
    return [task for task in tasks if task.name in chosen]


def near_sources(data: DataConfig) -> dict[str, str]:
    """Returns the sources that `strict_held_out` leaves out, each with the nearest pair of tasks and their nearness.

    Reads every source of the mixture once a process, since label sets come from the records.

    Raises:
      ConfigError: nothing is held out: ECOMGPT_EVAL is not set.
      EcomError: a source cannot be read.
    """
    asked = (data.mixture, data.sources_dir, data.synthetic_records, data.seed, os.environ.get("ECOMGPT_SOURCES", ""))
    return _near_sources(*asked, tuple(evaluation_dirs(data)))


@functools.lru_cache(maxsize=4)
def _near_sources(
    mixture: str, directory: str, records: int, seed: int, _: str, evaluation: tuple[Path, ...]
) -> dict[str, str]:
    data = DataConfig(mixture=mixture, sources_dir=directory, synthetic_records=records, seed=seed)
    held_out = {
        (task.name, labels)
        for folder in evaluation
        for task in task_folder.load_tasks(folder)
        for labels in label_space.spaces_of(task)
    }
    own: list[tuple[str, str, tuple[str, ...]]] = []
    for name in source_names(data):
        found = read_source(name, data)
        for task in _declared(data):
            if task.source == name and (labels := task.label_set(task.select(found))):
                held_out |= {(task.name, labels)} if task.held_out else set()
                own += [] if task.held_out else [(name, task.name, labels)]
    if not held_out:
        raise ConfigError("data.strict_held_out needs the held-out tasks: set ECOMGPT_EVAL to their folder")
    nearness = functools.cache(label_space.nearness)
    pairs = ((nearness(labels, other), name, task, kept) for name, task, labels in own for kept, other in held_out)
    return {
        name: f"{task} ~ {kept}: {near:.2f}"
        for near, name, task, kept in sorted(pair for pair in pairs if pair[0] >= label_space.NEAR)
    }


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
        raise ConfigError("data: languages, sources, licences, operators and the like leave no task to train on")
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
        raise MissingInputError(
            f"data.mixture={data.mixture} needs the sources: set data.sources_dir or ECOMGPT_SOURCES"
        )
    if not (directory := Path(named).expanduser()).is_dir():
        raise MissingInputError(f"{directory}: no such folder of sources (data.sources_dir or ECOMGPT_SOURCES)")
    return directory


def evaluation_dirs(data: DataConfig) -> list[Path]:
    """Returns the evaluation tasks whose text must stay out; the embedded catalogue alone needs none.

    Raises:
      MissingInputError: ECOMGPT_EVAL names no folder.
    """
    named = os.environ.get("ECOMGPT_EVAL", "")
    if not named or (data.mixture == "synthetic" and not data.files):
        return []
    if not Path(named).expanduser().is_dir():
        raise MissingInputError(f"ECOMGPT_EVAL={named}: no such folder of evaluation tasks")
    return [Path(named).expanduser()]


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
        names = sorted({task.source for task in (*training_tasks(data), *held_out_tasks(data))})
    return [*names, FILES] if data.files else names


def surveyed(data: DataConfig) -> list[str]:
    """Returns the parts whose records must not nearly repeat others; the catalogue's are alike by design."""
    return [part for part in parts(data) if part in real_sources.SOURCES]


def survey(data: DataConfig, part: str, quarantine: Quarantine | None = None) -> tuple[list[str], Sketch]:
    """Returns the ids of a part's records that may repeat others, and what they are compared by.

    Records that no task reads are not compared, since nothing can repeat them.

    Raises:
      EcomError: the source is missing or broken.
    """
    records, exclusion = read_source(part, data, Account(quarantine=quarantine or Quarantine())), _exclusion(data)
    select = _selector(records)
    used = {record.id for task in training_tasks(data) if task.source == part for record in select(task)}
    compared = [record for record in records if record.id in used and not _unfit(record, exclusion)]
    return [record.id for record in compared], sketch(part, compared)


def count(data: DataConfig, part: str, repeats: Mapping[str, str] | None = None) -> collections.Counter[str]:
    """Returns the training rows of each task that `generate` gives without `limits`."""
    return collections.Counter(row["task"] for row in generate(data, part, Account(), [], {}, repeats))


def generate(
    data: DataConfig,
    part: str,
    account: Account,
    test: list[Row],
    held_out: dict[str, tuple[TaskFolder, list[TaskRow]]],
    repeats: Mapping[str, str] | None = None,
    limits: Mapping[str, int] | None = None,
) -> Iterator[Row]:
    """Yields the training rows of a part; its test rows and held-out tasks are left in the two containers on the way.

    Parts are made apart, in any order and in several processes: what one knows of others is in `repeats` and `limits`.

    Args:
      data: the settings.
      part: one of `parts(data)`.
      account: gets the counts.
      test: gets the rows of the test split.
      held_out: gets task folder and rows by the name of the held-out task.
      repeats: why records stay out that say what others say, by id.
      limits: at most how many training rows of each task; None: what `data.instances_per_task` says.

    Raises:
      EcomError: a source or task folder is missing or broken.
    """
    exclusion = _exclusion(data)
    if limits:
        data = dataclasses.replace(data, instances_per_task=max(limits.values()))
    rows = Rows(data, account, exclusion)
    if part == FOLDERS:
        made = _from_folders(data, account, rows, exclusion, test)
    elif part == FILES:
        made = _from_files(data, account, rows, exclusion, test)
    else:
        made = _from_source(data, part, account, rows, exclusion, test, held_out, repeats)
    kept = account.rows["train"]
    for row in made:
        if limits is None or kept[row["task"]] < limits.get(row["task"], 0):
            kept[row["task"]] += 1
            yield row
    for row in test:
        account.rows["test"][row["task"]] += 1


def allocate(sizes: Mapping[str, int], total: int, temperature: float) -> dict[str, int]:
    """Returns how many instances each task gives so that they are `total` together.

    A task's share goes with size ** (1 / temperature), or is the same for all when that is 0. No instance is repeated:
    a task that has fewer than its share gives all it has, and the others make up for it.

    Raises:
      ConfigError: the tasks have fewer than `total` instances.
    """
    if sum(sizes.values()) < total:
        raise ConfigError(f"data.total_instances={total}, and the other settings leave {sum(sizes.values())}")
    weights = {name: size ** (1 / temperature) if temperature else 1.0 for name, size in sorted(sizes.items()) if size}
    shares: dict[str, float] = {}
    while len(shares) < len(weights):
        left = [name for name in weights if name not in shares]
        scale = (total - sum(shares.values())) / sum(weights[name] for name in left)
        small = [name for name in left if sizes[name] <= scale * weights[name]]
        shares |= {name: sizes[name] if small else scale * weights[name] for name in small or left}
    limits = {name: math.floor(share) for name, share in shares.items()}
    rest = sorted(
        (name for name in shares if limits[name] < sizes[name]), key=lambda name: (limits[name] - shares[name], name)
    )
    return limits | {name: limits[name] + 1 for name in rest[: total - sum(limits.values())]}


def _exclusion(data: DataConfig) -> Exclusion | None:
    directories = tuple(evaluation_dirs(data))
    return _load_exclusion(directories, tuple(map(contamination.checksum, directories))) if directories else None


@functools.lru_cache(maxsize=1)
def _load_exclusion(directories: tuple[Path, ...], checksums: tuple[str, ...]) -> Exclusion:
    """Returns the exclusion, loaded once for all parts that a process makes; the checksums tell when it is outdated."""
    return contamination.load_exclusion(directories)


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
    records = read_source(name, data, account)
    split = split_records(name, records, exclusion, account, repeats)
    select = _selector(records)
    own = [(task, task.label_set(select(task))) for task in training_tasks(data) if task.source == name]
    for task in held_out_tasks(data):
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
    chosen = set(choose([task.name for task in tasks], data))
    return [task for task in tasks if task.name in chosen]


def _from_folders(
    data: DataConfig, account: Account, rows: Rows, exclusion: Exclusion | None, test: list[Row]
) -> Iterator[Row]:
    for task in folder_tasks(data):
        split: dict[str, list[tuple[int, TaskRow]]] = {"train": [], "test": []}
        bad: list[BadRecord] = []
        for index, (_, _, row) in enumerate(task_folder.scan_rows(task, "train")):
            if isinstance(row, BadRecord):
                bad.append(row)
                continue
            reason = exclusion.reason_of_texts((row.sentences, *(s.term for s in row.spans))) if exclusion else ""
            if reason:
                account.dropped[f"evaluation {reason}"] += 1
            else:
                split[split_of(task.dataset, normalise(row.sentences))].append((index, row))
        account.quarantine.add(task.name, len(bad) + sum(map(len, split.values())), bad)
        account.sources.setdefault(task.dataset, {"records": 0, "train": 0, "test": 0})
        for key, part in split.items():
            account.sources[task.dataset][key] += len(part)
            account.sources[task.dataset]["records"] += len(part)
        test.extend(rows.folder(task, split["test"], "test", TEST_ROWS))
        yield from rows.folder(task, split["train"], "train", data.instances_per_task)


def _from_files(
    data: DataConfig, account: Account, rows: Rows, exclusion: Exclusion | None, test: list[Row]
) -> Iterator[Row]:
    for file in own_data.load_files(data.files):
        account.quarantine.add(file.spec, file.records, file.bad)
        account.files[file.spec] = str(file)
        account.sources[file.name] = {"records": file.records, "train": 0, "test": 0}
        split: dict[str, dict[str, list[Row]]] = {"train": {}, "test": {}}
        for instance in file.instances:
            row = own_data.to_row(file, instance)
            if row["language"] not in data.languages:
                continue
            reason = exclusion.reason_of_texts(instance.texts) if exclusion else ""
            if reason:
                account.dropped[f"evaluation {reason}"] += 1
                continue
            account.own[row["task"]] = {name: row[name] for name in _DESCRIBED}
            part = split_of(f"{data.seed} {file.name}", instance.group)
            split[part].setdefault(row["task"], []).append(row)
            account.sources[file.name][part] += 1
        for task in sorted(split["test"]):
            test.extend(rows.own(split["test"][task], "test", TEST_ROWS))
        for task in sorted(split["train"]):
            yield from rows.own(split["train"][task], "train", data.instances_per_task)
