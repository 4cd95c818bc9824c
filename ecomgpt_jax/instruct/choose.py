"""Chooses the tasks that a mixture trains on from the settings, once per build; later steps get the choice.

The keys of built data sets are here too: hashes of everything that determines their rows.
"""

import dataclasses
import fnmatch
import functools
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.config import DataConfig, nearest
from ecomgpt_jax.errors import ConfigError, MissingInputError
from ecomgpt_jax.files import find_data
from ecomgpt_jax.instruct import contamination, label_space, own_files, read, task_folder
from ecomgpt_jax.instruct.instructions import render_prompt
from ecomgpt_jax.instruct.sources import all_sources
from ecomgpt_jax.instruct.synthetic import products
from ecomgpt_jax.instruct.task_folder import TaskFolder
from ecomgpt_jax.instruct.tasks import (
    plain_text,
    real_aspects,
    real_entities,
    real_items,
    real_pairs,
    real_questions,
    real_texts,
    synthetic,
)
from ecomgpt_jax.instruct.tasks.task import Task

REDISTRIBUTABLE = "redistributable"
# Settings that determine the rows; the others (row length, packing, tokenizer) apply to finished rows.
_FIELDS = (
    "mixture", "tasks", "sources", "licences", "operators", "leave_out_abilities", "strict_held_out",
    "synthetic_records", "languages", "prompt_language", "chain_of_task", "num_tasks", "instances_per_task",
    "total_instances", "temperature", "family_temperature", "unseen_tasks", "plain_text", "copying", "seed",
)  # fmt: skip
_REAL = (real_entities, real_aspects, real_pairs, real_items, real_texts, real_questions)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The tasks of a build, each group in the order of declaration.

    Tasks contain functions that cannot be pickled, so another process receives their names and declares them again.

    Attributes:
      data: the settings.
      declared: all tasks that the mixture could train on, before any filter.
      training: training tasks; empty for mixture=files, whose tasks are known after reading the files.
      unseen: tasks that `unseen_tasks` keeps out of training, for validation.
      held_out: tasks that are never trained on, independent of the filters.
      near: the sources that `strict_held_out` leaves out, see `near_sources`.
    """

    data: DataConfig
    declared: tuple[Task | TaskFolder, ...]
    training: tuple[Task | TaskFolder, ...]
    unseen: tuple[Task | TaskFolder, ...]
    held_out: tuple[Task, ...]
    near: Mapping[str, str]

    def of_source(self, name: str) -> tuple[list[Task], list[Task], list[Task]]:
        """Returns the declared, training and held-out tasks that read a source."""
        groups = (self.declared, self.training, self.held_out)
        return tuple([task for task in tasks if task.source == name] for tasks in groups)

    def __reduce__(self) -> tuple:
        names = ([task.name for task in tasks] for tasks in (self.training, self.unseen))
        return _from_names, (self.data, *names, dict(self.near))


def choose(data: DataConfig) -> Choice:
    """Returns the tasks that the settings choose.

    `num_tasks` selects the first of a seeded order, so a smaller choice is a part of a larger one; `unseen_tasks`
    selects the last.

    Raises:
      ConfigError: the filters leave no task, or fewer than `num_tasks`, or name something that does not exist.
      MissingInputError: the folder of tasks does not exist or contains no task with a `train.json`.
      EcomError: with `strict_held_out`, a source cannot be read.
    """
    declared = declared_tasks(data)
    near = near_sources(data) if data.strict_held_out else {}
    if data.mixture == "files":
        return _from_names(data, (), (), near)
    if data.mixture == "folder":
        declared = folder_tasks(data)
        task_folder.warn_of_templates(declared)
        names = [task.name for task in declared if task.language in data.languages]
        return _from_names(data, *select_names(names, names, data), near)
    abilities = {ability for task in declared for ability in task.abilities}
    for ability in data.leave_out_abilities:
        if ability not in abilities:
            raise ConfigError(f"data.leave_out_abilities: no task uses {ability!r}{nearest(ability, abilities)}")
    sources = set(source_names(data)) - near.keys()
    allowed = [
        task for task in declared if not task.held_out and task.language in data.languages and task.source in sources
    ]
    names = [
        task.name
        for task in allowed
        if (data.chain_of_task or not task.operator)
        and (not data.operators or (task.operator or "base") in data.operators)
        and not set(task.abilities) & set(data.leave_out_abilities)
    ]
    known = [task.name for task in declared if not task.held_out]
    return _from_names(data, *select_names(names, [task.name for task in allowed], data, known), near)


def _from_names(data: DataConfig, names: Collection[str], unseen: Collection[str], near: Mapping[str, str]) -> Choice:
    """Returns the choice whose training and unseen tasks have these names."""
    tasks, names, unseen = declared_tasks(data), set(names), set(unseen)
    trainable = folder_tasks(data) if data.mixture == "folder" else [task for task in tasks if not task.held_out]
    return Choice(
        data=data,
        declared=tuple(trainable),
        training=tuple(task for task in trainable if task.name in names),
        unseen=tuple(task for task in trainable if task.name in unseen),
        held_out=tuple(task for task in tasks if task.held_out),
        near=near,
    )


def select_names(
    names: Collection[str], every: Sequence[str], data: DataConfig, known: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Returns the names of the tasks to train on, and of the unseen ones.

    The tasks that `tasks` allows are put in a seeded order. The last `unseen_tasks` of `every` are unseen, so runs with
    and without Chain-of-Task tasks have the same; of the other `names`, the first `num_tasks` or all are trained on.

    Args:
      names: tasks that the other settings allow.
      every: the same before the settings of operators and abilities, which only filter the training tasks.
      data: the settings.
      known: names that a pattern may match, before the other settings; empty: `names`.

    Raises:
      ConfigError: a pattern matches no name, there are no tasks, or too few for `num_tasks` and `unseen_tasks`.
    """
    for pattern in data.tasks:
        if not fnmatch.filter(known or names, pattern):
            hint = f"{nearest(pattern, known or names)}; the patterns are the config's or yours"
            raise ConfigError(f"data.tasks: {pattern!r} fits no task to train on{hint}, --config.data.tasks= takes all")
    fitting = {name for pattern in data.tasks or ("*",) for name in fnmatch.filter(every, pattern)}
    names = fitting.intersection(names)
    if not names:
        raise ConfigError("data: languages, sources, licences, operators and the like leave no task to train on")
    if data.num_tasks > len(names):
        raise ConfigError(f"data.num_tasks={data.num_tasks}, and the other settings leave {len(names)} tasks")
    ranked = sorted(fitting, key=lambda name: hashlib.sha256(f"{data.seed} {name}".encode()).digest())
    cut = max(0, len(ranked) - data.unseen_tasks)
    left = [name for name in ranked[:cut] if name in names]
    if len(left) < max(1, data.num_tasks):
        raise ConfigError(f"data.unseen_tasks={data.unseen_tasks} of {len(fitting)} tasks leaves too few to train on")
    return left[: data.num_tasks or None], ranked[cut:]


