"""Tasks, splits and rows: the effect of every setting."""

import collections
import csv
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies as st

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.instruct import make, read
from ecomgpt_jax.instruct.choose import choose
from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Row
from ecomgpt_jax.instruct.make import Rows
from ecomgpt_jax.instruct.read import BuildStats, split_of
from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, write_task
from ecomgpt_jax.instruct.tasks import classification
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

Made = tuple[list[Row], list[Row], dict[str, tuple[TaskFolder, list[TaskRow]]], BuildStats]


def settings(**fields: Any) -> DataConfig:
    return DataConfig(**({"synthetic_records": 40, "instances_per_task": 5} | fields))


def made(data: DataConfig) -> Made:
    stats, held_out, choice = BuildStats(), {}, choose(data)
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    for shard in make.shards(choice):
        for split, row in make.make_rows(choice, shard, stats, held_out):
            rows[split].append(row)
    return rows["train"], rows["test"], held_out, stats


@pytest.fixture(scope="module")
def small() -> Made:
    return made(settings())


def test_limits_hold(small: Made) -> None:
    train, test, held_out, stats = small
    assert max(stats.rows["train"].values()) == 5
    assert max(stats.rows["test"].values(), default=0) <= make.TEST_ROWS
    assert len(held_out) == 12
    assert all(50 <= len(rows) <= make.HELD_OUT_ROWS for _, rows in held_out.values())
    assert stats.rows["train"].total() == len(train)
    assert stats.rows["test"].total() == len(test)


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


def test_letters_change_prompt_and_answer_of_half_of_classification_alone(small: Made) -> None:
    plain = small[0] + small[1]
    train, test, held_out, _ = made(settings(template="released:letters"))
    assert held_out == small[2]
    changed = []
    for before, after in zip(plain, train + test, strict=True):
        assert {**before, "prompt": "", "response": ""} == {**after, "prompt": "", "response": ""}
        if before == after:
            changed += [False] if before["family"] == "CLS" else []
            continue
        changed.append(True)
        assert before["family"] == "CLS"
        assert re.fullmatch(r"([A-Z]|\d+)(, ([A-Z]|\d+))*", after["response"])
        rest = before["response"]
        for name in after["response"].split(", "):
            ends = (end for end in range(1, len(rest) + 1) if rest[end:].startswith(", ") or end == len(rest))
            shown = [end for end in ends if f"{name}. {rest[:end]}" in after["prompt"]]
            rest = rest[max(shown, default=0) :].removeprefix(", ")
        assert rest == "", after
    assert len(changed) > 100
    assert abs(sum(changed) / len(changed) - 0.5) < 0.1


def test_letters_in_the_rows_of_task_folders(tmp_path: Path) -> None:
    task = TaskFolder(
        "EN-Mine-CLS-mood", "mood", "{sentences}\nPick: {label_set}\n### Response:", {"default": ("B", "A")}
    )
    rows = [TaskRow(f"text {number}", {"default": ("A",)}) for number in range(30)]
    write_task(tmp_path, task, rows[:1], rows)
    train, *_ = made(DataConfig(mixture="folder", tasks_dir=str(tmp_path), template="released:letters"))
    orders = {("A. B, B. A (" in row["prompt"], "A. A, B. B (" in row["prompt"], row["response"]) for row in train}
    assert orders == {(True, False, "B"), (False, True, "A"), (False, False, "A")}


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


def folder(
    tmp_path: Path, rows: list[TaskRow], name: str = "EN-Mine-CLS-mood", test: Sequence[TaskRow] = ()
) -> TaskFolder:
    template = "### Instruction:\n{sentences}\nMood? {label_set}\n### Response:"
    task = TaskFolder(name=name, definition="mood", template=template, label_set={"default": ("good", "bad")})
    return write_task(tmp_path, task, test, rows)


def test_task_folders_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    hostile = "{sentences} {0.__class__} </s> ### Response: \x07 \t é 中 \U0001f600"
    texts = [hostile, *(f"text number {i}" for i in range(200)), "text number 3"]
    folder(tmp_path, [TaskRow(text, {"default": ("good",)}) for text in texts])
    train, test, _, stats = made(settings(mixture="folder", tasks_dir=str(tmp_path), instances_per_task=0))
    assert len(train) + len(test) == 201
    assert stats.dropped == {"duplicate": 1}
    assert sum(hostile in row["prompt"] for row in train + test) == 1
    with pytest.raises(ConfigError, match=r"data\.tasks_dir"):
        made(settings(mixture="folder"))
    with pytest.raises(ConfigError, match="leave no task"):
        made(settings(mixture="folder", tasks_dir=str(tmp_path), languages=("zh",)))


