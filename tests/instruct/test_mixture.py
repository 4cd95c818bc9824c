"""Which tasks, which split, which rows: every setting does what it says."""

import collections
import csv
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies as st

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.instruct import mixture, quarantine
from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.mixture import generate, split_of
from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.rows import FIELDS, Account, Row
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, write_task

Made = tuple[list[Row], list[Row], dict[str, tuple[TaskFolder, list[TaskRow]]], Account]


def settings(**fields: Any) -> DataConfig:
    return DataConfig(**({"synthetic_records": 40, "instances_per_task": 5} | fields))


def made(data: DataConfig) -> Made:
    account, test, held_out = Account(), [], {}
    train: list[Row] = []
    for part in mixture.parts(data):
        tests: list[Row] = []
        train += generate(data, part, account, tests, held_out)
        test += tests
    return train, test, held_out, account


@pytest.fixture(scope="module")
def small() -> Made:
    return made(settings())


def test_limits_hold(small: Made) -> None:
    train, test, held_out, account = small
    assert max(account.rows["train"].values()) == 5
    assert max(account.rows["test"].values(), default=0) <= mixture.TEST_ROWS
    assert len(held_out) == 12
    assert all(50 <= len(rows) <= mixture.HELD_OUT_ROWS for _, rows in held_out.values())
    assert account.rows["train"].total() == len(train)
    assert account.rows["test"].total() == len(test)


def test_held_out_tasks_and_products_are_not_trained_on(small: Made) -> None:
    train, test, held_out, _ = small
    assert not {row["task"] for row in train + test} & set(held_out)
    assert not any(row["record_id"].startswith("evaluation/") for row in train + test)


def test_train_and_test_share_no_group() -> None:
    train, test, _, _ = made(settings(synthetic_records=150, instances_per_task=0))
    groups = [
        {(row["language"], row["record_id"].split(".")[0].split("#")[0]) for row in part} for part in (train, test)
    ]
    assert groups[1]
    assert not groups[0] & groups[1]


def test_no_held_out_input_is_an_input_of_its_own_parts(small: Made) -> None:
    train, _, held_out, _ = small
    titles = {row.sentences for name, (_, rows) in held_out.items() if "Fashion" in name for row in rows}
    for row in train:
        if row["task"].startswith("ZH-Fashion"):
            assert not any(title in row["prompt"].split("\n") for title in titles)


def test_split_share_and_stability() -> None:
    groups = [split_of("source", str(i)) for i in range(20_000)]
    assert 0.015 < groups.count("test") / len(groups) < 0.025
    assert split_of("synthetic_titles_en", "p7") == split_of("synthetic_items_en", "p7")
    assert {split_of("synthetic_titles_zh", "evaluation/3")} == {"held_out"}
    assert split_of("other", "evaluation/3") in ("train", "test")
    assert split_of("source", "\ud800") in ("train", "test")


def test_fewer_instances_are_the_first_of_more() -> None:
    data = {"num_tasks": 6, "prompt_language": "mixed"}
    few, many = (made(settings(instances_per_task=n, **data))[0] for n in (3, 9))
    for name in {row["task"] for row in few}:
        short = [row for row in few if row["task"] == name]
        assert short == [row for row in many if row["task"] == name][: len(short)]


@pytest.mark.parametrize(("setting", "chinese"), [("en", {False}), ("zh", {True}), ("mixed", {False, True})])
def test_prompt_language_changes_the_wording_only(setting: str, chinese: set[bool]) -> None:
    def is_chinese(text: str) -> bool:
        return any("\u4e00" <= character <= "\u9fff" for character in text)

    rows = made(settings(sources=("synthetic_reviews_en",), languages=("en",), prompt_language=setting))[0]
    assert {is_chinese(row["prompt"]) for row in rows} == chinese
    assert {is_chinese(row["response"]) for row in rows} == {False}


def test_native_prompts_follow_the_task() -> None:
    rows = made(settings())[0]
    chinese = {row["language"]: "请" in row["prompt"] or "。\n### Response" in row["prompt"] for row in rows}
    assert chinese["en"] is False


