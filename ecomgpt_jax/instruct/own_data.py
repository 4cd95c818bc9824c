"""User data without code: files and Hub data sets in one of three forms.

    instruction   {"instruction": "...", "input": "...", "output": "..."}      without "input" is fine
    completion    {"prompt": "...", "completion": "..."}                       used unchanged, with nothing between
    messages      {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}

The form of a file follows from the fields of its records; other fields are ignored, and the description lists and
counts them. Each assistant turn of a conversation becomes one instance, whose prompt is everything before it: every
answer is trained once, with its own end of sequence, and user and system messages are never targets. An answer with
"weight": 0 (or "train", "training" or "loss": false) is part of later prompts and is not trained; values other than 0,
1, false and true are errors. Optional fields may be blank: null, white space, an empty list. User text is never read
as a template or as a special token.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecomgpt_jax.config import nearest
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.files import BadRecord, column_of
from ecomgpt_jax.instruct import own_files
from ecomgpt_jax.instruct.contamination import is_chinese, normalise

HEAD = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n"
# Fields that a record of each form must have; more specific forms first.
FORMS = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
}
_OPTIONAL = {"instruction": ("input",)}
_FLAGS = ("weight", "train", "training", "loss")  # of an answer: 0 or false excludes it from training
_CALLS = ("tool_calls", "function_call")


class Instance(NamedTuple):
    """A prompt and its response; `place` is `file:line` (and `.turn`); instances of one `group` share a split."""

    place: str
    line: int
    group: str
    prompt: str
    response: str
    texts: tuple[str, ...]


@dataclasses.dataclass
class OwnFile:
    """The content of a file or Hub data set.

    Attributes:
      spec: as `data.files` names it.
      name: second part of its tasks' names.
      form: one of `FORMS`.
      records: good and bad ones together.
      instances: those of the good ones, in order.
      bad: those that cannot be used.
      left_out: {line of a good record without instances: reason}.
      unread: {unknown field: number of records with it}; for `messages.<field>` the number of messages.
      untrained: number of answers excluded by their weight.
      wrapped: first lines of records that span several lines.
    """

    spec: str
    name: str
    form: str
    records: int = 0
    instances: list[Instance] = dataclasses.field(default_factory=list)
    bad: list[BadRecord] = dataclasses.field(default_factory=list)
    left_out: dict[int, str] = dataclasses.field(default_factory=dict)
    unread: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    untrained: int = 0
    wrapped: list[int] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return "; ".join(
            (
                f"{self.form} form ({', '.join(FORMS[self.form])}), {self.records:,} records, {len(self.bad):,} bad, "
                f"{len(self.instances):,} instances",
                *self.notes(),
            )
        )

    def notes(self) -> Iterator[str]:
        """Yields notes on what is not read, not trained on, or ambiguous."""
        if self.unread:
            counts = (
                f"{field} ({count:,} {'messages' if field.startswith('messages.') else 'records'})"
                for field, count in self.unread.items()
            )
            yield f"ignores {', '.join(counts)}"
        if self.untrained:
            yield f"{self.untrained:,} answers have weight 0 and are not trained on"
        if self.wrapped:
            yield f"{len(self.wrapped):,} records go over several lines, the first from line {self.wrapped[0]}"


class _Wrong(Exception):
    """A fault of a record: field, which occurrence of it, reason."""

    def __init__(self, field: str, reason: str, occurrence: int = 0) -> None:
        super().__init__(reason)
        self.field, self.occurrence = field, occurrence


def load_files(specs: Sequence[str]) -> Iterator[OwnFile]:
    """Yields each file of `data.files`, read.

    Raises:
      ConfigError: two have the same name or are the same file, or one is of an unknown kind.
      EcomError: one is missing or cannot be read at all.
    """
    names: dict[str, str] = {}
    paths: dict[Path, str] = {}
    for spec in specs:
        name, path = name_of(spec), Path(spec).expanduser().resolve()
        if path in paths:
            raise ConfigError(f"data.files: {paths[path]} and {spec} are one file; name it once")
        if name in names:
            raise ConfigError(f"data.files: {names[name]} and {spec} are both called {name!r}; rename one")
        names[name] = paths[path] = spec
    for spec in specs:
        yield load(spec)


def name_of(spec: str) -> str:
    """Returns the name of a file or Hub data set in the names of its tasks."""
    stem = spec.removeprefix("hub:").split("@")[0] if spec.startswith("hub:") else Path(spec).stem
    return re.sub(r"\W+", "_", stem).strip("_")[:80] or "data"


def load(spec: str) -> OwnFile:
    """Reads a file or Hub data set.

    Raises:
      ConfigError: it is of an unknown kind.
      EcomError: it is missing, cannot be read at all, is empty, or has an unknown form.
    """
    records = list(own_files.read(spec))
    file = OwnFile(spec, name_of(spec), _form_of(spec, [record for _, _, record in records]), len(records))
    known = {*FORMS[file.form], *_OPTIONAL.get(file.form, ())}
    kind = Path(spec).suffix.lower()
    for line, text, record in records:
        if kind in (".csv", ".tsv") and re.search(r"[\r\n]", text):
            file.wrapped.append(line)
        if isinstance(record, BadRecord):
            file.bad.append(record)
            continue
        try:
            made, untrained = _instances(record, file.form, f"{Path(spec).name}:{line}", line)
        except _Wrong as error:
            if kind in (".jsonl", ".json"):
                column = column_of(text, error.field, error.occurrence)
            else:  # a table: the index of the field
                column = list(record).index(error.field) + 1 if error.field in record else 1
            file.bad.append(BadRecord(spec, line, column, str(error), text))
            continue
        file.unread.update(key for key, value in record.items() if key not in known and not is_blank(value))
        if file.form == "messages":
            file.unread.update(f"messages.{key}" for message in record["messages"] for key in _unread(message))
        file.instances += made
        file.untrained += untrained
        if not made:
            file.left_out[line] = "weight 0"
    return file


def to_row(file: OwnFile, instance: Instance) -> dict[str, str]:
    """Returns an instance as a stored row; its task is named after its language, the file and the form."""
    language = "zh" if is_chinese(normalise("".join(instance.texts))) else "en"
    return {
        "task": f"{language.upper()}-{file.name}-Generate-{file.form}",
        "record_id": instance.place,
        "source": file.name,
        "language": language,
        "family": "Generate",
        "operator": "",
        "parent": "",
        "prompt": instance.prompt,
        "response": instance.response,
    }


def prompt_of(record: Mapping[str, Any]) -> str:
    """Returns the prompt of a record that has no answer yet: `prompt`, `instruction` (and `input`) or `messages`.

    Raises:
      DataError: none of these fields exists, or one is wrong; the message does not name the place.
    """
    try:
        if "messages" in record:
            return _conversation(record["messages"], answered=False)[1]
        if "instruction" in record:
            return _instruction(record)
        return _text(record, "prompt")
    except _Wrong as error:
        raise DataError(str(error)) from None


def _form_of(spec: str, records: Sequence[dict[str, Any] | BadRecord]) -> str:
    good = [record for record in records if isinstance(record, dict)]
    for blank in (True, False):  # a table may have a column of a form that its records do not use
        for record in good:
            for form, fields in FORMS.items():
                if all(field in record and not (blank and is_blank(record[field])) for field in fields):
                    return form
    bad = [record for record in records if isinstance(record, BadRecord)]
    if not good:
        raise DataError(f"{bad[0]} (none of the {len(bad):,} records can be read)")
    forms = "; ".join(" and ".join(fields) for fields in FORMS.values())
    more = f"; {len(bad):,} records cannot be read, first {bad[0]}" if bad else ""
    first = ", ".join(map(repr, good[0]))
    hint = 'rename the fields, or declare the file as a source ("Add a source" in ecomgpt_jax/instruct/README.md)'
    raise DataError(
        f"{spec}: no record has the fields of a known form ({forms}); the first has {first:.300}{more}; {hint}"
    )


def _instances(record: Mapping[str, Any], form: str, place: str, line: int) -> tuple[list[Instance], int]:
    """Returns the instances of a record, and the number of answers excluded by their weight."""
    if form == "messages":
        if "messages" not in record:
            raise _Wrong("", f"no field 'messages'{nearest('messages', record)}")
        messages = record["messages"]
        turns, _ = _conversation(messages, answered=True)
        first = next(message["content"] for message in messages if message["role"] == "user")
        texts = tuple(message["content"] for message in messages if not is_blank(message["content"]))
        made = [
            Instance(
                f"{place}.{number}" if len(turns) > 1 else place, line, normalise(first) or first, *turn[:2], texts
            )
            for number, turn in enumerate(turns, 1)
            if turn[2]
        ]
        return made, len(turns) - len(made)
    if form == "completion":
        prompt, response = _text(record, "prompt"), _text(record, "completion")
        return [Instance(place, line, normalise(prompt) or prompt, prompt, response, (prompt, response))], 0
    prompt, response = _instruction(record), _text(record, "output")
    given = "" if is_blank(record.get("input")) else record["input"]
    group = normalise(prompt.removeprefix(HEAD)) or prompt
    return [Instance(place, line, group, prompt, response, (record["instruction"], given, response))], 0


def is_blank(value: object) -> bool:
    """Returns whether a value is blank: null, white space, an empty list or object, a table's NaN."""
    return value is None or value != value or not (value.strip() if isinstance(value, str) else value or value == 0)


