"""Reads and writes the released EcomInstruct layout, which is also that of users' tasks.

    <directory>/<Dataset>/tasks/<LANG-Dataset-Family-name>/meta-info.json
                                                          /test.json  /train.json

`meta-info.json` holds `test_prompt.instruction` (a template with `{sentences}` and `{label_set}`) and, optionally,
`defi`, `label_set`, `label_key` and `label_sep`. The other two files are JSON lines: `sentences` (a string, or a list
that is joined), and `labels` {key: [label, ...]} for CLS or `spans` [{start, end, type, term}, ...] for the other
families. The folder's name determines language and family; the `task` of the meta file may differ and is not used.
Candidates and gold answers follow the official evaluation (see `candidates` and `gold_answer`).

The file is longer than 350 lines because reading, checking, rendering and writing share one layout.
"""

import dataclasses
import fnmatch
import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ecomgpt_jax.config import nearest
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.files import BadRecord, column_of, read_json, scan_json_lines, write_json, write_json_lines
from ecomgpt_jax.instruct.instructions import Instruction, check_template
from ecomgpt_jax.instruct.records import Span

FAMILIES = ("CLS", "Extract", "Condition_Extract", "NER", "Generate")
BENCHMARKS = ("ecinstruct", "chinese_ecom_qa", "shopping_mmlu")  # a metric begins with one of them
MAX_CANDIDATES = 50
_NAME = re.compile(r"(?P<language>EN|ZH)-(?P<dataset>\w[\w.]*)-(?P<family>\w+)-(?P<name>\w[\w.\-]*)")


@dataclasses.dataclass(frozen=True)
class TaskFolder:
    """A task: its `meta-info.json` and folder name.

    Attributes:
      name: folder name, `LANG-Dataset-Family-name`.
      definition: names the task in the head of the prompt (`defi`).
      template: instruction text, ends with "### Response:".
      label_set: labels by key (the released sets have two languages or levels of detail).
      label_key: the key that is used.
      separator: joins labels and terms (`label_sep`).
      path: the folder of its files; empty for a task that exists only in memory.
      metric: how a benchmark's answers are parsed and scored (`evaluation.benchmark_scores`); "" for EcomInstruct.
    """

    name: str
    definition: str
    template: str
    label_set: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    label_key: str = "default"
    separator: str = ", "
    path: Path = Path()
    metric: str = ""

    @property
    def language(self) -> str:
        """The language of the data, "en" or "zh"."""
        return task_fields(self.name)["language"].lower()

    @property
    def dataset(self) -> str:
        """The second field of the name."""
        return task_fields(self.name)["dataset"]

    @property
    def family(self) -> str:
        """The third field of the name, one of `FAMILIES`."""
        return task_fields(self.name)["family"]

    @property
    def is_open(self) -> bool:
        """Whether this is a benchmark task without candidates, whose answers are free."""
        return bool(self.metric and not self.labels)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels in use, in the order of the meta file, each once; empty if answers are open."""
        return tuple(dict.fromkeys(self.label_set.get(self.label_key, ())))


@dataclasses.dataclass(frozen=True, slots=True)
class TaskRow:
    """One row of a task: the input, and labels or spans. Released offsets need not match the text: use the terms."""

    sentences: str
    labels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    spans: tuple[Span, ...] = ()


def task_fields(name: str) -> dict[str, str]:
    """Splits a task's name into language, dataset, family and name.

    Raises:
      DataError: the name has another form or an unknown family, or is not a plain file name.
    """
    match = _NAME.fullmatch(name)
    if not match or len(name) > 200:
        raise DataError(f"{name!r} is not a task name; use LANG-Dataset-Family-name with LANG EN or ZH and no blanks")
    if match["family"] not in FAMILIES:
        hint = nearest(match["family"], FAMILIES)
        raise DataError(f"task {name}: family {match['family']!r} is none of {', '.join(FAMILIES)}{hint}")
    return match.groupdict()


def load_tasks(directory: str | os.PathLike[str], only: Iterable[str] | None = None) -> list[TaskFolder]:
    """Reads every task under `<directory>/<Dataset>/tasks/`, in order of name.

    Args:
      directory: the folder of the data sets.
      only: names of the tasks to read, or patterns of names such as "EN-*"; None reads all.

    Raises:
      MissingInputError: the directory, a requested task (for a pattern: every match) or a `meta-info.json` does not
        exist, or there is no task at all.
      DataError: a folder's name or meta file is wrong, a task occurs twice, or a link points outside the directory.
    """
    folders = find_tasks(directory)
    wanted: list[str] = []
    for pattern in ("*",) if only is None else only:
        fitting = [pattern] if pattern in folders else fnmatch.filter(folders, pattern)
        if not fitting:
            raise MissingInputError(f"{directory}: no task {pattern!r}{nearest(pattern, folders)}")
        wanted += fitting
    return [load_task(folders[name]) for name in dict.fromkeys(wanted)]


def load_tested(directory: str | os.PathLike[str], only: Iterable[str] | None = None) -> list[TaskFolder]:
    """Reads the tasks of `load_tasks` that have a `test.json`; a warning names the others once.

    Raises:
      MissingInputError: as `load_tasks`; also if no task has one, or `only` names a task without one.
      DataError: as `load_tasks`.
    """
    tasks, wanted = load_tasks(directory, only), set(only or ())
    without = [task.name for task in tasks if not (Path(task.path) / "test.json").is_file()]
    if len(without) == len(tasks) or wanted.intersection(without):
        raise MissingInputError(f"{directory}: no test.json in {', '.join(without)}")
    if without:
        _warn_once(f"{directory}: not evaluated, since there is no test.json: {', '.join(without)}")
    return [task for task in tasks if task.name not in without]


@functools.cache
def _warn_once(line: str) -> None:
    logging.warning(line)


def find_tasks(directory: str | os.PathLike[str]) -> dict[str, Path]:
    """Returns the folder of every task under `<directory>/<Dataset>/tasks/`, unread, in order of name.

    Raises:
      MissingInputError: the directory does not exist, or there is no task at all.
      DataError: a task occurs twice, or a link points outside the directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise MissingInputError(f"{directory}: no such folder of tasks")
    folders: dict[str, Path] = {}
    for path in sorted(directory.glob("*/tasks/*")):
        if path.name.startswith(".") or not path.is_dir():
            continue
        if not path.resolve().is_relative_to(directory.resolve()):
            raise DataError(f"{path}: leads out of {directory}; copy the task there instead of linking it")
        if path.name in folders:
            raise DataError(f"{path}: the task is also in {folders[path.name].parent}")
        folders[path.name] = path
    if not folders:
        raise MissingInputError(f"{directory}: no tasks; expected <Dataset>/tasks/<LANG-Dataset-Family-name>/")
    return dict(sorted(folders.items()))


