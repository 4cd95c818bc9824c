"""Finds evaluation rows that share text with training sources or with other evaluation tasks.

Texts are compared as in `contamination`: a whole text or line, a sentence, or a long run.
"""

from collections.abc import Iterable, Mapping, Sequence

from ecomgpt_jax.instruct.contamination import Exclusion, texts_of
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.task_folder import TaskRow

Tasks = Mapping[str, Sequence[TaskRow]]


def rows_in_source(records: Iterable[Record], tasks: Tasks, exclusion: Exclusion) -> dict[str, list[int]]:
    """Returns {task: indices of its rows that share text with a record}, without tasks that have none.

    Args:
      records: all records of a source.
      tasks: rows by name of the evaluation task.
      exclusion: of all these rows.
    """
    shared = [TaskRow(text) for record in records if exclusion.reason(record) for text in texts_of(record)]
    return _found(Exclusion(shared), tasks) if shared else {}


def rows_in_task(task: str, tasks: Tasks) -> dict[str, list[int]]:
    """Returns the same for the rows of one evaluation task against all others."""
    others = {name: rows for name, rows in tasks.items() if name != task}
    return _found(Exclusion(tasks[task]), others)


def _found(exclusion: Exclusion, tasks: Tasks) -> dict[str, list[int]]:
    found = {
        name: [index for index, row in enumerate(rows) if exclusion.reason_of_texts(_texts(row))]
        for name, rows in tasks.items()
    }
    return {name: indices for name, indices in found.items() if indices}


def _texts(row: TaskRow) -> tuple[str, ...]:
    return (row.sentences, *(span.term for span in row.spans))


def table(found: Mapping[str, Mapping[str, Sequence[int]]], tasks: Tasks) -> str:
    """Returns a line per pair of source (or task) and evaluation task that share text, most rows first."""
    pairs = sorted((-len(rows), name, task) for name, shared in found.items() for task, rows in shared.items())
    lines = [f"{'shares text':<44}{'with evaluation task':<60}{'rows':>12}"]
    for count, name, task in pairs:
        lines.append(f"{name:<44}{task:<60}{f'{-count} of {len(tasks[task])}':>12}")
    return "\n".join(lines) if pairs else "no evaluation row shares text with a source"