def real_tasks() -> list[Task]:
    """Returns every task of the real sources: one per annotation, and the tasks that the operators derive from it.

    Not every annotation becomes a task. Left out are labels that the text does not determine (the variant of an Alexa
    device, a song's genre, a restaurant's cuisine, how helpful a review was), the rows that one source repeats from
    another (hotel reviews of the shopping set, laptops of MEMD, restaurants of ASTE), and topic labels on restaurant
    reviews, which are too close to the held-out topic task. Texts without labels are used by pseudo-labelling.
    """
    return [task for family in _REAL for task in family.tasks()]


def declared_tasks(data: DataConfig) -> list[Task]:
    """Returns all tasks of the mixture's sources, held-out ones too, before any filter."""
    return list(_declared_tasks(data.mixture, data.plain_text, data.copying))


@functools.lru_cache(maxsize=8)
def _declared_tasks(mixture: str, plain: bool, copying: int) -> tuple[Task, ...]:
    """Returns `declared_tasks`, bound once per process."""
    declared, languages = [], {}
    if mixture in ("real", "all"):
        declared += real_tasks()
        languages |= {name: tuple(each.language.split("+")) for name, each in all_sources.SOURCES.items()}
    if mixture in ("synthetic", "all"):
        declared += synthetic.tasks()
        languages |= {name: (name.rsplit("_", 1)[1],) for name in products.SOURCES}
    if plain:
        declared = [task for task in declared if task.held_out] + plain_text.tasks(languages)
    return tuple(declared + (plain_text.tasks(languages, copying) if copying else []))