def load_task(directory: str | os.PathLike[str]) -> TaskFolder:
    """Reads one task's name and `meta-info.json`.

    Raises:
      MissingInputError: the folder or its `meta-info.json` does not exist.
      DataError: a field is missing or has the wrong type.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise MissingInputError(f"{directory}: no such task folder")
    name, path = directory.name, directory / "meta-info.json"
    label_name = task_fields(name)["name"]
    if not path.is_file():
        raise MissingInputError(f"{directory}: no meta-info.json in this task folder")
    meta = read_json(_inside(path))
    if not isinstance(meta, dict):
        raise DataError(f"{path}: must hold one JSON object")
    prompt = meta.get("test_prompt")
    template = prompt.get("instruction") if isinstance(prompt, dict) else None
    if not isinstance(template, str):
        raise DataError(f"{path}: test_prompt.instruction is missing; it is the template with {{sentences}}")
    check_template(template, f"{path}: test_prompt.instruction")
    label_set = meta.get("label_set", {})
    if not isinstance(label_set, dict):
        raise DataError(f'{path}: label_set must be {{"key": ["label", ...]}}')
    labels = {key: _texts(value, f"{path}: label_set.{key}") for key, value in label_set.items()}
    key = _text(meta.get("label_key", next(iter(labels)) if len(labels) == 1 else "default"), f"{path}: label_key")
    if labels and key not in labels:
        raise DataError(f"{path}: label_key {key!r} is none of the label sets {', '.join(labels)}")
    if "{label_set}" in template and not labels:
        raise DataError(f"{path}: the template asks for {{label_set}}, and there is no label_set")
    task = TaskFolder(
        name=name,
        definition=_text(meta.get("defi", label_name.replace("_", " ")), f"{path}: defi"),
        template=template,
        label_set=labels,
        label_key=key,
        separator=_text(meta.get("label_sep", ", "), f"{path}: label_sep"),
        path=directory,
        metric=_text(meta.get("metric", ""), f"{path}: metric"),
    )
    if not task.separator:
        raise DataError(f"{path}: label_sep must not be empty")
    if task.metric and task.metric.partition(":")[0] not in BENCHMARKS:
        raise DataError(f"{path}: metric is for tasks of {', '.join(BENCHMARKS)}; leave it out, not {task.metric!r}")
    if task.family == "NER" and not task.labels:
        raise DataError(f"{path}: a NER task needs label_set, the types of its answer")
    return task


def template_problem(task: TaskFolder) -> str:
    """Returns what is unusual in a task's template, or ""; templates of benchmarks are not checked."""
    if task.metric or task.template.rstrip().endswith("### Response:"):
        return ""
    return (
        f"{task.path / 'meta-info.json'}: test_prompt.instruction does not end with '### Response:', so nothing "
        "separates prompt and answer; the released layout is '### Instruction:\\n{sentences}\\n...\\n### Response:'"
    )


