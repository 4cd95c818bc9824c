"""The builder: atomic, reproducible, found again by its key."""

import collections
import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from sessions import session_members

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.instruct import choose, make, read, write
from ecomgpt_jax.instruct import ecom_instruct as ecom_instruct_module
from ecomgpt_jax.instruct.ecom_instruct import Built, build, open_split, write_unseen
from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Row, render
from ecomgpt_jax.instruct.records import LabelledText, Record
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, load_tasks, read_rows, to_instruction, write_task
from ecomgpt_jax.waiting import file_lock

ROOT = Path(__file__).parents[2]


def settings(cache: Path, **fields: Any) -> DataConfig:
    return DataConfig(
        **({"cache_dir": str(cache), "synthetic_records": 30, "num_tasks": 12, "instances_per_task": 6} | fields)
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(cache: Path) -> Built:
    return build(settings(cache))


def test_fingerprint_is_that_of_the_decoded_rows(built: Built) -> None:
    digest = hashlib.sha256()
    for split in write.SPLITS:
        digest.update(split.encode())
        for row in open_split(built.directory, split):
            digest.update(write.digest(row))
    assert digest.hexdigest() == built.fingerprint


def test_rows_have_random_access(built: Built) -> None:
    rows = open_split(built.directory, "train")
    assert len(rows) == built.stats["totals"]["train"] > 50
    assert [rows[i] for i in range(len(rows))] == list(rows) == rows.__getitems__(range(len(rows)))
    assert pickle.loads(pickle.dumps(rows))[3] == rows[3]
    assert tuple(rows[0]) == ROW_FIELDS
    for index in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[index]
    with pytest.raises(ConfigError, match="split"):
        open_split(built.directory, "dev")


def test_stats_count_every_row(built: Built) -> None:
    stats = built.stats
    counts = {"train": {}, "test": {}}
    for split, tasks in counts.items():
        for row in open_split(built.directory, split):
            tasks[row["task"]] = tasks.get(row["task"], 0) + 1
    for name, entry in stats["tasks"].items():
        assert {"language", "family", "operator", "parent", "source", "train", "test"} <= set(entry)
        if not entry["held_out"]:
            assert (entry["train"], entry["test"]) == (counts["train"].get(name, 0), counts["test"].get(name, 0))
    assert stats["totals"]["training_tasks"] == 12
    assert stats["totals"]["held_out_tasks"] == 12


def test_held_out_tasks_are_task_folders_with_gold_answers(built: Built) -> None:
    tasks = load_tasks(built.held_out_dir)
    assert len(tasks) == 12
    for task in tasks:
        rows = read_rows(task)
        assert len(rows) >= 50
        for index, row in enumerate(rows):
            prompt, response = render(to_instruction(task, index, row))
            assert response
            assert row.sentences in prompt


def test_the_second_call_finds_the_first(built: Built, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "make_rows", lambda *arguments: pytest.fail("built again"))
    assert build(settings(cache)) == built


def test_what_repeats_others_is_found_once_for_builds_of_the_same_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, asked, survey = "synthetic_reviews_en", [], ecom_instruct_module.sketch_shard

    def counted(choice: choose.Choice, folder: Path, bad_file: Path, shard: str) -> int:
        asked.append(shard)
        return survey(choice, folder, bad_file, shard)

    monkeypatch.setattr(make, "compared_shards", lambda choice: [source])
    monkeypatch.setattr(ecom_instruct_module, "sketch_shard", counted)
    first = build(settings(tmp_path, sources=(source,), num_tasks=2, instances_per_task=0))
    assert asked == [source]
    again = build(settings(tmp_path, sources=(source,), num_tasks=3, instances_per_task=0))
    assert asked == [source]
    repeats = [name for name in first.stats["dropped"] if "duplicate" in name and name != "duplicate"]
    assert repeats  # the catalogue's texts are alike, so that there is something to find
    assert {name: again.stats["dropped"][name] for name in repeats} == {
        name: first.stats["dropped"][name] for name in repeats
    }
    monkeypatch.setattr(choose, "_checksums", lambda data, names: {"code": "other"})
    build(settings(tmp_path, sources=(source,), num_tasks=2, instances_per_task=0))
    assert asked == [source, source]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Built) -> None:
    real = make.row_of
    calls = 0

    def failing(*arguments: Any) -> Row:
        nonlocal calls
        calls += 1
        if calls == 300:
            raise DataError("row 300 is broken")
        return real(*arguments)

    monkeypatch.setattr(make, "row_of", failing)
    with pytest.raises(DataError, match="row 300 is broken"):
        build(settings(tmp_path, num_tasks=0))
    assert [path for path in (tmp_path / "datasets").iterdir() if path.suffix != ".lock"] == []
    monkeypatch.undo()
    assert build(settings(tmp_path)).fingerprint == built.fingerprint


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path, built: Built) -> None:
    root = tmp_path / "datasets"
    key = choose.cache_key(settings(tmp_path))
    for name in (f"{key}.tmpabc", "anotherkey.tmpxyz"):
        (root / name / "ecom_instruct").mkdir(parents=True)
    (root / key).mkdir()  # a final folder without built.json is no build
    assert build(settings(tmp_path)).fingerprint == built.fingerprint
    assert not list(root.glob("*.tmp*"))