def test_real_needs_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ECOMGPT_SOURCES", raising=False)
    with pytest.raises(MissingInputError, match="ECOMGPT_SOURCES"):
        made(settings(mixture="real"))
    with pytest.raises(MissingInputError, match="no such folder"):
        made(settings(mixture="real", sources_dir=str(tmp_path / "nowhere")))


def folder(tmp_path: Path, rows: list[TaskRow], name: str = "EN-Mine-CLS-mood") -> TaskFolder:
    template = "### Instruction:\n{sentences}\nMood? {label_set}\n### Response:"
    task = TaskFolder(name=name, definition="mood", template=template, label_set={"default": ("good", "bad")})
    return write_task(tmp_path, task, rows, rows)


def test_task_folders_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    hostile = "{sentences} {0.__class__} </s> ### Response: \x07 \t é 中 \U0001f600"
    texts = [hostile, *(f"text number {i}" for i in range(200)), "text number 3"]
    folder(tmp_path, [TaskRow(text, {"default": ("good",)}) for text in texts])
    train, test, _, account = made(settings(mixture="folder", tasks_dir=str(tmp_path), instances_per_task=0))
    assert len(train) + len(test) == 201
    assert account.dropped == {"duplicate": 1}
    assert sum(hostile in row["prompt"] for row in train + test) == 1
    with pytest.raises(ConfigError, match=r"data\.tasks_dir"):
        made(settings(mixture="folder"))
    with pytest.raises(ConfigError, match="leave no task"):
        made(settings(mixture="folder", tasks_dir=str(tmp_path), languages=("zh",)))


def test_folder_rows_from_the_evaluation_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = "The staff was really friendly and the soup was hot."
    folder(tmp_path / "eval", [TaskRow(leaked, {"default": ("good",)})])
    rows = [TaskRow(text, {"default": ("good",)}) for text in (leaked.upper(), "a clean text")]
    folder(tmp_path / "train", rows)
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "eval"))
    train, test, _, account = made(settings(mixture="folder", tasks_dir=str(tmp_path / "train")))
    assert ["a clean text" in row["prompt"] for row in train + test] == [True]
    assert account.dropped == {"evaluation text": 1}


def test_contaminated_records_are_dropped_before_the_split() -> None:
    text = "The staff was really friendly and the soup was hot."
    records = [
        LabelledText(id=str(i), group=str(i), language="en", text=t, labels={}) for i, t in enumerate((text, "ok"))
    ]
    account = Account()
    split = mixture.split_records("s", records, Exclusion([TaskRow(text)]), account)
    assert [record.id for part in split.values() for record in part] == ["1"]
    assert account.dropped["evaluation text"] == 1


def test_what_is_left_out_before_the_split_is_counted() -> None:
    texts = {
        "1": "The kettle boils quickly and looks good.",
        "2": "the kettle boils quickly and looks good",
        "3": "a\x7fb",
    }
    records = [LabelledText(id=i, group=i, language="en", text=text, labels={}) for i, text in texts.items()]
    account = Account()
    split = mixture.split_records("s", records, None, account, {"2": "exact duplicate"})
    assert [record.id for part in split.values() for record in part] == ["1"]
    assert account.dropped == {"control character": 1, "exact duplicate": 1}
    assert account.sources["s"]["records"] == 3


def test_rows_are_strings_that_can_be_stored(small: Made) -> None:
    for row in small[0]:
        assert tuple(row) == FIELDS
        assert all(isinstance(value, str) for value in row.values())
        json.dumps(row, ensure_ascii=False).encode()


def own_file(tmp_path: Path, count: int, *more: str, name: str = "mine.jsonl") -> str:
    lines = [json.dumps({"prompt": f"question {i}", "completion": f"answer {i}"}) for i in range(count)]
    (tmp_path / name).write_text("\n".join([*lines, *more]) + "\n")
    return str(tmp_path / name)


def test_own_files_alone_and_beside_a_mixture(tmp_path: Path) -> None:
    files = (own_file(tmp_path, 1000), own_file(tmp_path, 3, name="more.jsonl"))
    train, test, _, account = made(settings(mixture="files", files=files, instances_per_task=0))
    assert len(train) + len(test) == 1003
    assert 5 <= len(test) <= 40
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert set(account.own) == {"EN-mine-Generate-completion", "EN-more-Generate-completion"}
    assert account.own["EN-mine-Generate-completion"]["source"] == "mine"
    other = made(settings(mixture="files", files=files, instances_per_task=0, seed=1))[1]
    assert {row["prompt"] for row in other} != {row["prompt"] for row in test}  # the share is drawn by the seed
    beside = made(settings(files=files[1:], num_tasks=2))
    assert len({row["task"] for row in beside[0]}) == 3


