"""User records: three forms, every fault with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.instruct.own_data import HEAD, OwnFile, load, load_files, prompt_of, to_row

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
    assert (file.form, file.records, file.unread) == ("instruction", 1, {"id": 1})
    assert "ignores id (1 records)" in str(file)
    for blank in ({}, {"input": ""}, {"input": None}, {"input": " \t\u3000"}, {"input": []}):
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


def answers(*weights: object, **more: object) -> dict[str, Any]:
    record = say(*(f"{'qa'[i % 2]}{i // 2}" for i in range(2 * len(weights))))
    for message, weight in zip(record["messages"][1::2], weights, strict=True):
        message |= {} if weight == "none" else {"weight": weight} | more
    return record


def test_answers_of_weight_0_stand_in_prompts_and_are_not_learned(tmp_path: Path) -> None:
    for weights in ((0, 1), (0.0, None), (False, "none")):
        file = load(written(tmp_path, answers(*weights)))
        assert one(file) == (HEAD + "### Instruction:\nq0\n### Response:a0\n### Instruction:\nq1\n### Response:", "a1")
        assert (file.untrained, file.left_out, file.bad) == (1, {}, [])
        assert "1 answers have weight 0 and are not trained on" in str(file)
        assert file.instances[0].place == "mine.jsonl:1.2"
    last = load(written(tmp_path, answers(1, 0), answers(0), answers(1)))
    assert [(i.place, i.response) for i in last.instances] == [("mine.jsonl:1.1", "a0"), ("mine.jsonl:3", "a0")]
    assert (last.untrained, last.left_out) == (2, {2: "weight 0"})
    for flag in ("train", "training", "loss"):
        record = say("q0", "a0", "q1", "a1")
        record["messages"][1][flag] = False
        assert [i.response for i in load(written(tmp_path, record)).instances] == ["a1"]


@pytest.mark.parametrize("weight", [2, 0.5, -1, "0", [0], 1e300])
def test_other_weights_are_refused_with_their_place(tmp_path: Path, weight: object) -> None:
    spec = written(tmp_path, say("a", "b"), answers(1, weight))
    (bad,) = load(spec).bad
    column = Path(spec).read_text().split("\n")[1].rindex("weight") + len('weight": ') + 1
    assert (
        str(bad) == f"{spec}:2:{column}: weight {weight!r} of message 4 must be 1, or 0 for an answer not to train on"
    )


@pytest.mark.parametrize("flag", ["train", "training", "loss"])
def test_the_other_flags_are_followed_or_refused_too(tmp_path: Path, flag: str) -> None:
    def marked(value: object) -> dict:
        record = say("a", "b")
        record["messages"][1][flag] = value
        return record

    for value in (False, 0, 0.0):
        assert load(written(tmp_path, marked(value), say("c", "d"))).left_out == {1: "weight 0"}
    for value in (True, 1, None, "", []):
        file = load(written(tmp_path, marked(value)))
        assert (len(file.instances), file.unread) == (1, {})
    for value in ("false", "no", 0.4, [False]):
        (bad,) = load(written(tmp_path, say("a", "b"), marked(value))).bad
        assert f"{flag} {value!r} of message 2 must be 1, or 0" in str(bad)


def test_a_missing_weight_of_a_table_is_none(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    messages = [message | {"weight": float("nan")} for message in say("a", "b")["messages"]]
    parquet.write_table(pyarrow.table({"messages": [messages]}), tmp_path / "a.parquet")
    file = load(str(tmp_path / "a.parquet"))
    assert (len(file.instances), file.bad) == (1, [])


def test_fields_that_are_not_read_are_counted(tmp_path: Path) -> None:
    first = say("a", "b", "c", "d") | {"tools": [{"name": "f"}], "id": 3, "note": " "}
    first["messages"][0] |= {"name": "Ann", "weight": 1, "images": []}
    first["messages"][1] |= {"tool_calls": [{"id": "1"}], "weight": 1, "reasoning_content": "hm"}
    first["messages"][3] |= {"tool_calls": [{"id": "2"}], "loss": 1, "function_call": None}
    first["messages"][2] |= {"loss": True}
    second = say("e", "f") | {"id": 0}
    file = load(written(tmp_path, first, second))
    assert file.unread == {
        "tools": 1, "id": 2, "messages.name": 1, "messages.weight": 1, "messages.tool_calls": 2,
        "messages.reasoning_content": 1, "messages.loss": 1,
    }  # fmt: skip
    assert "id (2 records)" in str(file)
    assert "messages.tool_calls (2 messages)" in str(file)
    empty = say("a", "x")
    empty["messages"][1] |= {"content": None, "tool_calls": [{"id": "1"}]}
    (bad,) = load(written(tmp_path, say("a", "b"), empty)).bad
    assert "content of message 2 is empty, and its tool_calls is not read" in str(bad)


def test_what_is_optional_may_be_blank(tmp_path: Path) -> None:
    plain = one(load(written(tmp_path, say("hi", "hello"))))
    for blank in (None, "", " \n", []):
        record = {"messages": [{"role": "system", "content": blank}, *say("hi", "hello")["messages"]]}
        file = load(written(tmp_path, record))
        assert (one(file), file.unread) == (plain, {})
        assert prompt_of({"instruction": "x", "input": blank}) == prompt_of({"instruction": "x"})
    file = load(written(tmp_path, {"messages": None, "prompt": "a", "completion": "b"}, COMPLETION))
    assert (file.form, len(file.instances)) == ("completion", 2)
    for bad in ({"instruction": " "}, {"prompt": "a\0"}, say("\u3000")):
        with pytest.raises(DataError, match=r"is empty|NUL"):
            prompt_of(bad)


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
    "record",
    [
        {"instruction": "选出品牌", "input": "Nike Air Max 270 男鞋", "output": "Nike"},
        {"messages": [{"role": "user", "content": "Nike 270 男鞋的品牌"}, {"role": "assistant", "content": "Nike"}]},
        {"prompt": "Nike Air Max 270 男鞋的品牌", "completion": "Nike"},
    ],
)
def test_the_frame_of_a_prompt_has_no_part_in_its_language(tmp_path: Path, record: dict) -> None:
    file = load(written(tmp_path, record))
    assert [to_row(file, instance)["language"] for instance in file.instances] == ["zh"]


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
        ({"messages": [{"role": "user"}]}, "item 1 is not an object with role and content"),
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
        (b'[{"prompt": "a"}]', DataError, "one object per line"),
        (b'{"question": "a", "answer": "b"}', DataError, "has 'question', 'answer'; rename the fields, or declare"),
        (b"x", DataError, r"1:1: Expecting value \(none of the 1 records can be read\)"),
        (b'{"id": 1}\nx', DataError, r"has 'id'; 1 records cannot be read, first \S*:2:1: Expecting value"),
    ],
)
def test_files_that_are_no_data(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(error, match=message):
        load(str(tmp_path / "a.jsonl"))


def test_a_file_is_named_once(tmp_path: Path) -> None:
    file = written(tmp_path, COMPLETION)
    (tmp_path / "other.jsonl").symlink_to(file)
    for same in (file, f"{tmp_path}/./mine.jsonl", str(tmp_path / "other.jsonl")):
        with pytest.raises(ConfigError, match="are one file; name it once"):
            list(load_files((file, same)))


def test_equal_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    files = tuple(written(folder, COMPLETION) for folder in (tmp_path, tmp_path / "b"))
    with pytest.raises(ConfigError, match="both called 'mine'"):
        list(load_files(files))
