"""Builds the instruction data and shows it: `python -m ecomgpt_jax.build_data --config configs/demo.py --list`.

Without any other flag it builds (or finds) the data set and prints where it is. `--list` prints a line a task,
`--preview TASK` some of its instances with the supervised part in colour, `--stats OUT.json` writes the counts,
`--audit` looks for faults and ends with exit code 65 when there are any.
"""

import itertools
import os
import sys

from absl import flags
from ml_collections import config_flags

from ecomgpt_jax import cli
from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import DataConfig, nearest
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.files import write_json
from ecomgpt_jax.instruct import audit, contamination, ecom_instruct, mixture
from ecomgpt_jax.instruct.ecom_instruct import Built
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import load_tasks, read_rows, to_instruction

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, with an optional :argument")
_LIST = flags.DEFINE_bool("list", False, "print a table of the tasks")
_PREVIEW = flags.DEFINE_string("preview", None, "print instances of this task")
_STATS = flags.DEFINE_string("stats", None, "write the counts to this JSON file")
_AUDIT = flags.DEFINE_bool("audit", False, "look for faults; exit code 65 when there are any")

_PREVIEWED = 3
_LISTED_FINDINGS = 50
_COLUMNS = ("task", "language", "family", "operator", "parent", "train", "test")


def print_table(built: Built) -> None:
    """Prints a line for every task: language, family, operator, parent, numbers of rows."""
    lines = [_COLUMNS]
    for name, entry in built.stats["tasks"].items():
        operator = "held out" if entry["held_out"] else entry["operator"] or "-"
        counts = (f"{entry['train']:,}", f"{entry['test']:,}")
        lines.append((name, entry["language"], entry["family"], operator, entry["parent"] or "-", *counts))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(w) if i >= 5 else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
    totals = built.stats["totals"]
    print(
        f"{totals['tasks']} tasks ({totals['training_tasks']} to train on, {totals['held_out_tasks']} held out, "
        f"{totals['atomic_tasks']} atomic), {totals['train']:,} training and {totals['test']:,} test rows"
    )
    for reason, count in built.stats["dropped"].items():
        print(f"dropped, {reason}: {count:,}")
    for source, pair in built.stats["near_held_out"].items():
        print(f"left out, {source}: label set near a held-out task's ({pair})")


def print_preview(built: Built, task: str) -> None:
    """Prints a few rows of a task, the response in colour on a terminal (unless NO_COLOR is set).

    Raises:
      ConfigError: the data set has no such task.
    """
    known = built.stats["tasks"]
    if task not in known:
        raise ConfigError(f"--preview: no task {task!r} in this data set{nearest(task, known)}")
    if known[task]["held_out"]:
        folder = load_tasks(built.held_out_dir, only=[task])[0]
        rows = [render(to_instruction(folder, i, row)) for i, row in enumerate(read_rows(folder, limit=_PREVIEWED))]
    else:
        stored = (row for row in ecom_instruct.open_split(built.directory, "train") if row["task"] == task)
        rows = [(row["prompt"], row["response"]) for row in itertools.islice(stored, _PREVIEWED)]
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    before, after = ("\x1b[32m", "\x1b[0m") if colour else ("", "")
    for number, (prompt, response) in enumerate(rows, 1):
        print(f"--- {task}, {number} of {len(rows)}")
        print(f"{_visible(prompt)}{before}{_visible(response)}{after}")


def _visible(text: str) -> str:
    """Returns a text that cannot command the terminal: control characters but line ends and tabs are escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def run_audit(built: Built, data: DataConfig) -> None:
    """Prints the faults of the built rows.

    Raises:
      DataError: there are some.
    """
    directories = mixture.evaluation_dirs(data)
    exclusion = contamination.load_exclusion(directories) if directories else None
    splits = {split: ecom_instruct.open_split(built.directory, split) for split in ecom_instruct.SPLITS}
    count = 0
    for finding in audit.audit(splits, exclusion):
        count += 1
        if count <= _LISTED_FINDINGS:
            print(_visible(finding))
    rows = sum(map(len, splits.values()))
    if count:
        raise DataError(
            f"audit: {count:,} findings in {rows:,} rows; the first {min(count, _LISTED_FINDINGS)} are listed"
        )
    print(f"audit: no findings in {rows:,} rows")


def main(arguments: list[str]) -> None:
    """Builds the data set of `--config` and shows what the flags ask for."""
    if arguments:
        raise ConfigError(f"unexpected argument {arguments[0]!r}")
    config = config_lib.resolve(cli.load_config(_CONFIG))
    built = ecom_instruct.build(config.data)
    for file, description in built.stats["files"].items():
        print(_visible(f"{file}: {description}"))
    if bad := built.stats["quarantine"]["records"]:
        print(f"{bad:,} bad records are left out; {built.stats['quarantine']['file']} says where and why")
    if _LIST.value:
        print_table(built)
    if _PREVIEW.value is not None:
        print_preview(built, _PREVIEW.value)
    if _STATS.value is not None:
        write_json(_STATS.value, {**built.stats, "fingerprint": built.fingerprint})
    if _AUDIT.value:
        run_audit(built, config.data)
    if not (_LIST.value or _PREVIEW.value or _AUDIT.value):
        totals = built.stats["totals"]
        print(f"{totals['train']:,} training and {totals['test']:,} test rows of {totals['tasks']} tasks")
        print(f"data set: {built.directory}")
        if built.held_out_dir:
            print(f"held-out tasks: {built.held_out_dir}")
        print(f"fingerprint: {built.fingerprint}")


if __name__ == "__main__":
    cli.run(main)