def test_own_rows_of_the_evaluation_and_repeats_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaked = "The staff was really friendly and the soup was hot."
    folder(tmp_path / "eval", [TaskRow(leaked, {"default": ("good",)})])
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "eval"))
    lines = (
        json.dumps({"prompt": leaked, "completion": "x"}),
        json.dumps({"prompt": "question 1", "completion": "answer 1"}),
    )
    for kind in ("files", "synthetic"):
        account = made(settings(mixture=kind, num_tasks=int(kind != "files"), files=(own_file(tmp_path, 5, *lines),)))[
            3
        ]
        assert account.dropped["evaluation text"] == 1
        assert account.dropped["duplicate"] >= 1


def test_bad_records_are_quarantined_and_many_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    data = settings(mixture="files", files=(own_file(tmp_path, 1000, "{}"),), instances_per_task=0)
    assert [bad.line for bad in made(data)[3].quarantine.records] == [1001]
    own_file(tmp_path, 990, "{}")
    with pytest.raises(DataError, match=r"mine\.jsonl:991:1: no field 'prompt'.*1 of 991"):
        made(data)
    good = json.dumps({"sentences": "x", "labels": {"default": ["good"]}})
    task = folder(tmp_path / "tasks", [TaskRow(f"text {i}", {"default": ("good",)}) for i in range(999)])
    with (task.path / "train.json").open("a") as file:
        file.write(good.replace("default", "other") + "\n")
    data = settings(mixture="folder", tasks_dir=str(tmp_path / "tasks"))
    assert [bad.line for bad in made(data)[3].quarantine.records] == [1000]
    with (task.path / "train.json").open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match=r"train\.json:1000:30: labels\.default is missing"):
        made(data)


@pytest.mark.parametrize("seed", [136, 0])  # with 136 the hash of "hi" is one to test on
def test_records_of_one_group_are_all_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    chats = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"a{i}"}]} for i in range(40)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    data = settings(mixture="files", files=(str(tmp_path / "chat.jsonl"),), instances_per_task=0, seed=seed)
    assert (split_of("136 chat", "hi"), split_of("0 chat", "hi")) == ("test", "train")
    assert [len(part) for part in made(data)[:2]] == [40, 0]
    folder(tmp_path / "tasks", [TaskRow("one text", {"default": ("good",)})] * 9, "EN-T9-CLS-mood")
    names = [f"T{i}" for i in range(999) if split_of(f"T{i}", "one text") == "test"]
    folder(tmp_path / "other", [TaskRow("one text", {"default": ("good",)})], f"EN-{names[0]}-CLS-mood")
    assert len(made(settings(mixture="folder", tasks_dir=str(tmp_path / "other")))[0]) == 1


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.dictionaries(st.text(max_size=2), st.integers(1, 30), max_size=60), st.integers(0, 99))
def test_at_most_a_tenth_is_tested_on(sizes: dict[str, int], seed: int) -> None:
    with mock.patch.object(mixture, "TEST_SHARE", 0.5):
        chosen = mixture.groups_to_test(str(seed), sizes, 50)
        assert all(split_of(str(seed), group) == "test" for group in chosen)
    assert sum(sizes[group] for group in chosen) <= min(50, sum(sizes.values()) / 10)
    assert mixture.groups_to_test(str(seed), sizes, 50) <= chosen


