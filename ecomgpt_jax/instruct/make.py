"""Makes rows from records: chooses wordings and order, applies limits, drops repeats and evaluation text.

A task's rows are in a seeded order, so a lower limit keeps a subset of the rows of a higher one. Rows are made in
shards, one per source, in any order and in several processes.
"""

import collections
import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.files import BadRecord
from ecomgpt_jax.instruct import own_data, read, task_folder
from ecomgpt_jax.instruct.choose import Choice
from ecomgpt_jax.instruct.contamination import Exclusion, fold, joined, normalise, tested_texts
from ecomgpt_jax.instruct.duplicates import Sketch, sketch
from ecomgpt_jax.instruct.example_rows import as_folder, as_row, row_of
from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Row, render
from ecomgpt_jax.instruct.letters import can_show_letters, drawn, shuffled, with_letters
from ecomgpt_jax.instruct.read import BuildStats, describe_fates
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.sources import all_sources
from ecomgpt_jax.instruct.sources.rows import one_line
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow
from ecomgpt_jax.instruct.tasks.task import Example, Task

TEST_ROWS = 50  # per task at most
HELD_OUT_ROWS = 100  # per task at most
LETTERS = 0.5  # share of the rows that may have letters, with `data.template=...:letters`
IN_TEST = "input of a test.json"  # why a row of a task folder is left out
FOLDERS, FILES = "folder", "files"  # shards other than sources
HeldOut = dict[str, tuple[TaskFolder, list[TaskRow]]]  # by the name of the task
_DESCRIBED = ("language", "family", "operator", "parent", "source")


def shards(choice: Choice) -> list[str]:
    """Returns the shards in order: each source, all task folders, all of the user's files."""
    if choice.data.mixture == "folder":
        names = [FOLDERS]
    else:
        names = sorted({task.source for task in (*choice.training, *choice.held_out)})
    return [*names, FILES] if choice.data.files else names


def compared_shards(choice: Choice) -> list[str]:
    """Returns the shards whose near duplicates are removed; those of the embedded catalogue are similar by design."""
    return [shard for shard in shards(choice) if shard in all_sources.SOURCES]


def sketch_shard(choice: Choice, shard: str, stats: BuildStats) -> tuple[list[str], Sketch]:
    """Returns the ids of a source's records that may repeat others, and the sketches by which they are compared.

    Records that no declared task reads are not compared. The choice of tasks has no influence, so every choice keeps
    the same records.

    Raises:
      EcomError: the source is missing or broken.
    """
    records = read.read_source(shard, choice.data, stats)
    exclusion = read.exclusion(choice.data)
    select = _selector(records)
    declared, _, _ = choice.of_source(shard)
    used = {record.id for task in declared for record in select(task)}
    compared = [record for record in records if record.id in used and not read.unfit(record, exclusion)]
    return [record.id for record in compared], sketch(shard, compared)


def make_rows(
    choice: Choice, shard: str, stats: BuildStats, held_out: HeldOut, repeats: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Row]]:
    """Yields (split, row) of a shard, those of a task's test split before those of its training split.

    Args:
      choice: the tasks.
      shard: one of `shards(choice)`.
      stats: receives the counts.
      held_out: receives the held-out tasks and their rows.
      repeats: {id of a record to leave out: reason}.

    Raises:
      EcomError: a source, task folder or file is missing or broken.
    """
    rows = Rows(choice.data, stats, read.exclusion(choice.data))
    if shard == FOLDERS:
        made = _from_folders(rows, choice.training)
    elif shard == FILES:
        made = _from_files(rows)
    else:
        made = _from_source(rows, choice, shard, held_out, repeats)
    for split, row in made:
        stats.rows[split][row["task"]] += 1
        yield split, row


def unseen_rows(choice: Choice, shard: str, stats: BuildStats, repeats: Mapping[str, str] | None) -> HeldOut:
    """Returns the tasks of a source that are not trained on, with rows of its test split, in the released layout.

    Rows whose answer or candidates the layout cannot represent are left out, and so are tasks without other rows.

    Args:
      choice: the tasks.
      shard: name of the source.
      stats: receives the counts.
      repeats: {id of a record to leave out: reason}.

    Raises:
      EcomError: the source is missing or broken.
    """
    rows = Rows(choice.data, stats, read.exclusion(choice.data))
    records = read.read_source(shard, choice.data, stats)
    select = _selector(records)
    unseen = [task for task in choice.unseen if task.source == shard]
    labels_of = {task.name: task.label_set(select(task)) for task in unseen}
    tested = read.split_records(shard, records, rows.exclusion, stats, repeats)["test"]
    found: HeldOut = {}
    for task in unseen:
        folder = as_folder(task, labels_of[task.name])
        made = rows.examples(task, task.select(tested), folder.labels, "test", TEST_ROWS)
        kept = [as_row(task, example) for example, _ in made if _can_state(folder, task, example)]
        if kept:
            found[task.name] = folder, kept
    return found