def _unread(message: Mapping[str, Any]) -> Iterator[str]:
    """Yields the fields of a message that are not blank and not read."""
    answer = message["role"] == "assistant"
    for key, value in message.items():
        read = key in ("role", "content") or (key in _FLAGS and (answer or value == 0))
        if not (read or is_blank(value)):
            yield key


def _instruction(record: Mapping[str, Any]) -> str:
    """Returns the released layout: the input, then the instruction."""
    given = "" if is_blank(record.get("input")) else _text(record, "input") + "\n"
    return f"{HEAD}### Instruction:\n{given}{_text(record, 'instruction')}\n### Response:"


def _conversation(messages: object, *, answered: bool) -> tuple[list[tuple[str, str, bool]], str]:
    """Returns (prompt, response, whether to train on it) of each assistant turn, and the conversation as a prompt."""
    if not isinstance(messages, list) or not messages:
        raise _Wrong("messages", "messages must be a list of objects with role and content")
    prompt, before = HEAD, ""
    turns: list[tuple[str, str, bool]] = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise _Wrong("messages", f"messages: item {number + 1} is not an object with role and content")
        role = message["role"]
        if role == "system" and not number:
            prompt = prompt if is_blank(message["content"]) else _text(message, "content") + "\n"
        elif role == "user" and before != "user":
            content = _text(message, "content", number)
            prompt += ("\n" if turns else "") + f"### Instruction:\n{content}\n### Response:"
        elif role == "assistant" and before == "user":
            calls = next((name for name in _CALLS if not is_blank(message.get(name))), "")
            if calls and is_blank(message["content"]):
                raise _Wrong(calls, f"content of message {number + 1} is empty, and its {calls} is not read")
            turns.append((prompt, _text(message, "content", number), _trained(messages, number)))
            prompt += message["content"]
        else:
            expected = "assistant" if before == "user" else "user"
            raise _Wrong("role", f"role {role!r} of message {number + 1} should be {expected!r}", number)
        before = role
    if answered != (before == "assistant"):
        wanted = "the assistant's, the answer to learn" if answered else "the user's, what to answer"
        raise _Wrong("role", f"the last message must be {wanted}", len(messages) - 1)
    return turns, prompt


def _trained(messages: Sequence[Mapping[str, Any]], number: int) -> bool:
    """Returns whether the answer in a message is trained on."""
    given = {flag: value for flag in _FLAGS if not is_blank(value := messages[number].get(flag))}
    for flag, value in given.items():
        if value not in (0, 1):
            occurrence = sum(flag in earlier for earlier in messages[:number])
            reason = f"{flag} {value!r:.40} of message {number + 1} must be 1, or 0 for an answer not to train on"
            raise _Wrong(flag, reason, occurrence)
    return 0 not in given.values()


def _text(record: Mapping[str, Any], field: str, occurrence: int = 0) -> str:
    if field not in record:
        raise _Wrong("", f"no field {field!r}{nearest(field, record)}")
    value = record[field]
    if not (isinstance(value, str) or is_blank(value)):
        raise _Wrong(field, f"{field} must be a string, not {type(value).__name__}", occurrence)
    if is_blank(value):
        why = ", so no token would be supervised" if field in ("output", "completion", "content") else ""
        raise _Wrong(field, f"{field} is empty{why}", occurrence)
    if "\0" in value:
        raise _Wrong(field, f"{field} holds the character U+0000 (NUL)", occurrence)
    return value