def warn_of_templates(tasks: Iterable[TaskFolder]) -> None:
    """Logs the `template_problem` of each task, once per process."""
    for problem in filter(None, map(template_problem, tasks)):
        _warn(problem)


@functools.cache
def _warn(line: str) -> None:
    logging.warning("%s", line)


def read_rows(task: TaskFolder, split: str = "test", limit: int = 0) -> list[TaskRow]:
    """Reads the first `limit` rows (0 = all) of `<split>.json`.

    Raises:
      MissingInputError: the file does not exist.
      DataError: a row is malformed or has no gold answer (`file:line:column`), or there are no rows.
    """
    rows = []
    for _, _, row in islice(scan_rows(task, split), limit or None):
        if isinstance(row, BadRecord):
            raise DataError(str(row))
        rows.append(row)
    if not rows:
        raise DataError(f"{task.path / f'{split}.json'}: no rows")
    return rows


def scan_rows(task: TaskFolder, split: str) -> Iterator[tuple[int, str, TaskRow | BadRecord]]:
    """Yields (line number from 1, its text, row) for each line of `<split>.json` that is not blank.

    A malformed line is yielded as a `BadRecord`, so that all of them are reported.

    Raises:
      MissingInputError: the file does not exist.
      DataError: it is a link to a place outside its folder.
    """
    path = task.path / f"{split}.json"
    if not path.is_file():
        raise MissingInputError(f"{task.path}: no {split}.json in this task folder")
    for line, text, value in scan_json_lines(_inside(path)):
        if isinstance(value, dict):
            try:
                value = _row(task, value)
            except DataError as error:  # its text begins with the name of the field
                field = re.split(r"\W", str(error), maxsplit=1)[0]
                value = BadRecord(str(path), line, column_of(text, field), str(error), text)
        yield line, text, value


def write_task(
    directory: str | os.PathLike[str],
    task: TaskFolder,
    test: Sequence[TaskRow],
    train: Sequence[TaskRow] = (),
) -> TaskFolder:
    """Writes a task under `<directory>/<Dataset>/tasks/<name>/`; `load_task` returns an equal task.

    Each file is written atomically, `meta-info.json` last, so an incomplete folder is not a task.

    Raises:
      DataError: the name is not safe or the template is wrong.
    """
    check_template(task.template, f"task {task.name}: template")
    folder = Path(directory) / task.dataset / "tasks" / task.name
    for split, rows in (("train", train), ("test", test)):
        if rows:
            write_json_lines(folder / f"{split}.json", (_row_object(row) for row in rows))
    meta: dict[str, Any] = {
        "task": task.name,
        "defi": task.definition,
        "label_set": {key: list(labels) for key, labels in task.label_set.items()},
        "label_key": task.label_key,
        "label_sep": task.separator,
        "test_prompt": {"instruction": task.template},
    }
    if task.metric:
        meta["metric"] = task.metric
    write_json(folder / "meta-info.json", meta)
    return dataclasses.replace(task, path=folder)


def gold_labels(task: TaskFolder, row: TaskRow) -> tuple[str, ...]:
    """Returns the parts of a row's answer: its labels (CLS), or the terms of its spans in order."""
    return row.labels[task.label_key] if task.family == "CLS" else tuple(span.term for span in row.spans)


def gold_answer(task: TaskFolder, row: TaskRow) -> str:
    """Returns a row's answer as in the official evaluation.

    CLS joins the labels, the other families the terms, with `answer_separator`; NER has one line per type in the order
    of the label set, "Type: term, term" or "Type: None", and drops spans of other types.
    """
    if task.family == "NER":
        return format_entities(task, [(span.type, span.term) for span in row.spans])
    if task.metric and task.family == "Generate":
        return row.spans[0].term  # the others are alternative reference texts
    return answer_separator(task).join(gold_labels(task, row))