def _can_state(folder: TaskFolder, task: Task, example: Example) -> bool:
    shown = set(example.candidates) <= set(folder.labels)
    return shown and task_folder.gold_answer(folder, as_row(task, example)) == example.answer


def _from_source(
    rows: "Rows", choice: Choice, name: str, held_out: HeldOut, repeats: Mapping[str, str] | None
) -> Iterator[tuple[str, Row]]:
    records = read.read_source(name, rows.data, rows.stats)
    records_of = read.split_records(name, records, rows.exclusion, rows.stats, repeats)
    select = _selector(records)
    _, training, kept_out = choice.of_source(name)
    labels_of = {task.name: task.label_set(select(task)) for task in (*training, *kept_out)}
    for task in kept_out:
        labels = labels_of[task.name]
        made = rows.examples(task, task.select(records_of["held_out"]), labels, "held_out", HELD_OUT_ROWS)
        held_out[task.name] = (as_folder(task, labels), [as_row(task, example) for example, _ in made])
    for split, limit in (("test", TEST_ROWS), ("train", rows.data.instances_per_task)):
        select = _selector(records_of[split])
        for task in training:
            for _, row in rows.examples(task, select(task), labels_of[task.name], split, limit):
                yield split, row


def _selector(records: Sequence[Record]) -> Callable[[Task], list[Record]]:
    """Returns `task.select` of these records, computed once for consecutive tasks that read the same ones."""
    last: dict[tuple[int, type[Record]], list[Record]] = {}

    def select(task: Task) -> list[Record]:
        key = id(task.dataset), task.form.record
        if key not in last:
            last.clear()
            last[key] = task.select(records)
        return last[key]

    return select


class _Candidate(NamedTuple):
    """The parts of a row of user data; `source` and `group` determine its split, `record` identifies its record."""

    source: str
    group: str
    task: str
    record: Hashable
    content: Any


def _from_folders(rows: "Rows", tasks: Sequence[TaskFolder]) -> Iterator[tuple[str, Row]]:
    own_test = tested_texts(rows.data.tasks_dir)
    counts: dict[str, tuple[int, int]] = {}  # of records and bad ones, by task
    fates: dict[tuple[str, int], str] = {}  # by task and index
    candidates: list[_Candidate] = []
    for task in tasks:
        scanned = [row for _, _, row in task_folder.scan_rows(task, "train")]
        bad = [row for row in scanned if isinstance(row, BadRecord)]
        rows.stats.add_bad(task.name, len(scanned), bad)
        counts[task.name] = len(scanned), len(bad)
        for index, row in enumerate(scanned):
            if isinstance(row, BadRecord):
                continue
            place, group = (task.name, index), normalise(row.sentences)
            if reason := rows.excluded((row.sentences, *(span.term for span in row.spans))):
                fates[place] = reason
            elif (group or row.sentences) in own_test:
                fates[place] = IN_TEST
                rows.stats.dropped[IN_TEST] += 1
            else:
                content = task, index, row, rows.has_letters(task, task.template, index)
                candidates.append(_Candidate(task.dataset, group, task.name, place, content))
    most = {name: TEST_ROWS * count for name, count in collections.Counter(task.dataset for task in tasks).items()}
    yield from rows.split(candidates, most, _folder_row, fates)
    by_task: dict[str, list[str]] = {task.name: [] for task in tasks}
    for (name, _), fate in fates.items():
        by_task[name].append(fate)
    for task in tasks:
        rows.stats.add_source(task.dataset, *counts[task.name], by_task[task.name])


def _folder_row(content: tuple[TaskFolder, int, TaskRow, bool]) -> tuple[Row, str, str]:
    """Returns the stored row of a task folder's row, its input and its answer."""
    task, index, row, letters = content
    instruction = task_folder.to_instruction(task, index, row)
    shown = instruction
    if letters:
        order = shuffled(instruction.candidates, task.name, index)
        shown = with_letters(dataclasses.replace(instruction, candidates=order), task_folder.gold_labels(task, row))
    head = (task.name, str(index), task.dataset, task.language, task.family, "", "")
    stored = dict(zip(ROW_FIELDS, (*head, *render(shown)), strict=True))
    return stored, instruction.sentences, instruction.answer


def _from_files(rows: "Rows") -> Iterator[tuple[str, Row]]:
    stats = rows.stats
    for file in own_data.load_files(rows.data.files):
        stats.add_bad(file.spec, file.records, file.bad)
        fates = dict(file.left_out)  # of each record, by line
        source = f"{rows.data.seed} {file.name}"
        candidates: list[_Candidate] = []
        for instance in file.instances:
            row = own_data.to_row(file, instance)
            if row["language"] not in rows.data.languages:
                fates.setdefault(instance.line, f"language {row['language']} is not in data.languages")
            elif reason := rows.excluded(instance.texts):
                fates.setdefault(instance.line, reason)
            else:
                stats.own[row["task"]] = {name: row[name] for name in _DESCRIBED}
                candidates.append(_Candidate(source, instance.group, row["task"], instance.line, row))
        candidates.sort(key=lambda each: each.task)
        yield from rows.split(candidates, {source: TEST_ROWS}, _own_row, fates)
        entry = stats.add_source(file.name, file.records, len(file.bad), fates.values())
        stats.files[file.spec] = f"{file}; {describe_fates(entry)}"


