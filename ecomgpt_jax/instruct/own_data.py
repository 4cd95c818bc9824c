"""Data that users bring, by configuration alone: files and Hub data sets in one of three forms.

    instruction   {"instruction": "...", "input": "...", "output": "..."}      without "input" is fine
    completion    {"prompt": "...", "completion": "..."}                       taken as they are, with nothing between
    messages      {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}

A file has one form, told by the fields of its records; other fields are left alone and named in the description. Each
assistant turn of a conversation becomes an instance of its own, whose prompt is all that came before it: every answer
is learned once, each with an end of its own, and what users and the system say is never a target. User text is data:
nothing in it is a template or becomes a special token.

Parquet files and `hub:owner/name@commit[:split]` are read by `datasets` (extra `hub`), which runs no code of a data
set. A commit is 40 hexadecimal digits, so that a data set cannot change.
"""

import csv
import hashlib
import io
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecomgpt_jax.config import nearest
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError, StorageError
from ecomgpt_jax.files import MAX_LINE_BYTES, BadRecord, column_of, read_text, scan_json_lines
from ecomgpt_jax.instruct.contamination import is_chinese, normalise

HEAD = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n"
# Fields that a record of each form must have; more specific forms first.
FORMS = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
}
_OPTIONAL = {"instruction": ("input",)}
_HUB = re.compile(r"hub:(?P<name>[\w.\-]+/[\w.\-]+)@(?P<commit>[0-9a-f]{40})(?::(?P<split>[\w.\-]+))?")

Read = tuple[int, str, dict[str, Any] | BadRecord]  # line (or row) number, text, record


class Instance(NamedTuple):
    """A prompt and its response; `place` is `file:line` (and `.turn`), `group` what a split must not part."""

    place: str
    group: str
    prompt: str
    response: str
    texts: tuple[str, ...]


class OwnFile(NamedTuple):
    """What a file or Hub data set holds.

    Attributes:
      spec: as `data.files` names it.
      name: second part of its tasks' names.
      form: one of `FORMS`.
      records: good and bad ones together.
      instances: what the good ones say, in order.
      bad: those that cannot be used.
      ignored: fields that no form knows.
    """

    spec: str
    name: str
    form: str
    records: int
    instances: list[Instance]
    bad: list[BadRecord]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        ignored = f"; ignores {', '.join(self.ignored)}" if self.ignored else ""
        return (
            f"{self.form} form ({', '.join(FORMS[self.form])}), {self.records:,} records, {len(self.bad):,} bad, "
            f"{len(self.instances):,} instances{ignored}"
        )


class _Wrong(Exception):
    """What is wrong with a record: field, which occurrence of it, reason."""

    def __init__(self, field: str, reason: str, occurrence: int = 0) -> None:
        super().__init__(reason)
        self.field, self.occurrence = field, occurrence


def load_files(specs: Sequence[str]) -> Iterator[OwnFile]:
    """Yields each file of `data.files`, read.

    Raises:
      ConfigError: two have the same name, or one is of no known kind.
      EcomError: one is missing or cannot be read at all.
    """
    names: dict[str, str] = {}
    for spec in specs:
        name = name_of(spec)
        if name in names:
            raise ConfigError(f"data.files: {names[name]} and {spec} are both called {name!r}; rename one")
        names[name] = spec
    for spec in specs:
        yield load(spec)


def name_of(spec: str) -> str:
    """Returns the name of a file or Hub data set as it stands in a task's name."""
    stem = spec.removeprefix("hub:").split("@")[0] if spec.startswith("hub:") else Path(spec).stem
    return re.sub(r"\W+", "_", stem).strip("_")[:80] or "data"


