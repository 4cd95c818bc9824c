"""Builds the instruction data and prints it: `python -m ecomgpt_jax.build_data --config configs/demo.py --list`.

Without any other flag it builds (or finds) the data set and prints its path. `--list` prints a line per task; without
the sources it omits the numbers of rows. `--preview TASK` prints some instances as text and as tokens,
with tokens that carry loss marked (in colour on a terminal). `--stats OUT.json` prints the counts, writes them, and
writes a page with the ability graph to OUT.html. `--audit` looks for faults, first in your files, then in the built
rows, and exits with code 65 if there are any. `--unseen DIR` writes the tasks that `data.unseen_tasks` keeps out of
training as a folder for `evaluate --tasks`. `--overlap OUT.json` compares the sources with the evaluation tasks and
builds nothing.
"""

import functools
import itertools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from ecomgpt_jax import cli
from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, DataConfig, nearest
from ecomgpt_jax.data.preview import preview, visible
from ecomgpt_jax.data.tokenizer import Tokenizer, find_tokenizer
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.evaluation.data_report import data_sections
from ecomgpt_jax.evaluation.page import render_html, render_markdown
from ecomgpt_jax.files import write_json, write_text
from ecomgpt_jax.instruct import audit, choose, ecom_instruct, overlap, read
from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.ecom_instruct import Built
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import answer_separator, load_tasks, load_tested, read_rows, to_instruction
from ecomgpt_jax.model import hub

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, with an optional :argument")
_LIST = flags.DEFINE_bool("list", False, "print a table of the tasks")
_PREVIEW = flags.DEFINE_string("preview", None, "print instances of this task")
_STATS = flags.DEFINE_string("stats", None, "write the counts to this JSON file, and to an HTML page next to it")
_AUDIT = flags.DEFINE_bool("audit", False, "look for faults; exit code 65 when there are any")

_UNSEEN = flags.DEFINE_string("unseen", None, "write the tasks of data.unseen_tasks to this folder, for evaluate")
_OVERLAP = flags.DEFINE_string(
    "overlap", None, "write which evaluation rows share text with which source to this JSON file"
)

_PREVIEWED = 3
_LISTED_FINDINGS = 50
_COLUMNS = ("task", "language", "family", "operator", "parent", "train", "test")


def _print_tasks(tasks: dict[str, dict[str, Any]]) -> None:
    lines = [_COLUMNS]
    for name, entry in tasks.items():
        operator = "held out" if entry["held_out"] else entry["operator"] or "-"
        counts = (f"{entry[split]:,}" if split in entry else "?" for split in ("train", "test"))
        lines.append((name, entry["language"], entry["family"], operator, entry["parent"] or "-", *counts))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(w) if i >= 5 else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def print_declared(data: DataConfig) -> None:
    """Prints the line of each task that the settings choose, without numbers of rows, which depend on the sources.

    Raises:
      ConfigError: the settings leave no task.
      EcomError: with `strict_held_out`, a source cannot be read.
    """
    chosen = choose.choose(data)
    fields = ("language", "family", "operator", "parent", "held_out")
    tasks = sorted((*chosen.training, *chosen.unseen, *chosen.held_out), key=lambda task: task.name)
    _print_tasks({task.name: {field: getattr(task, field) for field in fields} for task in tasks})
    print(f"{len(tasks)} tasks ({len(chosen.training)} to train on)")


def print_table(built: Built) -> None:
    """Prints a line per task: language, family, operator, parent, numbers of rows."""
    _print_tasks(built.stats["tasks"])
    totals = built.stats["totals"]
    print(
        f"{totals['tasks']} tasks ({totals['training_tasks']} to train on, {totals['held_out_tasks']} held out, "
        f"{totals['atomic_tasks']} atomic), {totals['train']:,} training and {totals['test']:,} test rows"
    )
    for reason, count in built.stats["dropped"].items():
        print(f"dropped, {reason}: {count:,}")
    for source, pair in built.stats["near_held_out"].items():
        print(f"left out, {source}: label set near a held-out task's ({pair})")


