"""Exactly so many rows of a whole data set, and the same ones that a build of the choice alone has."""

import json
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct import inputs, keys, sample
from ecomgpt_jax.instruct.ecom_instruct import build, open_split
from ecomgpt_jax.instruct.rows import Row
from ecomgpt_jax.instruct.task_folder import load_tasks


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def settings(cache: Path, **fields: Any) -> DataConfig:
    return DataConfig(**({"cache_dir": str(cache), "synthetic_records": 40, "temperature": 0.0} | fields))


def rows(data: DataConfig, split: str = "train") -> list[Row]:
    return list(open_split(build(data).directory, split))


def of_task(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["task"] == name]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1, {"a": 8, "b": 32, "c": 60}),  # as large as they are
        (0, {"a": 20, "b": 40, "c": 40}),  # equal, and the small one gives all it has
        (2, {"a": 17, "b": 35, "c": 48}),  # weights 4.5, 8.9, 12.2
        (1e9, {"a": 20, "b": 40, "c": 40}),
    ],
)
def test_shares_of_tasks(temperature: float, expected: dict[str, int]) -> None:
    assert sample.allocate({"a": 20, "b": 80, "c": 150, "d": 0}, 100, temperature) == expected


def test_shares_always_make_the_total() -> None:
    sizes = {f"t{i}": i * i % 37 for i in range(1, 30)}
    for total in (1, 7, 100, sum(sizes.values())):
        for temperature in (0, 1, 3.5):
            shares = sample.allocate(sizes, total, temperature)
            assert sum(shares.values()) == total
            assert all(share <= sizes[name] for name, share in shares.items())
    with pytest.raises(ConfigError, match="total_instances=9999"):
        sample.allocate(sizes, 9999, 0)


def test_the_total_is_held_when_tasks_vary(cache: Path) -> None:
    few, many = (rows(settings(cache, num_tasks=n, total_instances=60)) for n in (4, 12))
    assert len(few) == len(many) == 60
    names = {row["task"] for row in few}
    assert len(names) == 4 < len({row["task"] for row in many}) == 12
    assert {len(of_task(few, name)) for name in names} == {15}
    for name in names:  # what the larger choice takes of a task is a part of the smaller one's
        assert of_task(many, name) == of_task(few, name)[:5]


def test_what_is_taken_is_what_a_build_of_the_choice_alone_begins_with(cache: Path) -> None:
    chosen = {"operators": ("base", "reversal"), "num_tasks": 5, "prompt_language": "mixed", "seed": 3}
    taken, alone = settings(cache, total_instances=80, **chosen), settings(cache, temperature=1.0, **chosen)
    names = {row["task"] for row in rows(taken)}
    assert names == {row["task"] for row in rows(alone)}
    for name in names:
        assert of_task(rows(taken), name) == of_task(rows(alone), name)[:16]
    assert rows(taken, "test") == rows(alone, "test")
    found, expected = build(taken).stats, build(alone).stats
    assert found["tasks"].keys() == expected["tasks"].keys()
    assert found["totals"]["test"] == expected["totals"]["test"]
    assert found["totals"]["train"] == 80
    held_out = [[task.name for task in load_tasks(build(data).held_out_dir)] for data in (taken, alone)]
    assert held_out[0] == held_out[1] != []


def test_choices_of_one_whole_read_no_source_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(settings(cache, total_instances=30, num_tasks=3))

    def refuse(*arguments: object) -> None:
        raise AssertionError("a source is read again")

    monkeypatch.setattr(inputs, "read_source", refuse)
    assert len(rows(settings(cache, total_instances=31, chain_of_task=False))) == 31
    with pytest.raises(AssertionError, match="read again"):
        rows(settings(cache, total_instances=31, synthetic_records=41))


def test_more_than_there_is_leaves_no_data_set(cache: Path) -> None:
    data = settings(cache, num_tasks=1, total_instances=10**6)
    with pytest.raises(ConfigError, match=r"total_instances=1000000, and the other settings leave \d+"):
        build(data)
    assert not (Path(data.cache_dir) / "datasets" / keys.cache_key(data)).exists()


def test_files_of_ones_own_are_no_choice_and_share_the_total(cache: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"question {i}", "completion": f"answer {i}"}) for i in range(100)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines) + "\n")
    files = (str(tmp_path / "mine.jsonl"),)
    assert len(rows(settings(cache, mixture="files", files=files, total_instances=10))) == 10
    beside = build(settings(cache, files=files, num_tasks=2, total_instances=30))
    assert beside.stats["totals"]["train"] == 30
    assert beside.stats["tasks"]["EN-mine-Generate-completion"]["train"] == 10
    assert beside.stats["files"]