def test_the_folder_of_a_build_that_runs_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    (root / "busy.tmpabc").mkdir(parents=True)
    with file_lock(root / "busy.lock", "a build"):
        build(settings(tmp_path))
        assert (root / "busy.tmpabc").is_dir()


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_fingerprint_is_the_same_in_another_process(tmp_path: Path, built: Built, hash_seed: str) -> None:
    code = (
        "import sys; from ecomgpt_jax.config import DataConfig; from ecomgpt_jax.instruct.ecom_instruct import build;"
        f"data = DataConfig(cache_dir={str(tmp_path)!r}, synthetic_records=30, num_tasks=12, instances_per_task=6);"
        "print(build(data).fingerprint);"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    output = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert output.stdout.strip() == built.fingerprint, output.stderr


def test_hostile_text_comes_back_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    texts = [
        "{sentences}{label_set}",
        "{0.__class__}",
        "%s %(x)s",
        "</s>\n### Response:\n",
        "\x00\x1b[31m",
        "a\u2028b",
        "😀é",
    ]
    template = "### Instruction:\n{sentences}\nMood? {label_set}\n### Response:"
    task = TaskFolder(
        name="EN-Mine-CLS-mood", definition="mood", template=template, label_set={"default": ("good", "bad")}
    )
    write_task(tmp_path / "tasks", task, [], [TaskRow(text, {"default": ("good",)}) for text in texts])
    data = settings(
        tmp_path / "cache", mixture="folder", tasks_dir=str(tmp_path / "tasks"), num_tasks=0, instances_per_task=0
    )
    hostile = build(data)
    stored = [row["prompt"] for split in write.SPLITS for row in open_split(hostile.directory, split)]
    for text in texts:
        assert sum(f"### Instruction:\n{text}\nMood? good, bad\n" in prompt for prompt in stored) == 1, text
    assert hostile.held_out_dir is None
    (tmp_path / "tasks/Mine/tasks/EN-Mine-CLS-mood/train.json").open("a").write(
        '{"sentences": "new", "labels": {"default": ["bad"]}}\n'
    )
    assert build(data).fingerprint != hostile.fingerprint


def test_lone_surrogates_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = read.read_source

    def broken(name: str, data: DataConfig, quarantine: object) -> list[Record]:
        bad = LabelledText(
            id="bad",
            group="bad",
            language="en",
            text="a\ud800b",
            labels={"intent": ("get refund",), "topic": ("Payment",)},
        )
        return [*real(name, data), bad]

    monkeypatch.setattr(read, "read_source", broken)
    sources = ("synthetic_messages_en",)
    found = build(settings(tmp_path, sources=sources, num_tasks=0, languages=("en",), instances_per_task=0))
    assert found.stats["dropped"]["lone surrogate"] > 0
    assert found.stats["totals"]["train"] > 100


def test_no_rows_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    task = TaskFolder(
        name="EN-Mine-CLS-mood", definition="mood", template="{sentences}", label_set={"default": ("good", " ")}
    )
    write_task(tmp_path / "tasks", task, [], [TaskRow("x", {"default": (" ",)})])
    with pytest.raises(DataError, match="no training row"):
        build(settings(tmp_path / "cache", mixture="folder", tasks_dir=str(tmp_path / "tasks"), num_tasks=0))
    assert [path.suffix for path in (tmp_path / "cache/datasets").iterdir()] == [".lock"]


def test_a_build_killed_in_the_middle_is_made_anew(tmp_path: Path, built: Built) -> None:
    code = (
        "from ecomgpt_jax.config import DataConfig; from ecomgpt_jax.instruct.ecom_instruct import build;"
        f"build(DataConfig(cache_dir={str(tmp_path)!r}, synthetic_records=3000, workers=2))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True
    )
    root = tmp_path / "datasets"
    while not list(root.glob("*.tmp*/shards/*")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list(root.glob("*.tmp*/shards/*"))
    while session_members(process.pid):  # hangs if the processes outlive their parent
        time.sleep(0.05)
    assert build(settings(tmp_path)).fingerprint == built.fingerprint
    assert not list(root.glob("*.tmp*"))


def test_tfds_reads_the_data_set_itself(built: Built) -> None:
    builder = tfds.builder_from_directory(str(built.directory))
    assert builder.info.splits["train"].num_examples == built.stats["totals"]["train"]
    rows = builder.as_data_source("train")
    assert {name: value.decode() for name, value in rows[3].items()} == open_split(built.directory, "train")[3]


def test_rows_can_be_sliced(built: Built) -> None:
    rows = open_split(built.directory, "train")
    assert rows[5:9] == [rows[index] for index in range(5, 9)]
    assert rows[len(rows) - 1 : len(rows) + 5] == [rows[len(rows) - 1]]


def whole_settings(cache: Path, **fields: Any) -> DataConfig:
    return DataConfig(**({"cache_dir": str(cache), "synthetic_records": 40, "temperature": 0.0} | fields))


def rows_of(data: DataConfig, split: str = "train") -> list[Row]:
    return list(open_split(build(data).directory, split))


def of_task(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["task"] == name]


def test_the_total_is_held_when_tasks_vary(cache: Path) -> None:
    few, many = (rows_of(whole_settings(cache, num_tasks=n, total_instances=60)) for n in (4, 12))
    assert len(few) == len(many) == 60
    names = {row["task"] for row in few}
    assert len(names) == 4 < len({row["task"] for row in many}) == 12
    assert {len(of_task(few, name)) for name in names} == {15}
    for name in names:  # what the larger choice takes of a task is a part of the smaller one's
        assert of_task(many, name) == of_task(few, name)[:5]


def test_unseen_tasks_are_held_back_and_not_trained_on(cache: Path) -> None:
    fields = {"total_instances": 60, "num_tasks": 4}
    plain, apart = build(whole_settings(cache, **fields)), build(whole_settings(cache, unseen_tasks=3, **fields))
    rows = {
        split: [list(open_split(found.directory, split)) for found in (plain, apart)] for split in ("train", "test")
    }
    assert rows["train"][0] == rows["train"][1]
    names = apart.stats["tasks"].keys() - plain.stats["tasks"].keys()
    assert len(names) == 3
    assert not names.isdisjoint(row["task"] for row in rows["test"][1])
    assert names.isdisjoint(row["task"] for row in rows["train"][1])
    assert [row for row in rows["test"][1] if row["task"] not in names] == rows["test"][0]
    entries = apart.stats["tasks"]
    assert [(entries[name]["train"], entries[name]["held_out"]) for name in sorted(names)] == [(0, False)] * 3
    assert apart.stats["totals"]["training_tasks"] == 4
    with pytest.raises(ConfigError, match=r"unseen_tasks=\d+ of \d+ tasks leaves too few"):
        build(whole_settings(cache, unseen_tasks=900, **fields))


def test_unseen_tasks_become_task_folders_of_held_back_rows(cache: Path, tmp_path: Path) -> None:
    data = whole_settings(cache, total_instances=60, unseen_tasks=6)
    names = write_unseen(data, tmp_path)
    stored = list(open_split(build(data).directory, "test"))
    trained = {row["prompt"] for row in open_split(build(data).directory, "train")}
    folders = load_tasks(tmp_path)
    assert sorted(names) == [folder.name for folder in folders] != []
    assert set(names) <= {row["task"] for row in stored} - {row["task"] for row in rows_of(data)}
    for folder in folders:
        answers = {row["response"] for row in stored if row["task"] == folder.name}
        rows = [to_instruction(folder, index, row) for index, row in enumerate(read_rows(folder))]
        assert {row.answer for row in rows} <= answers
        assert trained.isdisjoint(render(row)[0] for row in rows)
    with pytest.raises(ConfigError, match="no task of a source is unseen"):
        write_unseen(dataclasses.replace(data, unseen_tasks=0), tmp_path)


def test_what_is_taken_is_what_a_build_of_the_choice_alone_begins_with(cache: Path) -> None:
    chosen = {"operators": ("base", "reversal"), "num_tasks": 5, "prompt_language": "mixed", "seed": 3}
    taken, alone = whole_settings(cache, total_instances=80, **chosen), whole_settings(cache, temperature=1.0, **chosen)
    names = {row["task"] for row in rows_of(taken)}
    assert names == {row["task"] for row in rows_of(alone)}
    for name in names:
        assert of_task(rows_of(taken), name) == of_task(rows_of(alone), name)[:16]
    assert rows_of(taken, "test") == rows_of(alone, "test")
    found, expected = build(taken).stats, build(alone).stats
    assert found["tasks"].keys() == expected["tasks"].keys()
    assert found["totals"]["test"] == expected["totals"]["test"]
    assert found["totals"]["train"] == 80
    held_out = [[task.name for task in load_tasks(build(data).held_out_dir)] for data in (taken, alone)]
    assert held_out[0] == held_out[1] != []


def test_families_of_each_language_get_equal_shares(cache: Path) -> None:
    """In training alone, annotation and Chain-of-Task apart; without the setting a family with many tasks has most."""
    shares = []
    for temperature in (0.0, 1.0):
        tasks = build(whole_settings(cache, total_instances=100, family_temperature=temperature)).stats["tasks"]
        counts = collections.Counter()
        for entry in tasks.values():
            counts[entry["language"], entry["family"], bool(entry["operator"])] += entry["train"]
        assert sum(counts.values()) == 100
        shares.append([count for count in counts.values() if count])
    assert max(shares[0]) - min(shares[0]) <= 1
    assert max(shares[1]) > 2 * min(shares[1])


def test_choices_of_one_whole_read_no_source_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of(whole_settings(cache, total_instances=30, num_tasks=3))

    def refuse(*arguments: object) -> None:
        raise AssertionError("a source is read again")

    monkeypatch.setattr(read, "read_source", refuse)
    assert len(rows_of(whole_settings(cache, total_instances=31, chain_of_task=False))) == 31
    with pytest.raises(AssertionError, match="read again"):
        rows_of(whole_settings(cache, total_instances=31, synthetic_records=41))


def test_more_than_there_is_leaves_no_data_set(cache: Path) -> None:
    data = whole_settings(cache, num_tasks=1, total_instances=10**6)
    with pytest.raises(ConfigError, match=r"total_instances=1000000, and the other settings leave \d+"):
        build(data)
    assert not (Path(data.cache_dir) / "datasets" / choose.cache_key(data)).exists()


def test_files_of_ones_own_are_no_choice_and_share_the_total(cache: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"question {i}", "completion": f"answer {i}"}) for i in range(100)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines) + "\n")
    files = (str(tmp_path / "mine.jsonl"),)
    assert len(rows_of(whole_settings(cache, mixture="files", files=files, total_instances=10))) == 10
    beside = build(whole_settings(cache, files=files, num_tasks=2, total_instances=30))
    assert beside.stats["totals"]["train"] == 30
    assert beside.stats["tasks"]["EN-mine-Generate-completion"]["train"] == 10
    assert beside.stats["files"]
