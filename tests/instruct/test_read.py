"""Paths of sources and evaluation tasks, splits, counts."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies as st

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.files import BadRecord, read_json, write_json
from ecomgpt_jax.instruct import read
from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.read import BuildStats
from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.sources import all_sources
from ecomgpt_jax.instruct.sources.reading import BadRow, ReadLog
from ecomgpt_jax.instruct.synthetic import products
from ecomgpt_jax.instruct.task_folder import TaskRow


def settings(**fields: Any) -> DataConfig:
    return DataConfig(**({"synthetic_records": 40, "instances_per_task": 5} | fields))


def test_bad_records_of_real_sources_are_quarantined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(source: object, directory: Path, log: ReadLog) -> list[LabelledText]:
        log.rows = 100
        log.bad.append(BadRow("f.txt", 7, "label: unknown", "text"))
        return []

    monkeypatch.setattr(all_sources, "read", broken)
    with pytest.raises(DataError, match=r"^en_mams/f\.txt:7:1: label: unknown \(1 of 100"):
        read.read_source("en_mams", settings(mixture="real", sources_dir=str(tmp_path)), BuildStats())


BAD = BadRecord("a.jsonl", 7, 3, "is wrong", "x" * 5000)


def test_a_thousandth_is_borne_and_written(tmp_path: Path) -> None:
    stats = BuildStats(tmp_path / "q.jsonl")
    stats.add_bad("a.jsonl", 1000, [BAD])
    stats.write_bad()
    (line,) = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
    assert (line["place"], line["reason"], len(line["text"])) == ("a.jsonl:7:3", "is wrong", 2000)
    BuildStats(tmp_path / "q.jsonl").write_bad()
    assert not (tmp_path / "q.jsonl").exists()  # an old file would tell of another build


def test_more_is_an_error_that_names_place_and_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:7:3: is wrong \(1 of 999 records of a are bad, .*q\.jsonl\)$"):
        BuildStats(tmp_path / "q.jsonl").add_bad("a", 999, [BAD])
    assert (tmp_path / "q.jsonl").is_file()
    with pytest.raises(DataError, match="2 of 1,000"):
        BuildStats().add_bad("a", 1000, [BAD, BAD])


def test_split_share_and_stability() -> None:
    groups = [read.split_of("source", str(i)) for i in range(20_000)]
    assert 0.015 < groups.count("test") / len(groups) < 0.025
    assert read.split_of("synthetic_titles_en", "p7") == read.split_of("synthetic_items_en", "p7")
    assert {read.split_of("synthetic_titles_zh", "evaluation/3")} == {"held_out"}
    assert read.split_of("other", "evaluation/3") in ("train", "test")
    assert read.split_of("source", "\ud800") in ("train", "test")


def test_contaminated_records_are_dropped_before_the_split() -> None:
    text = "The staff was really friendly and the soup was hot."
    records = [
        LabelledText(id=str(i), group=str(i), language="en", text=t, labels={}) for i, t in enumerate((text, "ok"))
    ]
    stats = BuildStats()
    split = read.split_records("s", records, Exclusion([TaskRow(text)]), stats)
    assert [record.id for part in split.values() for record in part] == ["1"]
    assert stats.dropped["evaluation text"] == 1


def test_what_is_left_out_before_the_split_is_counted() -> None:
    texts = {
        "1": "The kettle boils quickly and looks good.",
        "2": "the kettle boils quickly and looks good",
        "3": "a\x7fb",
    }
    records = [LabelledText(id=i, group=i, language="en", text=text, labels={}) for i, text in texts.items()]
    stats = BuildStats()
    split = read.split_records("s", records, None, stats, {"2": "exact duplicate"})
    assert [record.id for part in split.values() for record in part] == ["1"]
    assert stats.dropped == {"control character": 1, "exact duplicate": 1}
    assert stats.sources["s"]["records"] == 3


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.dictionaries(st.text(max_size=2), st.integers(1, 30), max_size=60), st.integers(0, 99))
def test_at_most_a_tenth_is_tested_on(sizes: dict[str, int], seed: int) -> None:
    with mock.patch.object(read, "TEST_SHARE", 0.5):
        chosen = read.groups_to_test(str(seed), sizes, 50)
        assert all(read.split_of(str(seed), group) == "test" for group in chosen)
    assert sum(sizes[group] for group in chosen) <= min(50, sum(sizes.values()) / 10)
    assert read.groups_to_test(str(seed), sizes, 50) <= chosen


def test_stats_survive_their_file(tmp_path: Path) -> None:
    stats, whole = BuildStats(), BuildStats()
    stats.rows["train"]["t"] += 3
    stats.dropped["duplicate"] += 2
    stats.sources["s"] = {"records": 5}
    stats.add_bad("s", 5000, [BadRecord("f", 1, 2, "why", "text")])
    write_json(tmp_path / "a.json", stats.as_json())
    whole.add(read_json(tmp_path / "a.json"))
    assert whole == stats
    whole.add(read_json(tmp_path / "a.json"))
    assert (whole.rows["train"]["t"], whole.dropped["duplicate"], len(whole.bad)) == (6, 4, 2)


def test_a_licence_is_known_of_every_source_but_a_users_own() -> None:
    name, known = next(iter(all_sources.SOURCES.items()))
    assert read.licence_of(name) == known.licence
    assert read.licence_of(f"{products.PREFIX}x") == "generated by ecomgpt_jax"
    assert read.licence_of("mine.jsonl") == "see its origin"