TEXT = st.sampled_from(
    ["", " ", "a", "b", "A b", "红色的马克杯", "a\0", 'say "x"', "two\nlines", "tab\tbed", '5"', None]
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": TEXT},
    optional={"weight": st.sampled_from([0, 1, 2, None]), "tool_calls": st.just(["x"]), "name": TEXT},
)
TURNS = st.lists(st.tuples(TEXT, TEXT, st.sampled_from([0, 0, 1, 1, 3])), min_size=1, max_size=3).map(
    lambda turns: [
        {"role": role, "content": text, **({"weight": weight} if role == "assistant" else {})}
        for question, answer, weight in turns
        for role, text in (("user", question or "q"), ("assistant", answer or "a"))
    ]
)
RECORDS = {
    "instruction": st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}, optional={"input": TEXT, "id": TEXT}),
    "completion": st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}, optional={"note": TEXT}),
    "messages": st.fixed_dictionaries({"messages": st.one_of(TURNS, st.lists(MESSAGE, max_size=4))}),
    "task": st.fixed_dictionaries(
        {"sentences": TEXT, "labels": st.sampled_from([{"default": ["good"]}, {"default": []}, {"x": ["good"]}, 3])}
    ),
}
DAMAGED = st.sampled_from(['{"a": 1, "a": 2}', "[1]", "{", '{"n": 1e999}', '"x"', '{"x": "\\ud800"}', "nothing"])


def put_lines(path: Path, records: list[dict[str, Any]], damaged: list[str]) -> int:
    lines = [json.dumps(record) for record in records] + damaged
    path.write_text("".join(f"{line}\n" for line in lines))
    return len(lines)


def put_table(path: Path, records: list[dict[str, Any]], damaged: list[str]) -> int:
    header = list(dict.fromkeys(key for record in records for key in record))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, "excel" if path.suffix == ".csv" else "excel-tab", quoting=csv.QUOTE_ALL)
        writer.writerows([header, *([record.get(key) for key in header] for record in records)])
        writer.writerows([["x"] * (len(header) + 1)] * len(damaged))
    return len(records) + len(damaged)


def put_parquet(path: Path, records: list[dict[str, Any]], damaged: list[str]) -> int:
    parquet = pytest.importorskip("pyarrow.parquet")
    keys = dict.fromkeys(key for record in records for key in record)
    whole = [{key: record.get(key) for key in keys} for record in records]
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(whole), path)
    return len(records)


@pytest.mark.parametrize(
    ("form", "suffix", "put"),
    [
        *((form, "jsonl", put_lines) for form in ("instruction", "completion", "messages", "task")),
        *((form, suffix, put_table) for form in ("instruction", "completion") for suffix in ("csv", "tsv")),
        *((form, "parquet", put_parquet) for form in ("instruction", "completion", "messages")),
    ],
)
@hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(draw=st.data())
def test_every_record_is_trained_tested_refused_or_left_out(
    form: str, suffix: str, put: Callable[..., int], draw: st.DataObject
) -> None:
    records = draw.draw(st.lists(RECORDS[form], min_size=1, max_size=40))
    damaged = draw.draw(st.lists(DAMAGED, max_size=3))
    fields: dict[str, Any] = {
        "seed": draw.draw(st.integers(0, 9)),
        "instances_per_task": draw.draw(st.sampled_from([0, 0, 2])),
        "languages": draw.draw(st.sampled_from([("en", "zh"), ("en", "zh"), ("en",)])),
    }
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(quarantine, "MAX_BAD_SHARE", 1.0),
        mock.patch.object(mixture, "TEST_SHARE", 0.3),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.delenv("ECOMGPT_EVAL", raising=False)
        if form == "task":
            task = folder(Path(directory), [TaskRow("x", {"default": ("good",)})])
            count = put(task.path / "train.json", records, damaged)
            data = settings(mixture="folder", tasks_dir=directory, **fields | {"languages": ("en",)})
        else:
            path = Path(directory, f"mine.{suffix}")
            count = put(path, records, damaged)
            data = settings(mixture="files", files=(str(path),), **fields)
        refused = ""
        try:
            train, test, _, account = made(data)
        except DataError as error:
            refused = str(error)
    if refused:  # no record has a form, or none can be read: all are refused, by name
        assert re.search("no record has the fields|none of the|empty", refused)
        return
    (entry,) = account.sources.values()
    assert entry["records"] == count
    assert entry["train"] + entry["test"] + entry["refused"] + sum(entry["left_out"].values()) == count, entry
    assert entry["refused"] == len(account.quarantine.records)
    for rows, split in ((train, "train"), (test, "test")):
        places = collections.Counter(row["record_id"].split(":")[-1].split(".")[0] for row in rows)
        assert len(places) == entry[split]
    assert train or not test
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
