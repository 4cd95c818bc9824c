"""Which sources a mixture reads and which of their tasks it trains on, by the settings."""

import dataclasses
import fnmatch
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ecomgpt_jax.config import DataConfig, nearest
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct import inputs, label_space, task_folder
from ecomgpt_jax.instruct.instructions import render_prompt
from ecomgpt_jax.instruct.sources import catalogue as real_sources
from ecomgpt_jax.instruct.synthetic import catalogue as synthetic_sources
from ecomgpt_jax.instruct.tasks import plain_text, real, synthetic
from ecomgpt_jax.instruct.tasks.task import Task

REDISTRIBUTABLE = "redistributable"


def source_names(data: DataConfig) -> list[str]:
    """Returns the sources that the mixture reads, in order of name.

    Raises:
      ConfigError: `data.sources` names one that does not exist or has no task, `data.licences` a licence that none has.
    """
    known = sorted({task.source for task in declared_tasks(data)})
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


def declared_tasks(data: DataConfig) -> list[Task]:
    """Returns all tasks of the mixture, held-out ones too, whatever the filters say."""
    declared, languages = [], {}
    if data.mixture in ("real", "all"):
        declared += real.tasks()
        languages |= {name: tuple(each.language.split("+")) for name, each in real_sources.SOURCES.items()}
    if data.mixture in ("synthetic", "all"):
        declared += synthetic.tasks()
        languages |= {name: (name.rsplit("_", 1)[1],) for name in synthetic_sources.SOURCES}
    if data.plain_text:
        declared = [task for task in declared if task.held_out] + plain_text.tasks(languages)
    return declared + (plain_text.tasks(languages, data.copying) if data.copying else [])


def wordings(data: DataConfig) -> list[str]:
    """Returns each instruction that the mixture's tasks may be trained with, without an input, in a fixed order."""
    instructions = dataclasses.replace(data, plain_text=False, copying=0)
    return sorted(
        {
            render_prompt(task.definition, template, "", "")
            for task in declared_tasks(instructions)
            if not task.held_out
            for templates in task.wordings.values()
            for template in templates
        }
    )


def held_out_tasks(data: DataConfig) -> list[Task]:
    """Returns the tasks that are kept out of training, whatever the filters say."""
    return [task for task in declared_tasks(data) if task.held_out]


def training_tasks(data: DataConfig) -> list[Task]:
    """Returns the tasks to train on, in the order of their declaration.

    `num_tasks` takes the first of a seeded order, so a smaller choice is a part of a larger one.

    Raises:
      ConfigError: the filters leave no task, or fewer than `num_tasks`, or an ability is none of any task.
      EcomError: with `strict_held_out`, a source cannot be read.
    """
    declared = declared_tasks(data)
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
    return _near_sources(*asked, tuple(inputs.evaluation_dirs(data)))


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
        found = inputs.read_source(name, data)
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