def print_preview(built: Built, task: str, config: Config) -> None:
    """Prints a few rows of a task as text and as tokens; text with loss is coloured on a terminal without NO_COLOR.

    The tokenizer is the one that training would use, trained first if necessary.

    Raises:
      ConfigError: the data set has no such task.
      EcomError: the tokenizer that the config names cannot be loaded.
    """
    known = built.stats["tasks"]
    if task not in known:
        raise ConfigError(f"--preview: no task {task!r} in this data set{nearest(task, known)}")
    instances = ecom_instruct.open_split(built.directory, "train")
    if known[task]["held_out"]:
        folder = load_tasks(built.held_out_dir, only=[task])[0]
        rows = [render(to_instruction(folder, i, row)) for i, row in enumerate(read_rows(folder, limit=_PREVIEWED))]
    else:
        stored = (row for row in instances if row["task"] == task)
        rows = [(row["prompt"], row["response"]) for row in itertools.islice(stored, _PREVIEWED)]
    tokenizer = _tokenizer(built, config)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for number, (prompt, response) in enumerate(rows, 1):
        print(f"--- {task}, {number} of {len(rows)}")
        for line in preview(prompt, response, tokenizer, config.data, colour):
            print(line)


def write_stats(built: Built, path: str) -> None:
    """Writes the counts as JSON and as an HTML page next to it, and prints the page's tables."""
    sections = data_sections(built.stats)
    write_json(path, {**built.stats, "fingerprint": built.fingerprint})
    write_text(f"{path.removesuffix('.json')}.html", render_html("Data set", sections))
    print(render_markdown("Data set", sections))


def write_overlap(data: DataConfig, path: str) -> None:
    """Writes and prints the evaluation rows that share text with a source or with other evaluation tasks.

    Raises:
      MissingInputError: there are no evaluation tasks.
      EcomError: a source cannot be read.
    """
    tasks = {task.name: read_rows(task) for folder in read.evaluation_dirs(data) for task in load_tested(folder)}
    if not tasks:
        raise MissingInputError(
            "--overlap: no evaluation tasks; run `python -m ecomgpt_jax.fetch evaluation benchmarks`"
        )
    exclusion = Exclusion(row for rows in tasks.values() for row in rows)
    names, found = tqdm(choose.source_names(data), "comparing", unit="source", disable=None), {}
    for name in names:
        found[name] = overlap.rows_in_source(read.read_source(name, data), tasks, exclusion)
    found |= {task: overlap.rows_in_task(task, tasks) for task in tasks}
    found = {name: shared for name, shared in found.items() if shared}
    write_json(path, found)
    print(overlap.table(found, tasks))


def audit_files(data: DataConfig) -> bool:
    """Prints the faults in the task folders and files of the settings; returns whether any of them has training rows.

    Raises:
      DataError: there are some.
      EcomError: there is no task or file.
    """
    exclusion = read.exclusion(data)
    found_in = [audit.audit_own_file(spec, exclusion) for spec in data.files]
    if data.mixture == "folder":
        if not data.tasks_dir:
            raise ConfigError("data.mixture=folder needs data.tasks_dir, a folder of <Dataset>/tasks/<task>/train.json")
        found_in.append(audit.audit_folder(Path(data.tasks_dir).expanduser(), exclusion))
    rows, notes = 0, 0

    def faults() -> Iterator[str]:
        nonlocal rows, notes
        for found in itertools.chain.from_iterable(found_in):
            if not isinstance(found, audit.Finding):
                rows += 1
            elif found.fault:
                yield found.text
            else:
                notes += 1
                print(visible(f"note: {found.text}"))

    count = _print_findings(faults())
    if count:
        raise DataError(f"audit: {_findings(count)}, {rows:,} rows can be read; nothing was built")
    print(f"audit: no findings in {rows:,} rows of the files" + (f"; {notes:,} notes" if notes else ""))
    return bool(data.files) or any(Path(data.tasks_dir).expanduser().glob("*/tasks/*/train.json"))