def folder_tasks(data: DataConfig) -> list[TaskFolder]:
    """Returns the task folders under `data.tasks_dir` that have a `train.json`.

    Raises:
      ConfigError: the setting is empty.
      MissingInputError: the folder does not exist or contains no such task.
    """
    if not data.tasks_dir:
        raise ConfigError("data.mixture=folder needs data.tasks_dir, a folder of <Dataset>/tasks/<task>/train.json")
    directory = Path(data.tasks_dir).expanduser()
    tasks = [task for task in task_folder.load_tasks(directory) if (task.path / "train.json").is_file()]
    if not tasks:
        raise MissingInputError(f"{directory}: no task folder has a train.json")
    return tasks


def wordings(data: DataConfig) -> list[str]:
    """Returns every instruction of the mixture's training tasks, without an input, in a fixed order."""
    return sorted(
        {
            render_prompt(task.definition, template, "", "")
            for task in _declared_tasks(data.mixture, False, 0)
            if not task.held_out
            for templates in task.wordings.values()
            for template in templates
        }
    )


def source_names(data: DataConfig) -> list[str]:
    """Returns the sources that the mixture reads, in order of name.

    Raises:
      ConfigError: `data.sources` names one that does not exist or has no task, `data.licences` a licence that none has.
    """
    known = sorted({task.source for task in declared_tasks(data)})
    for name in data.sources:
        if name not in known:
            hint = "" if data.mixture == "synthetic" else "; the sources with tasks are " + ", ".join(known)
            raise ConfigError(f"data.sources: {name!r} is not a source of the {data.mixture} mixture{hint}")
    licences = {name: each.licence for name, each in all_sources.SOURCES.items() if name in known}
    for wanted in data.licences:
        if wanted != REDISTRIBUTABLE and not any(_is_licence(wanted, licence) for licence in licences.values()):
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
    if name.startswith(products.PREFIX):
        return True  # generated by this package
    source = all_sources.source(name)
    return source.redistributable if wanted == REDISTRIBUTABLE else _is_licence(wanted, source.licence)


def near_sources(data: DataConfig) -> dict[str, str]:
    """Returns the sources that `strict_held_out` leaves out, each with its most similar pair of tasks and their
    similarity.

    Reads every source of the mixture once per process, since label sets come from the records.

    Raises:
      ConfigError: there are no held-out tasks: ECOMGPT_EVAL is not set.
      EcomError: a source cannot be read.
    """
    settings = (data.mixture, data.sources_dir, data.synthetic_records, data.seed)
    return _near_sources(*settings, os.environ.get("ECOMGPT_SOURCES", ""), tuple(read.evaluation_dirs(data)))


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
        found = read.read_source(name, data)
        for task in declared_tasks(data):
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


def cache_key(data: DataConfig) -> str:
    """Returns a hash of everything that determines the rows: settings, code of `instruct`, checksums of its input.

    Raises:
      EcomError: a source, a task folder or the evaluation is missing.
    """
    content: dict[str, Any] = {name: getattr(data, name) for name in _FIELDS}
    content["letters"] = data.template.endswith(":letters")
    content["files"] = [(Path(spec).name, own_files.checksum(spec)) for spec in data.files]
    if data.mixture == "folder":
        choose(dataclasses.replace(data, strict_held_out=False))
        directory = Path(data.tasks_dir).expanduser()
        content["tasks"] = [contamination.checksum(directory, split) for split in ("train", "test")]
    return _hash(content | _checksums(data, source_names(data)))


def check_sources(data: DataConfig, built: Path) -> None:
    """Compares the real sources' files that changed after `built` was written with their checksums.

    Without that file nothing is compared, since a build compares all files.

    Raises:
      EcomError: a file is missing or not the pinned one.
    """
    real = [name for name in source_names(data) if name in all_sources.SOURCES]
    if real and built.is_file() and (folder := find_data(data.sources_dir, "ECOMGPT_SOURCES", "sources")):
        all_sources.check_changed(real, folder, built.stat().st_mtime)


def repeats_key(data: DataConfig, shards: Sequence[str]) -> str:
    """Returns a hash of everything that determines which records repeat others (not task choice, seed and wording)."""
    texts = data.plain_text or data.copying > 0
    return _hash({"surveyed": list(shards), "plain_text": texts} | _checksums(data, shards))


def _checksums(data: DataConfig, sources: Sequence[str]) -> dict[str, Any]:
    """Returns checksums of the code, of the evaluation and of the real ones among `sources`."""
    code = sorted(Path(__file__).parent.rglob("*.py"), key=str)
    known = all_sources.SOURCES
    return {
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in code],
        "evaluation": [contamination.checksum(directory) for directory in read.evaluation_dirs(data)],
        "sources": {name: dict(known[name].files) for name in sources if name in known},
    }


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
