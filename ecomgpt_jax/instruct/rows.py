"""Examples become stored rows: wording chosen, prompt and response rendered, repeats dropped and counted."""

import collections
import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.files import BadRecord
from ecomgpt_jax.instruct import task_folder
from ecomgpt_jax.instruct.contamination import Exclusion, fold, joined
from ecomgpt_jax.instruct.instructions import Instruction, render
from ecomgpt_jax.instruct.quarantine import Quarantine
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow
from ecomgpt_jax.instruct.tasks.task import Example, Task

FIELDS = ("task", "record_id", "source", "language", "family", "operator", "parent", "prompt", "response")
Row = dict[str, str]


@dataclasses.dataclass
class Account:
    """What became of everything: rows by split and task, what was dropped by reason, what could not be read.

    `own` describes the tasks of files that users bring (name -> language, family, ...), `files` what each file is.
    """

    rows: dict[str, collections.Counter[str]] = dataclasses.field(
        default_factory=lambda: {"train": collections.Counter(), "test": collections.Counter()}
    )
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    sources: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    quarantine: Quarantine = dataclasses.field(default_factory=Quarantine)
    own: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Returns what `add` takes, fit for JSON."""
        return {**vars(self), "quarantine": self.quarantine.records}

    def add(self, part: Mapping[str, Any]) -> None:
        """Adds the account of a part."""
        for split, counts in part["rows"].items():
            self.rows[split].update(counts)
        self.dropped.update(part["dropped"])
        self.sources |= part["sources"]
        self.quarantine.records += [BadRecord(*record) for record in part["quarantine"]]
        self.own |= part["own"]
        self.files |= part["files"]


class Rows:
    """Makes rows of tasks and drops repeats; the same instance must make a source's test rows before its train rows."""

    def __init__(self, data: DataConfig, account: Account, exclusion: Exclusion | None = None) -> None:
        self.data, self.account, self.exclusion = data, account, exclusion
        self._seen: set[bytes] = set()

    def examples(
        self, task: Task, records: Sequence[Record], labels: tuple[str, ...], split: str, limit: int
    ) -> Iterator[tuple[Example, Row]]:
        """Yields up to `limit` (0 = all) examples of a task with their rendered rows."""
        rng = random.Random(f"{self.data.seed} {task.name} {split}")
        records = list(records)
        rng.shuffle(records)
        native = (task.language,)
        languages = {"native": native, "mixed": ("en", "zh")}.get(
            self.data.prompt_language, (self.data.prompt_language,)
        )
        made = 0
        for example in task.examples(records, labels, rng):
            language = languages[0] if len(languages) == 1 else rng.choice(languages)
            template = rng.choice(task.wordings.get(language) or task.wordings["en"])
            if self._keep(task.name, example.sentences, example.answer):
                yield example, row_of(task, example, template)
                made += 1
                if made == limit:
                    return

    def folder(self, task: TaskFolder, rows: Sequence[tuple[int, TaskRow]], split: str, limit: int) -> Iterator[Row]:
        """Yields up to `limit` (0 = all) rows of a task folder."""
        rows = list(rows)
        random.Random(f"{self.data.seed} {task.name} {split}").shuffle(rows)
        made = 0
        for index, row in rows:
            instruction = task_folder.to_instruction(task, index, row)
            if self._keep(task.name, instruction.sentences, instruction.answer):
                prompt, response = render(instruction)
                head = (task.name, str(index), task.dataset, task.language, task.family, "", "")
                yield dict(zip(FIELDS, (*head, prompt, response), strict=True))
                made += 1
                if made == limit:
                    return

    def own(self, rows: Sequence[Row], split: str, limit: int) -> Iterator[Row]:
        """Yields up to `limit` (0 = all) of the rows of one task that a user's file holds, which need no rendering."""
        rows = list(rows)
        random.Random(f"{self.data.seed} {rows[0]['task'] if rows else ''} {split}").shuffle(rows)
        kept = (row for row in rows if self._keep(row["task"], row["prompt"], row["response"]))
        yield from itertools.islice(kept, limit or None)

    def _keep(self, task: str, sentences: str, answer: str) -> bool:
        if not answer.strip():
            self.account.dropped["empty answer"] += 1
            return False
        try:
            sentences.encode(), answer.encode()
        except UnicodeEncodeError:
            self.account.dropped["lone surrogate"] += 1
            return False
        folded = fold(sentences), fold(answer)
        # Records with evaluation text are gone by now; what an operator puts together may still spell one.
        reason = self.exclusion.reason_of_folded(folded) if self.exclusion else ""
        if reason:
            self.account.dropped[f"evaluation {reason} (row)"] += 1
            return False
        content = f"{task}\n{joined(folded[0]) or sentences}\n{joined(folded[1]) or answer}".encode()
        key = hashlib.blake2b(content, digest_size=8).digest()
        if key in self._seen:
            self.account.dropped["duplicate"] += 1
            return False
        self._seen.add(key)
        return True


def row_of(task: Task, example: Example, template: str) -> Row:
    """Returns the stored row of an example in one wording."""
    instruction = Instruction(
        task=task.name,
        record_id=example.record_id,
        source=task.source,
        definition=task.definition,
        template=template,
        sentences=example.sentences,
        candidates=example.candidates,
        separator=task.label_separator,
        answer=example.answer,
    )
    prompt, response = render(instruction) if task.definition else (example.sentences, example.answer)
    head = (task.name, example.record_id, task.source, task.language, task.family, task.operator, task.parent)
    return dict(zip(FIELDS, (*head, prompt, response), strict=True))


def as_folder(task: Task, labels: tuple[str, ...]) -> TaskFolder:
    """Returns a held-out task in the released layout, with its one wording."""
    return TaskFolder(
        name=task.name,
        definition=task.definition,
        template=task.wordings["en"][0],
        label_set={"default": labels} if labels else {},
        separator=task.label_separator,
    )


def as_row(task: Task, example: Example) -> TaskRow:
    """Returns an example as a row of the released layout."""
    if task.family == "CLS":
        return TaskRow(example.sentences, {"default": example.labels})
    return TaskRow(example.sentences, spans=example.spans)
