"""Files of users: three forms, four kinds of file, every fault with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError, StorageError
from ecomgpt_jax.instruct.own_data import HEAD, OwnFile, checksum, load, load_files, prompt_of, to_row

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INSTRUCTION = {"instruction": "Name it.", "input": "a {red} mug </s>", "output": "mug"}
COMPLETION = {"prompt": "Say: ", "completion": " yes"}


def say(*contents: str, system: str = "") -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


def written(tmp_path: Path, *records: object, name: str = "mine.jsonl") -> str:
    path = tmp_path / name
    lines = (r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def one(file: OwnFile) -> tuple[str, str]:
    (instance,) = file.instances
    return instance.prompt, instance.response


def test_instruction_form(tmp_path: Path) -> None:
    file = load(written(tmp_path, INSTRUCTION | {"id": 3}))
    assert one(file) == (HEAD + "### Instruction:\na {red} mug </s>\nName it.\n### Response:", "mug")
    assert (file.form, file.records, file.ignored) == ("instruction", 1, ("id",))
    assert "ignores id" in str(file)
    for blank in ({}, {"input": ""}, {"input": None}):
        short = load(written(tmp_path, {"instruction": "Name it.", "output": "mug"} | blank))
        assert one(short) == (HEAD + "### Instruction:\nName it.\n### Response:", "mug")


def test_completion_form_is_taken_as_it_is(tmp_path: Path) -> None:
    assert one(load(written(tmp_path, COMPLETION))) == ("Say: ", " yes")


def test_every_assistant_turn_is_learned_once(tmp_path: Path) -> None:
    file = load(written(tmp_path, say("hi", "hello", "bye", "see you", system="Be kind.")))
    first = "Be kind.\n### Instruction:\nhi\n### Response:"
    assert [(i.prompt, i.response) for i in file.instances] == [
        (first, "hello"),
        (first + "hello\n### Instruction:\nbye\n### Response:", "see you"),
    ]
    assert [i.place for i in file.instances] == ["mine.jsonl:1.1", "mine.jsonl:1.2"]
    assert len({i.group for i in file.instances}) == 1
    assert one(load(written(tmp_path, say("hi", "hello"))))[0] == HEAD + first.partition("\n")[2]


def test_prompts_to_answer_are_those_of_training(tmp_path: Path) -> None:
    for record in (INSTRUCTION, COMPLETION):
        assert prompt_of(record) == one(load(written(tmp_path, record)))[0]
    turns = load(written(tmp_path, say("hi", "hello", "bye", "see you"))).instances
    assert prompt_of(say("hi", "hello", "bye")) == turns[1].prompt
    for bad in ({}, {"promt": "x"}, say("hi", "hello"), {"prompt": 3}, {"messages": []}):
        with pytest.raises(DataError):
            prompt_of(bad)


def test_rows_are_named_by_language_file_and_form(tmp_path: Path) -> None:
    chinese = {"instruction": "写出商品。", "input": "红色的马克杯很好看", "output": "马克杯"}
    file = load(written(tmp_path, INSTRUCTION, chinese, name="my own-data.v2.jsonl"))
    assert [to_row(file, instance)["task"] for instance in file.instances] == [
        "EN-my_own_data_v2-Generate-instruction",
        "ZH-my_own_data_v2-Generate-instruction",
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"instruction": "x", "otput": "y"}, ":2:1: no field 'output', did you mean 'otput'?"),
        ({"instruction": "x", "output": 5}, ":2:32: output must be a string, not int"),
        ({"instruction": "x", "output": " "}, ":2:32: output is empty, so no token would be supervised"),
        ({"instruction": "", "output": "y"}, ":2:17: instruction is empty"),
        ({"instruction": "x", "input": ["a"], "output": "y"}, ":2:31: input must be a string, not list"),
        (["x"], ":2:1: a list, not an object"),
        (b'{"instruction": "x", "output" "y"}', ":2:31: Expecting ':' delimiter"),
        ('{"output": "红"}'.encode("gbk"), "looks like GBK"),
        (b'{"output": "caf\xe9"}', ":2:16: not UTF-8"),
        (b'{"output": "a\0"}', ":2:14: holds the character U+0000 (NUL)"),
        (b'{"output": "a \\udc00"}', ":2:15: an escape is half of a surrogate pair"),
        (b'{"output": "' + b"x" * 2**20 + b'"}', "1,048,590 bytes"),
    ],
)
def test_a_bad_record_is_named_and_hides_no_other(tmp_path: Path, record: object, message: str) -> None:
    spec = written(tmp_path, INSTRUCTION, record, INSTRUCTION)
    file = load(spec)
    (bad,) = file.bad
    assert str(bad).startswith(f"{spec}:2:")
    assert message in str(bad)
    assert (file.records, [i.place for i in file.instances]) == (3, ["mine.jsonl:1", "mine.jsonl:3"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"message": []}, "no field 'messages', did you mean 'message'?"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": [{"role": "user"}]}, "item 1 is no object with role and content"),
        (say("hi"), "the last message must be the assistant's"),
        (say("hi", ""), "content is empty, so no token would be supervised"),
        ({"messages": [*say("a", "b")["messages"], {"role": "tool", "content": "c"}]}, "role 'tool' of message 3"),
        ({"messages": 2 * say("a")["messages"]}, "role 'user' of message 2 should be 'assistant'"),
    ],
)
def test_bad_conversations(tmp_path: Path, record: object, message: str) -> None:
    (bad,) = load(written(tmp_path, say("a", "b"), record)).bad
    assert message in str(bad)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", DataError, "empty"),
        (b"\n\n", DataError, "empty"),
        (b'[{"prompt": "a"}]', DataError, "one object a line"),
        (b'{"question": "a", "answer": "b"}', DataError, "the first has 'question', 'answer'"),
        (b"x", DataError, "the first has no object"),
    ],
)
def test_files_that_are_no_data(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(error, match=message):
        load(str(tmp_path / "a.jsonl"))


def test_csv_and_tsv(tmp_path: Path) -> None:
    for name, comma in (("a.csv", ","), ("a.tsv", "\t")):
        text = 'prompt,completion\n"two\nlines",b\nc,\nonly\nd,e\n'.replace(",", comma)
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
        file = load(str(tmp_path / name))
        assert [(i.place, i.prompt, i.response) for i in file.instances] == [
            (f"{name}:2", "two\nlines", "b"),
            (f"{name}:6", "d", "e"),
        ]
        assert [f"{b.line}:{b.column} {b.reason}" for b in file.bad] == [
            "4:2 completion is empty, so no token would be supervised",
            "5:1 1 fields, the header has 2",
        ]
    (tmp_path / "b.csv").write_text('prompt,completion\n"open')
    with pytest.raises(DataError, match=r"b\.csv:2:1"):
        load(str(tmp_path / "b.csv"))


def test_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = str(tmp_path / "a.parquet")
    records = [COMPLETION, {"prompt": None, "completion": "x"}]
    datasets.Dataset.from_list(records).to_parquet(path)
    file = load(path)
    assert one(file) == ("Say: ", " yes")
    assert [str(bad) for bad in file.bad] == [f"{path}:2:1: prompt is empty"]
    datasets.Dataset.from_list([say("hi", "hello")]).to_parquet(path)
    assert load(path).form == "messages"
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load(path)


def test_hub_data_sets_are_pinned_and_fail_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def offline(name: str, **options: str) -> None:
        asked.append((name, options))
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(StorageError, match="Couldn't reach the Hub") as caught:
        load(f"hub:me/data@{COMMIT}:test")
    assert "\n" not in str(caught.value)
    assert asked == [("me/data", {"revision": COMMIT, "split": "test"})]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: [COMPLETION])
    file = load(f"hub:me/data@{COMMIT}")
    assert (file.name, one(file)) == ("me_data", ("Say: ", " yes"))
    for spec in ("hub:me/data", "hub:me/data@main", "hub:data@" + COMMIT, "hub:../x@y"):
        with pytest.raises(ConfigError, match="40 hex digits"):
            load(spec)


def test_missing_unknown_and_equal_names(tmp_path: Path) -> None:
    for read in (load, checksum):
        with pytest.raises(MissingInputError, match=r"no\.jsonl"):
            read(str(tmp_path / "no.jsonl"))
    with pytest.raises(ConfigError, match=r"none of \.jsonl"):
        load(str(tmp_path / "a.xlsx"))
    (tmp_path / "b").mkdir()
    first, second = (written(folder, COMPLETION) for folder in (tmp_path, tmp_path / "b"))
    with pytest.raises(ConfigError, match="both called 'mine'"):
        list(load_files((first, second)))
    assert checksum(first) == checksum(second) != checksum(written(tmp_path, INSTRUCTION, name="c.jsonl"))