def run_audit(built: Built, config: Config) -> None:
    """Prints the faults of the built rows.

    Raises:
      DataError: there are some.
    """
    splits = {split: ecom_instruct.open_split(built.directory, split) for split in ecom_instruct.SPLITS}
    tokenizer = functools.cache(lambda: _tokenizer(built, config))

    def answer_tokens(response: str) -> int:
        return len(tokenizer().encode(response)) + 1

    folders = choose.folder_tasks(config.data) if config.data.mixture == "folder" else []
    separators = {task.name: answer_separator(task) for task in folders}
    found = audit.audit(splits, read.exclusion(config.data), config.data.length, answer_tokens, separators)
    count = _print_findings(found)
    rows = sum(map(len, splits.values()))
    if count:
        raise DataError(f"audit: {_findings(count)} in {rows:,} built rows")
    print(f"audit: no findings in {rows:,} built rows")


def _tokenizer(built: Built, config: Config) -> Tokenizer:
    """Returns the tokenizer that training would use, trained first if necessary."""
    directory = config.model.tokenizer
    if not directory and config.model.init_from:
        from ecomgpt_jax.model.loading import tokenizer_directory  # imports jax, which nothing else here needs

        directory = tokenizer_directory(hub.find_weights(config.model.init_from)[1])
    return find_tokenizer(directory, ecom_instruct.open_split(built.directory, "train"), built.fingerprint, config.data)


def _findings(count: int) -> str:
    return f"{count:,} finding{'s' * (count > 1)}"


def _print_findings(findings: Iterator[str]) -> int:
    """Prints the first findings and returns how many there are."""
    count = 0
    for count, finding in enumerate(findings, 1):
        if count <= _LISTED_FINDINGS:
            print(visible(finding))
    if count > _LISTED_FINDINGS:
        print(f"... and {count - _LISTED_FINDINGS:,} more")
    return count


def main(arguments: list[str]) -> None:
    """Builds the data set of `--config` and prints or writes what the flags request."""
    cli.check_usage("settings are --config.<field>=value", arguments)
    asked = cli.load_config(_CONFIG)
    config = config_lib.resolve(asked)
    if _OVERLAP.value:
        cli.refuse_idle("with --overlap, which builds nothing", _LIST, _PREVIEW, _STATS, _AUDIT, _UNSEEN)
        write_overlap(config.data, _OVERLAP.value)
        return
    files = config.data.files or config.data.mixture == "folder"
    if _AUDIT.value and files and not audit_files(config.data):
        cli.refuse_idle("on evaluation files alone, from which nothing is built", _LIST, _PREVIEW, _STATS, _UNSEEN)
        return
    try:
        built = ecom_instruct.build(config.data)
    except MissingInputError as error:
        more = (_PREVIEW, _STATS, _AUDIT, _UNSEEN)
        if not _LIST.value or any(flag.value for flag in more) or config.data.mixture not in ("real", "all"):
            raise
        print_declared(config.data)
        print(f"numbers of rows are not known: {error}")
        return
    for line in config_lib.unused(asked):
        if line.startswith("data."):
            logging.warning("config: %s", line)
    if missing := read.missing_evaluation(config.data, "row"):
        print(missing)
    for file, description in built.stats["files"].items():
        print(visible(f"{file}: {description}"))
    if bad := built.stats["quarantine"]["records"]:
        print(f"{bad:,} bad records are left out; {built.stats['quarantine']['file']} lists them with reasons")
    if _LIST.value:
        print_table(built)
    if _PREVIEW.value is not None:
        print_preview(built, _PREVIEW.value, config)
    if _STATS.value is not None:
        write_stats(built, _STATS.value)
    if _AUDIT.value:
        run_audit(built, config)
    if _UNSEEN.value is not None:
        written = ecom_instruct.write_unseen(config.data, Path(_UNSEEN.value))
        print(f"{len(written)} unseen tasks: {_UNSEEN.value}")
    if not (_LIST.value or _PREVIEW.value or _AUDIT.value or _UNSEEN.value):
        totals = built.stats["totals"]
        print(f"{totals['train']:,} training and {totals['test']:,} test rows of {totals['tasks']} tasks")
        print(f"data set: {built.directory}")
        if built.held_out_dir:
            print(f"held-out tasks: {built.held_out_dir}")
        print(f"fingerprint: {built.fingerprint}")


if __name__ == "__main__":
    cli.run(main)
