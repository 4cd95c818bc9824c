"""Shards are the same wherever they are made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, DataError, StorageError
from ecomgpt_jax.instruct import duplicates, write
from ecomgpt_jax.instruct.ecom_instruct import Built, build
from ecomgpt_jax.instruct.instructions import ROW_FIELDS
from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.task_folder import load_tasks, read_rows

ROWS = st.fixed_dictionaries({name: st.text() for name in ROW_FIELDS})


def settings(cache: Path, **fields: object) -> DataConfig:
    return DataConfig(**({"cache_dir": str(cache), "synthetic_records": 20, "instances_per_task": 3} | fields))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(settings(tmp_path_factory.mktemp("cache")))


def result(built: Built) -> tuple[str, dict]:
    return built.fingerprint, {name: value for name, value in built.stats.items() if name != "quarantine"}


@examples(max_examples=30, deadline=None)
@given(ROWS)
def test_examples_are_what_tfds_writes(row: dict[str, str]) -> None:
    features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in ROW_FIELDS})
    theirs = tfds.core.ExampleSerializer(features.get_serialized_info()).serialize_example(features.encode_example(row))
    assert write.from_example(write.to_example(row)) == write.from_example(theirs) == row
    assert sorted(write.to_example(row)) == sorted(theirs)


@given(ROWS, ROWS)
def test_different_rows_have_different_digests(one: dict[str, str], other: dict[str, str]) -> None:
    assert (write.digest(one) == write.digest(other)) == (one == other)


def test_the_end_of_a_field_counts() -> None:
    row = dict.fromkeys(ROW_FIELDS, "")
    assert write.digest(row | {"prompt": "ab", "response": "c"}) != write.digest(
        row | {"prompt": "a", "response": "bc"}
    )


def test_two_processes_make_what_one_makes(built: Built, tmp_path: Path) -> None:
    found = build(settings(tmp_path, workers=2))
    assert result(found) == result(built)
    tasks = [load_tasks(each.held_out_dir) for each in (found, built)]
    first, second = ([(task.name, read_rows(task)) for task in each] for each in tasks)
    assert first == second != []


def test_beam_makes_what_one_process_makes(built: Built, tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    found = build(settings(tmp_path, beam_options=("--runner=DirectRunner",)))
    assert result(found) == result(built)
    assert [path.name for path in (tmp_path / "datasets").glob("*.tmp*")] == []


def test_a_failure_of_beam_is_one_line() -> None:
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    run = write.beam_workers([])
    with pytest.raises(StorageError, match=r"Apache Beam: .*shelf is empty"):
        run(broken, ["a"], "work")


def broken(shard: str) -> int:
    raise DataError("the shelf is empty")


def test_beam_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"install ecomgpt_jax\[beam\]"):
        write.beam_workers(["--runner=DirectRunner"])


def test_an_error_in_a_process_comes_back_as_it_is() -> None:
    with write.processes(2) as run, pytest.raises(DataError, match="the shelf is empty"):
        run(broken, ["a", "b"], "work")


LONG = 900  # seconds after which a process that waits for ever is a failure
SCRIPT = """
from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct.ecom_instruct import build