def answer_separator(task: TaskFolder) -> str:
    """Returns the separator of a gold answer's parts: the task's, or ", " for Condition_Extract."""
    return ", " if task.family == "Condition_Extract" else task.separator


def format_entities(task: TaskFolder, entities: Iterable[tuple[str, str]]) -> str:
    """Returns (type, term) pairs in the form of a NER answer."""
    terms: dict[str, list[str]] = {kind: [] for kind in task.labels}
    for kind, term in entities:
        if kind in terms:
            terms[kind].append(term)
    return "\n".join(f"{kind}: {task.separator.join(found) or 'None'}" for kind, found in terms.items())


def candidates(task: TaskFolder, index: int, row: TaskRow) -> tuple[str, ...]:
    """Returns the candidate labels of row `index`, in the order of the meta file.

    All labels; for CLS with more than `MAX_CANDIDATES` the gold labels, filled up to that number with the labels whose
    sha256 together with task and index is smallest, so that nothing else changes a row's candidates.
    """
    labels = task.labels
    if task.family != "CLS" or len(labels) <= MAX_CANDIDATES:
        return labels
    gold = dict.fromkeys(gold_labels(task, row))
    others = [label for label in labels if label not in gold]
    others.sort(key=lambda label: hashlib.sha256(f"{task.name}\n{index}\n{label}".encode()).digest())
    chosen = {*gold, *others[: max(0, MAX_CANDIDATES - len(gold))]}
    return tuple(label for label in labels if label in chosen)


def to_instruction(task: TaskFolder, index: int, row: TaskRow) -> Instruction:
    """Returns row `index` as an instruction, the input of `instructions.render`."""
    return Instruction(
        task=task.name,
        record_id=str(index),
        source=task.dataset,
        definition=task.definition,
        template=task.template,
        sentences=row.sentences,
        candidates=candidates(task, index, row),
        separator=task.separator,
        answer=gold_answer(task, row),
    )


def fingerprint(task: TaskFolder, rows: Sequence[TaskRow]) -> str:
    """Returns the sha256 of a task's definition and rows, independent of its folder and formatting."""
    meta = dataclasses.asdict(dataclasses.replace(task, path=Path()))
    del meta["path"]
    meta = meta if task.metric else {key: value for key, value in meta.items() if key != "metric"}
    content = json.dumps([meta, [_row_object(row) for row in rows]], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _inside(path: Path) -> Path:
    """Returns `path`; raises DataError if it is a link to a place outside its folder."""
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise DataError(f"{path}: a link out of its task folder; copy the file there")
    return path


def _text(value: object, where: str) -> str:
    if value is None:
        raise DataError(f"{where} is missing")
    if not isinstance(value, str):
        raise DataError(f"{where} must be a string, not {type(value).__name__}")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where} must be a list of strings, not {type(value).__name__}")
    return tuple(_text(item, where) for item in value)


def _row(task: TaskFolder, row: dict[str, Any]) -> TaskRow:
    """Checks one row; the text of each error begins with the name of the field."""
    sentences = row.get("sentences")
    if isinstance(sentences, list):
        sentences = "".join(_texts(sentences, "sentences"))
    sentences = _text(sentences, "sentences")
    if task.family == "CLS":
        labels = row.get("labels")
        if not isinstance(labels, dict) or not labels.get(task.label_key):
            raise DataError(f"labels.{task.label_key} is missing or empty, so the row has no gold answer")
        return TaskRow(sentences, {key: _texts(value, f"labels.{key}") for key, value in labels.items()})
    spans = row.get("spans")
    if not isinstance(spans, list):
        problem = "is missing" if spans is None else "must be a list"
        raise DataError(f"spans {problem}; the gold answer of a {task.family} task is made from it")
    if not spans and task.family in ("Extract", "Generate"):
        raise DataError("spans is empty, so the row has no gold answer")
    return TaskRow(sentences, spans=tuple(map(_span, spans)))


def _span(span: object) -> Span:
    if not isinstance(span, dict):
        raise DataError(f"spans: a span must be an object with a term, not {type(span).__name__}")
    start, end = span.get("start", 0), span.get("end", 0)
    if not (type(start) is int and type(end) is int):
        raise DataError("spans: start and end of a span must be whole numbers")
    return Span(start, end, _text(span.get("type", ""), "spans: type"), _text(span.get("term"), "spans: term"))


def _row_object(row: TaskRow) -> dict[str, Any]:
    if row.labels:
        return {"sentences": row.sentences, "labels": {key: list(labels) for key, labels in row.labels.items()}}
    return {"sentences": row.sentences, "spans": [dataclasses.asdict(span) for span in row.spans]}