def _own_row(row: Row) -> tuple[Row, str, str]:
    return row, row["prompt"], row["response"]


class Rows:
    """Makes rows of tasks and drops repeats; test rows of a source must be made before its training rows."""

    def __init__(self, data: DataConfig, stats: BuildStats, exclusion: Exclusion | None = None) -> None:
        self.data, self.stats, self.exclusion = data, stats, exclusion
        self._seen: set[bytes] = set()

    def examples(
        self, task: Task, records: Sequence[Record], labels: tuple[str, ...], split: str, limit: int
    ) -> Iterator[tuple[Example, Row]]:
        """Yields up to `limit` (0 = all) examples of a task with their rendered rows."""
        rng = random.Random(f"{self.data.seed} {task.name} {split}")
        records = list(records)
        rng.shuffle(records)
        wanted = self.data.prompt_language
        languages = {"native": (task.language,), "mixed": ("en", "zh")}.get(wanted, (wanted,))
        made = 0
        for example in task.examples(records, labels, rng):
            language = languages[0] if len(languages) == 1 else rng.choice(languages)
            template = rng.choice(task.wordings.get(language) or task.wordings["en"])
            if not self._unfit(task.name, example.sentences, example.answer):
                letters = self.has_letters(task, template, f"{split} {example.record_id} {example.sentences}")
                yield example, row_of(task, example, template, letters)
                made += 1
                if made == limit:
                    return

    def has_letters(self, task: Task | TaskFolder, template: str, row: str | int) -> bool:
        """Returns whether the candidates of a row have letters; the draw depends on the seed, the task and the row."""
        wanted = self.data.template.endswith(":letters") and can_show_letters(task.family, template)
        return wanted and drawn(LETTERS, "letters", self.data.seed, task.name, row)

    def excluded(self, texts: Sequence[str]) -> str:
        """Returns the reason to leave user texts out of training, "" to keep them; counts it."""
        reason = self.exclusion.reason_of_texts(texts) if self.exclusion else ""
        if reason:
            self.stats.dropped[f"evaluation {reason}"] += 1
        return reason and f"evaluation {reason}"

    def split(
        self,
        candidates: Sequence[_Candidate],
        most: Mapping[str, int],
        render_row: Callable[[Any], tuple[Row, str, str]],
        fates: dict,
    ) -> Iterator[tuple[str, Row]]:
        """Yields (split, row) of user data, within the limits.

        Args:
          candidates: all of their sources; those of a task follow each other.
          most: maximum number of test rows, by source.
          render_row: content -> stored row, input, answer.
          fates: receives the split of each record's rows, or the first reason to leave one out.
        """
        sizes = {source: collections.Counter[str]() for source in most}
        for each in candidates:
            sizes[each.source][each.group] += 1
        tested = {source: read.groups_to_test(source, sizes[source], most[source]) for source in most}
        for task, group in itertools.groupby(candidates, key=lambda each: each.task):
            own = list(group)
            for split, limit in (("test", TEST_ROWS), ("train", self.data.instances_per_task)):
                chosen = [each for each in own if (each.group in tested[each.source]) == (split == "test")]
                random.Random(f"{self.data.seed} {task} {split}").shuffle(chosen)
                limited = f"beyond data.instances_per_task={limit}" if split == "train" else f"beyond {limit} test rows"
                made = 0
                for each in chosen:
                    row, sentences, answer = render_row(each.content)
                    reason = limited if limit and made == limit else self._unfit(task, sentences, answer, spelled=True)
                    if reason:
                        fates.setdefault(each.record, reason)
                    else:
                        fates[each.record] = split
                        made += 1
                        yield split, row

    def _unfit(self, task: str, sentences: str, answer: str, spelled: bool = False) -> str:
        """Returns the reason to leave a row out, "" to keep it; counts it. Repeats have the same letters and digits.

        With `spelled` they have the same characters except for blanks: users may teach spelling, prices and sizes.
        """
        reason = self._reason(task, sentences, answer, spelled)
        if reason:
            self.stats.dropped[reason] += 1
        return reason

    def _reason(self, task: str, sentences: str, answer: str, spelled: bool) -> str:
        if not answer.strip():
            return "empty answer"
        try:
            sentences.encode(), answer.encode()
        except UnicodeEncodeError:
            return "lone surrogate"
        folded = fold(sentences), fold(answer)
        # Records with evaluation text are removed before; combinations made by an operator may still contain some.
        reason = self.exclusion.reason_of_folded(folded) if self.exclusion else ""
        if reason:
            return f"evaluation {reason} (row)"
        texts = zip((sentences, answer), folded, strict=True)
        compared = [one_line(text) if spelled else joined(kept) or text for text, kept in texts]
        key = hashlib.blake2b("\n".join((task, *compared)).encode(), digest_size=8).digest()
        if key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return ""
