"""Examples become stored rows: wording chosen, prompt and response rendered, repeats dropped and counted."""

import collections
import dataclasses
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    def settle(self, name: str, records: int, refused: int, fates: Iterable[str]) -> dict[str, Any]:
        """Adds what became of records that users bring to the entry of `sources`, and returns that.

        Args:
          name: of the file or the data set of task folders.
          records: how many there are.
          refused: how many of them are bad.
          fates: of each other one: "train", "test", or why it is left out.
        """
        entry = self.sources.setdefault(name, {"records": 0, "train": 0, "test": 0, "refused": 0, "left_out": {}})
        counts = collections.Counter(fates)
        for key, count in (("records", records), ("refused", refused), *((k, counts.pop(k, 0)) for k in self.rows)):
            entry[key] += count
        entry["left_out"] = dict(sorted((collections.Counter(entry["left_out"]) + counts).items()))
        return entry

    def nothing_made(self) -> str:
        """Returns why no training row was made, as far as the counts say it."""
        said = [f"{name}: {describe_fates(entry)}" for name, entry in self.sources.items() if "left_out" in entry]
        said += [f"dropped, {reason}: {count:,}" for reason, count in self.dropped.items()]
        return "; ".join(said)

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


def describe_fates(entry: Mapping[str, Any]) -> str:
    """Returns what became of the records of a file, from its entry in `Account.sources`, in a few words."""
    left = ", ".join(f"{reason}: {count:,}" for reason, count in entry["left_out"].items())
    return (
        f"{entry['train']:,} trained on, {entry['test']:,} tested, {entry['refused']:,} refused, "
        f"{sum(entry['left_out'].values()):,} left out" + (f" ({left})" if left else "")
    )


class Rows:
    """Makes rows of tasks and drops repeats; the same instance must make a source's test rows before its train rows."""

    def __init__(self, data: DataConfig, account: Account, exclusion: Exclusion | None = None) -> None:
        self.data, self.account, self.exclusion = data, account, exclusion
        self._seen: set[bytes] = set()
        self._made: collections.Counter[tuple[str, str]] = collections.Counter()  # rows by task and split

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
            if not self._unfit(task.name, example.sentences, example.answer):
                yield example, row_of(task, example, template)
                made += 1
                if made == limit:
                    return

    def folder(
        self, task: TaskFolder, rows: Sequence[tuple[int, TaskRow]], split: str, limit: int
    ) -> Iterator[tuple[Row, str]]:
        """Yields each row of a task folder with why it is left out, "" for up to `limit` (0 = all) of them."""
        for index, row in self._shuffled(rows, f"{task.name} {split}"):
            instruction = task_folder.to_instruction(task, index, row)
            head = (task.name, str(index), task.dataset, task.language, task.family, "", "")
            made = dict(zip(FIELDS, (*head, *render(instruction)), strict=True))
            yield made, self._limited(limit, split, task.name, instruction.sentences, instruction.answer)

    def own(self, rows: Sequence[Row], split: str, limit: int) -> Iterator[tuple[Row, str]]:
        """Yields each row of one task of a user's file with why it is left out, as `folder` does."""
        for row in self._shuffled(rows, f"{rows[0]['task']} {split}"):
            yield row, self._limited(limit, split, row["task"], row["prompt"], row["response"])

    def _shuffled(self, rows: Sequence[Any], key: str) -> list[Any]:
        rows = list(rows)
        random.Random(f"{self.data.seed} {key}").shuffle(rows)
        return rows

    def _limited(self, limit: int, split: str, task: str, sentences: str, answer: str) -> str:
        """Returns why a row is left out, with at most `limit` (0 = all) of a task's in a split; "" for one to keep."""
        if limit and self._made[task, split] == limit:
            return f"beyond data.instances_per_task={limit}" if split == "train" else f"beyond {limit} test rows"
        reason = self._unfit(task, sentences, answer)
        self._made[task, split] += not reason
        return reason

    def _unfit(self, task: str, sentences: str, answer: str) -> str:
        """Returns why a row is left out, "" for one to keep; counts it."""
        reason = self._reason(task, sentences, answer)
        if reason:
            self.account.dropped[reason] += 1
        return reason

    def _reason(self, task: str, sentences: str, answer: str) -> str:
        if not answer.strip():
            return "empty answer"
        try:
            sentences.encode(), answer.encode()
        except UnicodeEncodeError:
            return "lone surrogate"
        folded = fold(sentences), fold(answer)
        # Records with evaluation text are gone by now; what an operator puts together may still spell one.
        reason = self.exclusion.reason_of_folded(folded) if self.exclusion else ""
        if reason:
            return f"evaluation {reason} (row)"
        content = f"{task}\n{joined(folded[0]) or sentences}\n{joined(folded[1]) or answer}".encode()
        key = hashlib.blake2b(content, digest_size=8).digest()
        if key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return ""


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