def test_folder_rows_from_the_evaluation_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = "The staff was really friendly and the soup was hot."
    folder(tmp_path / "eval", [], test=[TaskRow(leaked, {"default": ("good",)})])
    rows = [TaskRow(text, {"default": ("good",)}) for text in (leaked.upper(), "a clean text")]
    folder(tmp_path / "train", rows)
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "eval"))
    train, test, _, stats = made(settings(mixture="folder", tasks_dir=str(tmp_path / "train")))
    assert ["a clean text" in row["prompt"] for row in train + test] == [True]
    assert stats.dropped == {"evaluation text": 1}


def test_rows_are_strings_that_can_be_stored(small: Made) -> None:
    for row in small[0]:
        assert tuple(row) == ROW_FIELDS
        assert all(isinstance(value, str) for value in row.values())
        json.dumps(row, ensure_ascii=False).encode()


def own_file(tmp_path: Path, count: int, *more: str, name: str = "mine.jsonl") -> str:
    lines = [json.dumps({"prompt": f"question {i}", "completion": f"answer {i}"}) for i in range(count)]
    (tmp_path / name).write_text("\n".join([*lines, *more]) + "\n")
    return str(tmp_path / name)


def test_own_files_alone_and_beside_a_mixture(tmp_path: Path) -> None:
    files = (own_file(tmp_path, 1000), own_file(tmp_path, 3, name="more.jsonl"))
    train, test, _, stats = made(settings(mixture="files", files=files, instances_per_task=0))
    assert len(train) + len(test) == 1003
    assert 5 <= len(test) <= 40
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert set(stats.own) == {"EN-mine-Generate-completion", "EN-more-Generate-completion"}
    assert stats.own["EN-mine-Generate-completion"]["source"] == "mine"
    other = made(settings(mixture="files", files=files, instances_per_task=0, seed=1))[1]
    assert {row["prompt"] for row in other} != {row["prompt"] for row in test}  # the share is drawn by the seed
    beside = made(settings(files=files[1:], num_tasks=2))
    assert len({row["task"] for row in beside[0]}) == 3


def test_own_rows_of_the_evaluation_and_repeats_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaked = "The staff was really friendly and the soup was hot."
    folder(tmp_path / "eval", [], test=[TaskRow(leaked, {"default": ("good",)})])
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "eval"))
    lines = (
        json.dumps({"prompt": leaked, "completion": "x"}),
        json.dumps({"prompt": "question 1", "completion": "answer 1"}),
    )
    for kind in ("files", "synthetic"):
        stats = made(settings(mixture=kind, num_tasks=int(kind != "files"), files=(own_file(tmp_path, 5, *lines),)))[3]
        assert stats.dropped["evaluation text"] == 1
        assert stats.dropped["duplicate"] >= 1


def test_own_rows_that_differ_in_spelling_signs_or_case_are_no_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is what is taught; blanks alone make no other row. Sources drop more: the test below."""
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    pairs = [("1.50 EUR", "1.50"), ("15.0 EUR", "15.0"), ("150 EUR", "150"), ("-10 %", "-10"), ("+10 %", "+10"),
             ("RED MUG", "x"), ("red mug", "x"), ("résumé", "y"), ("resume", "y")]  # fmt: skip
    repeats = [("red  mug ", "x"), ("red mug", "x")]
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in [*pairs, *repeats]]
    train, test, _, stats = made(
        settings(mixture="files", files=(own_file(tmp_path, 0, *lines),), instances_per_task=0)
    )
    assert sorted(" ".join(row["prompt"].split()) for row in train + test) == sorted(prompt for prompt, _ in pairs)
    assert stats.dropped == {"duplicate": 2}
    rows = [TaskRow(text, {"default": ("good",)}) for text in ("M-8", "M8", "m8", "M8")]
    folder(tmp_path / "tasks", rows)
    train, test, _, stats = made(settings(mixture="folder", tasks_dir=str(tmp_path / "tasks"), instances_per_task=0))
    assert (len(train) + len(test), stats.dropped) == (3, {"duplicate": 1})


def test_rows_of_a_folders_own_test_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any of its tasks, however it is spelled: `evaluate --tasks` asks them."""
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    rows = [TaskRow(f"text number {i}", {"default": ("good",)}) for i in range(30)]
    folder(tmp_path, rows, test=rows[3:4])
    folder(tmp_path, rows, "EN-Mine-CLS-other", test=[TaskRow("TEXT number 7!", rows[0].labels)])
    train, test, _, stats = made(settings(mixture="folder", tasks_dir=str(tmp_path), instances_per_task=0))
    assert stats.dropped == {"input of a test.json": 4}
    assert len(train) + len(test) == 56
    assert not any("text number 3\n" in row["prompt"] or "text number 7\n" in row["prompt"] for row in train + test)


