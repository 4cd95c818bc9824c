"""Which tasks, which split, which rows: every setting does what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.instruct import mixture
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
