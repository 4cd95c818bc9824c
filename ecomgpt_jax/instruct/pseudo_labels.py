"""Pseudo-labels: a model's answers on texts without annotation, checked before they become rows of a task.

An answer is kept if it has the format of its task's family, names only candidates, and contains only terms of the text.
The caller filters by confidence.
"""

import random
from collections.abc import Iterable, Sequence

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct.answer_parts import name_of, split_known, split_type
from ecomgpt_jax.instruct.contamination import normalise
from ecomgpt_jax.instruct.instructions import Instruction
from ecomgpt_jax.instruct.records import Record, Span
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, answer_separator, to_instruction
from ecomgpt_jax.instruct.tasks.task import NOTHING, Task

FAMILIES = ("CLS", "NER", "Condition_Extract", "Extract")
_CHECKED = 200  # gold answers that are checked before the model runs


def unlabelled(records: Iterable[Record], language: str) -> list[str]:
    """Returns the texts of the records without annotation, in order."""
    wanted = (r for r in records if r.supervision == "none" and r.language == language and hasattr(r, "text"))
    return [record.text for record in wanted]


def pool_of(texts: Iterable[str]) -> list[str]:
    """Returns the texts stripped, without empty ones and repeats."""
    kept: dict[str, str] = {}
    for text in map(str.strip, texts):
        if text:
            kept.setdefault(normalise(text) or text, text)
    return list(kept.values())


def pseudo_name(task: str) -> str:
    """Returns the name of a task whose data set is marked `_Pseudo`."""
    language, dataset, rest = task.split("-", 2)
    return f"{language}-{dataset.removesuffix('_Pseudo')}_Pseudo-{rest}"


def as_folder(task: Task, records: Sequence[Record]) -> TaskFolder:
    """Returns a task of a mixture as a task folder for pseudo-labels; its data set is named `_Pseudo`.

    Args:
      task: its input must be only the text of a record.
      records: all of its source; the annotated ones give the label set.

    Raises:
      ConfigError: the task needs more than a text, or its own gold answers do not pass `accept`.
    """
    selected = task.select(records)
    labels = task.label_set(selected)
    folder = TaskFolder(
        name=pseudo_name(task.name),
        definition=task.definition,
        template=task.wordings[task.language][0],
        label_set={"default": labels} if labels else {},
        separator=task.label_separator,
    )
    check_family(folder)
    texts = {record.id: getattr(record, "text", None) for record in selected[:_CHECKED]}
    passed = []
    for example in task.examples(selected[:_CHECKED], labels, random.Random(0)):
        if example.sentences != texts[example.record_id]:
            raise ConfigError(f"{task.name}: its input is more than a text; name a task whose input is a text alone")
        shown = example.candidates or labels
        passed.append(isinstance(accept(folder, example.sentences, example.answer, shown), TaskRow))
    if sum(passed) < 0.5 * len(passed):
        raise ConfigError(
            f"{task.name}: {sum(passed)} of {len(passed)} of its own gold answers are labels or parts of the text; "
            "what a model answers could not be checked"
        )
    return folder


def check_family(task: TaskFolder) -> None:
    """Checks that the answers of a family can be compared with the text or the candidates.

    Raises:
      ConfigError: they cannot; names the families whose answers can.
    """
    if task.family not in FAMILIES:
        raise ConfigError(f"{task.name}: answers of family {task.family} cannot be checked; use {', '.join(FAMILIES)}")


def instructions(task: TaskFolder, texts: Sequence[str]) -> list[Instruction]:
    """Returns the instruction for each text, with an empty answer."""
    rows = (TaskRow(text, {task.label_key: ()} if task.family == "CLS" else {}) for text in texts)
    return [to_instruction(task, index, row) for index, row in enumerate(rows)]


def accept(task: TaskFolder, text: str, answer: str, shown: Sequence[str]) -> TaskRow | str:
    """Returns the row of an answer, or the reason to reject it.

    Args:
      task: the task.
      text: its input.
      answer: the model's.
      shown: the candidates of the prompt.

    Returns:
      A row, or one of "empty answer", "format", "no candidate", "not in the text", "nothing found".
    """
    answer = answer.strip()
    if not answer:
        return "empty answer"
    if task.family == "CLS":
        named = {name_of(label): label for label in shown}
        names = [name for name, _, _ in split_known(answer, task.separator, shown)]
        labels = tuple(named.get(name, name) for name in names)
        written = {task.separator.join(names), task.separator.join(labels).strip()}
        if not set(names) <= set(named) or answer not in written:
            return "no candidate"
        return TaskRow(text, {task.label_key: labels}) if len(set(labels)) == len(labels) else "format"
    if task.family != "NER":
        return _spanned(task, text, [("", answer)])
    named = {name_of(kind): kind for kind in shown}
    lines = [split_type(line, shown) for line in answer.split("\n")]
    kinds = {kind for kind, _ in lines}
    if not all(terms[:1] == " " and terms.strip() for _, terms in lines) or len(kinds) != len(lines):
        return "format"
    if kinds != named.keys():
        return "no candidate" if kinds - named.keys() else "format"
    return _spanned(task, text, [(named[kind], terms[1:]) for kind, terms in lines])


def _spanned(task: TaskFolder, text: str, parts: Iterable[tuple[str, str]]) -> TaskRow | str:
    separator, spans = answer_separator(task), []
    for kind, terms in parts:
        for term in () if terms == NOTHING else [terms] if terms in text else terms.split(separator):
            start = text.find(term)
            if start < 0 or not term.strip():
                return "not in the text"
            spans.append(Span(start, start + len(term), kind, term))
    return TaskRow(text, spans=tuple(spans)) if spans else "nothing found"
