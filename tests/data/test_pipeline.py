import dataclasses

import numpy as np
import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data.packing import Plan
from ecomgpt_jax.data.pipeline import PackedRows, batches, make_rows
from ecomgpt_jax.data.token_store import TokenStore
from ecomgpt_jax.errors import DataError


def make_store(sizes: list[tuple[int, int]]) -> TokenStore:
    """A store of (prompt, answer) token counts; the tokens are 10, 11, 12, ..."""
    offsets = np.concatenate([[0], np.cumsum([prompt + answer for prompt, answer in sizes])])
    return TokenStore(
        tokens=np.arange(10, 10 + offsets[-1], dtype=np.int32),
        offsets=offsets,
        prompt_lengths=np.array([prompt for prompt, _ in sizes], np.int32),
        fingerprint="test",
        cut_prompts=0,
        cut_answers=0,
    )


def test_a_worked_row() -> None:
    store = make_store([(3, 3), (1, 2)])
    row = PackedRows(store, Plan(np.array([0, 2]), np.array([0, 1])), length=9, rows=1)[0]
    assert row["inputs"].tolist() == [10, 11, 12, 13, 14, 16, 17, 0, 0]
    assert row["targets"].tolist() == [11, 12, 13, 14, 15, 17, 18, 0, 0]
    assert row["loss_mask"].tolist() == [False, False, True, True, True, True, True, False, False]
    assert row["segment_ids"].tolist() == [1, 1, 1, 1, 1, 2, 2, 0, 0]


def test_ends_of_sequence_neither_part_a_segment_nor_are_padding() -> None:
    """Token 2 ends each turn of a chat, and is the padding's id too."""
    tokens = np.array([5, 2, 6, 2, 7, 2], np.int32)
    store = dataclasses.replace(make_store([(2, 4)]), tokens=tokens)
    row = PackedRows(store, Plan(np.array([0, 1]), np.array([0])), length=7, rows=1)[0]
    assert row["segment_ids"].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert row["targets"][row["loss_mask"]].tolist() == [6, 2, 7, 2]


def test_loss_on_the_prompt_is_a_choice() -> None:
    plan = Plan(np.array([0, 2]), np.array([0, 1]))
    row = PackedRows(make_store([(3, 3), (1, 2)]), plan, length=9, rows=1, loss_on_prompt=True)[0]
    assert row["loss_mask"].tolist() == [True] * 7 + [False] * 2


def test_targets_of_long_answers_may_count_less() -> None:
    store, plan = make_store([(3, 3), (1, 2)]), Plan(np.array([0, 2]), np.array([0, 1]))
    plain = PackedRows(store, plan, length=9, rows=2)
    for power in (0.5, 1.0):
        rows = PackedRows(store, plan, length=9, rows=2, length_weighting=power)
        expected = [0, 0, *[3**-power] * 3, *[2**-power] * 2, 0, 0]
        np.testing.assert_allclose(rows[0]["loss_mask"], expected, rtol=1e-7)
        assert {row["loss_mask"].dtype for row in (rows[0], rows[1])} == {np.dtype(np.float32)}
        assert all(np.array_equal(rows[0][name], plain[0][name]) for name in ("inputs", "targets", "segment_ids"))
    data = DataConfig(length=9, length_weighting=1.0)
    assert make_rows(store, data, epochs=1, rows_per_step=1)[0]["loss_mask"].sum() == pytest.approx(2)


def test_an_instance_without_a_prompt_is_trained_on_from_its_second_token() -> None:
    row = PackedRows(make_store([(2, 2), (0, 3)]), Plan(np.array([0, 2]), np.array([0, 1])), length=6, rows=1)[0]
    assert row["inputs"].tolist() == [10, 11, 12, 14, 15, 0]
    assert row["loss_mask"].tolist() == [False, True, True, True, True, False]


def random_rows(rows_per_step: int, packing: bool = True) -> PackedRows:
    random = np.random.default_rng(0)
    store = make_store([(int(random.integers(1, 20)), int(random.integers(1, 8))) for _ in range(101)])
    return make_rows(store, DataConfig(length=32, packing=packing), epochs=2, rows_per_step=rows_per_step)


@pytest.mark.parametrize("packing", [True, False])
def test_every_target_is_trained_on_once_an_epoch(packing: bool) -> None:
    rows = random_rows(8, packing)
    seen = np.concatenate([row["targets"][row["loss_mask"]] for row in (rows[i] for i in range(len(rows)))])
    expected = [
        token
        for i in range(len(rows.store))
        for token in rows.store.tokens[rows.store.offsets[i] + rows.store.prompt_lengths[i] : rows.store.offsets[i + 1]]
    ]
    assert sorted(seen.tolist()) == sorted(expected * 2)


def test_the_last_step_is_filled_with_empty_rows() -> None:
    rows = random_rows(8)
    assert len(rows) % 8 == 0
    assert 0 <= len(rows) - len(rows.plan) < 8
    empty = PackedRows(rows.store, rows.plan, 32, len(rows.plan) + 1)[len(rows.plan)]
    assert not any(array.any() for array in empty.values())


@pytest.mark.parametrize("held", [[0, 1, 2, 3], [1, 4, 6], [7]])
def test_a_process_reads_its_rows_of_each_step_and_no_other(held: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, read = random_rows(8), []
    whole = list(batches(rows, 8, first_row=8))
    get = PackedRows.__getitem__
    monkeypatch.setattr(PackedRows, "__getitem__", lambda self, index: read.append(index) or get(self, index))
    part = list(batches(rows, 8, first_row=8, held=np.array(held)))
    assert len(part) == len(whole) == len(rows) // 8 - 1
    assert all(
        np.array_equal(mine[name], all_of[name][held])
        for mine, all_of in zip(part, whole, strict=True)
        for name in mine
    )
    assert sorted(read) == [step * 8 + row for step in range(1, len(rows) // 8) for row in held]


def test_resuming_skips_exactly_the_steps_done() -> None:
    rows = random_rows(8)
    whole = list(batches(rows, 8))
    for start in (0, 1, len(whole) - 1):
        rest = list(batches(rows, 8, first_row=8 * start))
        assert len(rest) == len(whole) - start
        for one, other in zip(rest, whole[start:], strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(whole[0]["inputs"], whole[1]["inputs"])


def test_no_instances_is_an_error() -> None:
    with pytest.raises(DataError, match="no training instance"):
        make_rows(make_store([]), DataConfig(length=8), epochs=1, rows_per_step=1)