def load(spec: str) -> OwnFile:
    """Reads a file or Hub data set.

    Raises:
      ConfigError: it is of no known kind.
      EcomError: it is missing, cannot be read at all, is empty, or has no known form.
    """
    instances: list[Instance] = []
    bad: list[BadRecord] = []
    ignored: dict[str, None] = {}
    records = list(_read(spec))
    if not records:
        raise DataError(f"{spec}: empty, no record in it")
    form = _form_of(spec, [record for _, _, record in records if isinstance(record, dict)])
    known = {*FORMS[form], *_OPTIONAL.get(form, ())}
    for line, text, record in records:
        if isinstance(record, BadRecord):
            bad.append(record)
            continue
        ignored |= dict.fromkeys(key for key in record if key not in known)
        try:
            instances += _instances(record, form, f"{Path(spec).name}:{line}")
        except _Wrong as error:
            if text.startswith("{"):
                column = column_of(text, error.field, error.occurrence)
            else:  # a table: the number of the field
                column = list(record).index(error.field) + 1 if error.field in record else 1
            bad.append(BadRecord(spec, line, column, str(error), text))
    return OwnFile(spec, name_of(spec), form, len(records), instances, bad, tuple(ignored))


def to_row(file: OwnFile, instance: Instance) -> dict[str, str]:
    """Returns an instance as a stored row; its task is named after its language, the file and the form."""
    language = "zh" if is_chinese(normalise(instance.prompt.removeprefix(HEAD) + instance.response)) else "en"
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
      DataError: none of these fields is there, or one is wrong; the text says which, not where.
    """
    try:
        if "messages" in record:
            return _conversation(record["messages"], answered=False)[1]
        if "instruction" in record:
            return _instruction(record)
        return _text(record, "prompt")
    except _Wrong as error:
        raise DataError(str(error)) from None


def _form_of(spec: str, records: Sequence[Mapping[str, Any]]) -> str:
    for record in records:
        for form, fields in FORMS.items():
            if all(field in record for field in fields):
                return form
    fields = ", ".join(map(repr, records[0])) if records else "no object"
    forms = "; ".join(" and ".join(fields) for fields in FORMS.values())
    raise DataError(f"{spec}: no record has the fields of a known form ({forms}); the first has {fields}")


def _instances(record: Mapping[str, Any], form: str, place: str) -> list[Instance]:
    if form == "messages":
        if "messages" not in record:
            raise _Wrong("", f"no field 'messages'{nearest('messages', record)}")
        turns, _ = _conversation(record["messages"], answered=True)
        contents = tuple(message["content"] for message in record["messages"])
        group = normalise(contents[record["messages"][0]["role"] == "system"])
        return [
            Instance(f"{place}.{turn}" if len(turns) > 1 else place, group, prompt, response, contents)
            for turn, (prompt, response) in enumerate(turns, 1)
        ]
    if form == "completion":
        prompt, response = _text(record, "prompt"), _text(record, "completion")
        return [Instance(place, normalise(prompt) or prompt, prompt, response, (prompt, response))]
    prompt, response = _instruction(record), _text(record, "output")
    texts = (record["instruction"], record.get("input") or "", response)
    return [Instance(place, normalise(prompt.removeprefix(HEAD)) or prompt, prompt, response, texts)]


def _instruction(record: Mapping[str, Any]) -> str:
    """Returns the released layout: the input, then what to do with it."""
    given = _text(record, "input") + "\n" if record.get("input") not in (None, "") else ""
    return f"{HEAD}### Instruction:\n{given}{_text(record, 'instruction')}\n### Response:"


def _conversation(messages: object, *, answered: bool) -> tuple[list[tuple[str, str]], str]:
    """Returns (prompt, response) of each assistant turn, and the whole as the prompt of the next one."""
    if not isinstance(messages, list) or not messages:
        raise _Wrong("messages", "messages must be a list of objects with role and content")
    prompt, before = HEAD, ""
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise _Wrong("messages", f"messages: item {number + 1} is no object with role and content")
        role, content = message["role"], _text(message, "content", number)
        if role == "system" and not number:
            prompt = content + "\n"
        elif role == "user" and before != "user":
            prompt += ("\n" if turns else "") + f"### Instruction:\n{content}\n### Response:"
        elif role == "assistant" and before == "user":
            turns.append((prompt, content))
            prompt += content
        else:
            expected = "assistant" if before == "user" else "user"
            raise _Wrong("role", f"role {role!r} of message {number + 1} should be {expected!r}", number)
        before = role
    if answered != (before == "assistant"):
        wanted = "the assistant's, the answer to learn" if answered else "the user's, what to answer"
        raise _Wrong("role", f"the last message must be {wanted}", len(messages) - 1)
    return turns, prompt


def _text(record: Mapping[str, Any], field: str, occurrence: int = 0) -> str:
    if field not in record:
        raise _Wrong("", f"no field {field!r}{nearest(field, record)}")
    value = record[field]
    if not isinstance(value, str | None):
        raise _Wrong(field, f"{field} must be a string, not {type(value).__name__}", occurrence)
    if not value or not value.strip():
        why = ", so no token would be supervised" if field in ("output", "completion", "content") else ""
        raise _Wrong(field, f"{field} is empty{why}", occurrence)
    return value


def _read(spec: str) -> Iterator[Read]:
    if spec.startswith("hub:"):
        return _read_hub(spec)
    suffix = Path(spec).suffix.lower()
    if suffix not in _READERS:
        raise ConfigError(f"data.files: {spec} is none of {', '.join(_READERS)} and hub:owner/name@commit[:split]")
    if not Path(spec).expanduser().is_file():
        raise MissingInputError(f"{spec}: no such file (data.files)")
    return _READERS[suffix](spec)


def _read_json_lines(spec: str) -> Iterator[Read]:
    path = Path(spec).expanduser()
    with path.open("rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise DataError(f"{spec}:1:1: a JSON array; write one object a line, for example with jq -c '.[]'")
    return scan_json_lines(path)


def _read_table(spec: str) -> Iterator[Read]:
    delimiter = "\t" if spec.lower().endswith(".tsv") else ","
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(io.StringIO(read_text(Path(spec).expanduser()), newline=""), delimiter=delimiter, strict=True)
    try:
        header, line = next(reader, []), reader.line_num
        for cells in reader:
            start, line = line + 1, reader.line_num
            text = delimiter.join(cells)
            if len(cells) == len(header):
                yield start, text, dict(zip(header, cells, strict=True))
            elif cells:
                yield start, text, BadRecord(spec, start, 1, f"{len(cells)} fields, the header has {len(header)}", text)
    except csv.Error as error:
        raise DataError(f"{spec}:{reader.line_num}:1: {error}") from None


def _read_parquet(spec: str) -> Iterator[Read]:
    path, datasets = str(Path(spec).expanduser()), _datasets(spec)
    with tempfile.TemporaryDirectory() as cache:
        try:
            yield from _numbered(datasets.Dataset.from_parquet(path, cache_dir=cache, keep_in_memory=True))
        except Exception as error:  # whatever pyarrow finds
            raise DataError(f"{spec}: cannot be read as Parquet ({_reason(error)})") from None


def _read_hub(spec: str) -> Iterator[Read]:
    match = _HUB.fullmatch(spec)
    if not match:
        raise ConfigError(f"data.files: {spec} must be hub:owner/name@commit[:split], the commit in 40 hex digits")
    datasets = _datasets(spec)
    try:
        rows = datasets.load_dataset(match["name"], revision=match["commit"], split=match["split"] or "train")
    except Exception as error:  # the library's own, the network's and the disk's
        hint = "check name, commit and network, or use a local file"
        raise StorageError(f"{spec}: cannot be had from the Hub ({_reason(error)}); {hint}") from None
    yield from _numbered(rows)


def _datasets(spec: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"data.files: {spec} needs the datasets package; pip install 'ecomgpt_jax[hub]'") from None
    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):  # what fails is said once, here
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return datasets


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[Read]:
    for number, row in enumerate(rows, 1):
        yield number, "\t".join(map(str, row.values())), row


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


_READERS = {
    **dict.fromkeys((".jsonl", ".json"), _read_json_lines),
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}


def checksum(spec: str) -> str:
    """Returns the sha256 of a file; of a Hub data set its name, which holds the commit.

    Raises:
      MissingInputError: the file is not there.
    """
    if spec.startswith("hub:"):
        return spec
    try:
        with Path(spec).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise MissingInputError(f"{spec}: no such file (data.files)") from None