def test_bad_records_are_quarantined_and_many_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    data = settings(mixture="files", files=(own_file(tmp_path, 1000, "{}"),), instances_per_task=0)
    assert [bad.line for bad in made(data)[3].bad] == [1001]
    own_file(tmp_path, 990, "{}")
    with pytest.raises(DataError, match=r"mine\.jsonl:991:1: no field 'prompt'.*1 of 991"):
        made(data)
    good = json.dumps({"sentences": "x", "labels": {"default": ["good"]}})
    task = folder(tmp_path / "tasks", [TaskRow(f"text {i}", {"default": ("good",)}) for i in range(999)])
    with (task.path / "train.json").open("a") as file:
        file.write(good.replace("default", "other") + "\n")
    data = settings(mixture="folder", tasks_dir=str(tmp_path / "tasks"))
    assert [bad.line for bad in made(data)[3].bad] == [1000]
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
        mock.patch.object(read, "MAX_BAD_SHARE", 1.0),
        mock.patch.object(read, "TEST_SHARE", 0.3),
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
            train, test, _, stats = made(data)
        except DataError as error:
            refused = str(error)
    if refused:  # no record has a form, or none can be read: all are refused, by name
        assert re.search("no record has the fields|none of the|empty", refused)
        return
    (entry,) = stats.sources.values()
    assert entry["records"] == count
    assert entry["train"] + entry["test"] + entry["refused"] + sum(entry["left_out"].values()) == count, entry
    assert entry["refused"] == len(stats.bad)
    for rows, split in ((train, "train"), (test, "test")):
        places = collections.Counter(row["record_id"].split(":")[-1].split(".")[0] for row in rows)
        assert len(places) == entry[split]
    assert train or not test
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}


TASK = bind(classification.CLASSIFICATION, Dataset(name="X", source="x", language="en", kind="mood"))


def record(number: int, text: str, label: str = "good") -> LabelledText:
    return LabelledText(id=str(number), group=str(number), language="en", text=text, labels={"mood": (label,)})


def made_of(texts: list[str], limit: int = 0, label: str = "good") -> tuple[list[dict[str, str]], BuildStats]:
    stats = BuildStats()
    records = [record(number, text, label) for number, text in enumerate(texts)]
    found = Rows(DataConfig(), stats).examples(TASK, records, (label, "bad"), "train", limit)
    return [row for _, row in found], stats


def test_repeats_are_dropped_whatever_their_spelling() -> None:
    rows, stats = made_of(["Nice mug!", "nice  MUG", "another", "ｎｉｃｅ mug"])
    assert len(rows) == 2
    assert stats.dropped == {"duplicate": 2}


def test_texts_without_letters_are_told_apart() -> None:
    assert len(made_of(["!!!", "???", ":-)", "!!!"])[0]) == 3


def test_limit() -> None:
    texts = [f"text {i}" for i in range(20)]
    assert len(made_of(texts, limit=7)[0]) == 7
    assert made_of(texts, limit=7)[0] == made_of(texts)[0][:7]


@pytest.mark.parametrize(
    ("text", "label", "reason"), [("a\ud800", "good", "lone surrogate"), ("a", " ", "empty answer")]
)
def test_what_cannot_be_stored_or_learned_is_counted(text: str, label: str, reason: str) -> None:
    rows, stats = made_of([text], label=label)
    assert (rows, stats.dropped) == ([], {reason: 1})