data = DataConfig(cache_dir={cache!r}, synthetic_records=20, instances_per_task=3, workers=2)
{guard}print("built", build(data).stats["totals"]["tasks"])
"""


@pytest.mark.parametrize("guarded", [False, True])
def test_a_script_without_a_main_guard_is_told_to_write_one(tmp_path: Path, guarded: bool) -> None:
    script, guard = tmp_path / "script.py", 'if __name__ == "__main__":\n    ' if guarded else ""
    script.write_text(SCRIPT.format(cache=str(tmp_path / "cache"), guard=guard))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=LONG
    )
    if guarded:
        assert done.stdout.startswith("built "), done.stderr
        return
    assert done.stderr.splitlines()[-1].endswith(f"ConfigError: {write._NO_GUARD}")
    assert 'if __name__ == "__main__":' in write._NO_GUARD
    assert done.stderr.count("Traceback") == 1, "the processes that were started are silent"
    assert done.returncode == 1


def test_a_process_that_is_killed_is_named() -> None:
    with write.processes(2) as run, pytest.raises(StorageError, match="ended from outside"):
        run(killed, ["a", "b"], "work")


def killed(shard: str) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_what_repeats_an_earlier_shard_stays_out(tmp_path: Path) -> None:
    text = "The kettle boils quickly and looks good, and after two weeks the lid still closes."
    for shard in ("a", "b"):
        record = LabelledText(id=f"{shard}1", group=shard, language="en", text=text, labels={})
        other = LabelledText(
            id=f"{shard}2", group=f"{shard}2", language="en", text=f"All about {shard * 20}", labels={}
        )
        records = [other, record]
        ids = [each.id for each in records]
        write.write_sketch(tmp_path, shard, ids, duplicates.sketch(shard, records))
    assert write.find_duplicates(["a", "b"], tmp_path) == {"a": {}, "b": {"b1": "exact duplicate of another source"}}


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
    assert write.allocate({"a": 20, "b": 80, "c": 150, "d": 0}, 100, temperature, {}, 1) == expected


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1, {"a": 8, "b": 8, "c": 8, "d": 8, "e": 8}),  # as many as they are
        (0, {"a": 5, "b": 5, "c": 5, "d": 5, "e": 20}),  # a half for each group
        (2, {"a": 7, "b": 7, "c": 7, "d": 6, "e": 13}),  # weights 2 and 1
        (0.5, {"a": 10, "b": 10, "c": 9, "d": 9, "e": 2}),  # weights 16 and 1
    ],
)
def test_shares_of_families(temperature: float, expected: dict[str, int]) -> None:
    groups = {"a": "CLS", "b": "CLS", "c": "CLS", "d": "CLS", "e": "NER"}
    sizes = dict.fromkeys(groups, 1000)
    assert write.allocate(sizes, 40, 0, groups, temperature) == expected
    small = write.allocate(sizes | {"e": 10}, 40, 0, groups, 0)
    assert small == {"a": 8, "b": 8, "c": 7, "d": 7, "e": 10}, "a family with too few gives all it has"
    weighted = write.allocate({"a": 100, "b": 300, "c": 100}, 40, 1, {"a": "CLS", "b": "CLS", "c": "NER"}, 0)
    assert weighted == {"a": 5, "b": 15, "c": 20}, "within a family by the tasks' weights"


@pytest.mark.parametrize("of_groups", [1, 3, 0.01])
def test_shares_where_a_power_is_no_float(of_groups: float) -> None:
    sizes = {"a": 20000, "b": 19900, "c": 900, "d": 700}
    groups = {"a": "x", "b": "x", "c": "y", "d": "z"}
    one_by_one = {"a": 20000, "b": 19900, "c": 900, "d": 500}
    assert write.allocate(sizes, 41300, 0.01, groups, of_groups) == one_by_one, "the largest first"
    if of_groups == 1:
        assert write.allocate(sizes, 100, 0.01, groups, 1) == {"a": 62, "b": 38, "c": 0, "d": 0}  # 1 and 0.995 ** 100
    tiny = write.allocate({"a": 20000, "b": 300, "c": 200}, 20400, 0.001, groups | {"b": "y"}, 1)
    assert tiny == {"a": 20000, "b": 300, "c": 100}
    assert write.allocate({"a": 20000, "b": 300}, 100, 1.0, {"a": "x", "b": "y"}, 0.01) == {"a": 100, "b": 0}


def test_shares_always_make_the_total() -> None:
    sizes = {f"t{i}": i * i % 37 for i in range(1, 30)}
    for total in (1, 7, 100, sum(sizes.values())):
        for temperature, of_groups in ((0, 1), (1, 0), (3.5, 2)):
            shares = write.allocate(sizes, total, temperature, {name: name[:2] for name in sizes}, of_groups)
            assert sum(shares.values()) == total
            assert all(share <= sizes[name] for name, share in shares.items())
    with pytest.raises(ConfigError, match="total_instances=9999"):
        write.allocate(sizes, 9999, 0, {}, 1)
