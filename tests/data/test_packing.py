import time

import numpy as np
import pytest

from ecomgpt_jax.data import packing

LENGTHS = np.clip(np.random.default_rng(0).lognormal(5.1, 0.7, 20_000).astype(int), 5, 1024)


@pytest.mark.parametrize("packing_on", [True, False])
def test_every_instance_is_in_one_row_that_holds_it(packing_on: bool) -> None:
    plan = packing.plan_epoch(LENGTHS, 1024, seed=1, packing=packing_on)
    assert sorted(plan.members.tolist()) == list(range(len(LENGTHS)))
    used = np.add.reduceat(LENGTHS[plan.members], plan.starts[:-1])
    assert used.max() <= 1024
    assert len(plan) == len(LENGTHS) if not packing_on else len(plan) < len(LENGTHS) / 4


def test_rows_are_full_and_planning_is_fast() -> None:
    start = time.process_time()
    plan = packing.plan_epoch(LENGTHS, 1024, seed=0)
    seconds = time.process_time() - start
    assert packing.fill(plan, LENGTHS, 1024) > 0.985
    assert len(LENGTHS) / seconds > 100_000
    one_each = packing.plan_epoch(LENGTHS, 1024, seed=0, packing=False)
    assert packing.fill(one_each, LENGTHS, 1024) < 0.3


def test_the_seed_alone_decides_the_plan() -> None:
    first, again, other = (packing.plan_epoch(LENGTHS, 1024, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.members, again.members)
    assert np.array_equal(first.starts, again.starts)
    assert not np.array_equal(first.members, other.members)


def test_rows_come_in_no_order_of_length() -> None:
    plan = packing.plan_epoch(LENGTHS, 1024, seed=0)
    heads = LENGTHS[plan.members[plan.starts[:-1]]]
    assert abs(heads[: len(heads) // 2].mean() / heads[len(heads) // 2 :].mean() - 1) < 0.1


def test_epochs_follow_each_other_and_differ() -> None:
    lengths = LENGTHS[:500]
    plan = packing.plan_epochs(lengths, 1024, epochs=3, seed=0)
    thirds = plan.members.reshape(3, 500)
    for third in thirds:
        assert sorted(third.tolist()) == list(range(500))
    assert not np.array_equal(thirds[0], thirds[1])
    assert plan.starts[-1] == 1500
    assert np.concatenate([plan.row(row) for row in range(len(plan))]).tolist() == plan.members.tolist()


def test_exact_fits_are_found() -> None:
    plan = packing.plan_epoch(np.array([6, 4, 7, 3, 5, 5, 10]), 10, seed=0)
    assert len(plan) == 4


@pytest.mark.parametrize("lengths", [[0, 3], [3, 11]])
def test_lengths_out_of_range_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"1\.\.10"):
        packing.plan_epoch(np.array(lengths), 10, seed=0)


def test_nothing_gives_an_empty_plan() -> None:
    assert len(packing.plan_epochs(np.zeros(0, int), 10, epochs=2, seed=0)) == 0
