import itertools

import numpy as np
import pytest

from ecomgpt_jax.decoding import lengths as lengths_lib


def test_bucket_lengths_are_the_cheapest() -> None:
    random = np.random.RandomState(0)
    lengths = random.randint(1, 300, 40).tolist()
    sizes = sorted({-(-length // 32) * 32 for length in lengths})

    def padded(buckets: list[int]) -> int:
        return sum(min((bucket for bucket in buckets if bucket >= length), default=10**9) for length in lengths)

    found = lengths_lib.bucket_lengths(lengths, 3)
    assert len(found) == 3
    assert padded(found) == min(padded((*choice, sizes[-1])) for choice in itertools.combinations(sizes[:-1], 2))
    assert lengths_lib.bucket_lengths([5, 9, 31]) == [32]
    assert lengths_lib.bucket_lengths([1] * 1000 + [640]) == [32, 640]
    assert len(lengths_lib.bucket_lengths(range(1, 4000))) == 6


def test_cache_lengths_are_worth_it_and_take_every_prompt() -> None:
    assert lengths_lib.cache_lengths([64, 128, 800], 192) == [320, 992]
    assert lengths_lib.cache_lengths([32, 64, 96], 192) == [288]
    assert lengths_lib.cache_lengths([32, 200, 400, 800], 32) == [232, 432, 832]


def test_tails_are_halves_of_eight_rows_or_more_that_the_mesh_divides() -> None:
    assert lengths_lib.tail_sizes(64, 1) == [32, 16, 8]
    assert lengths_lib.tail_sizes(48, 16) == [32, 16]
    assert lengths_lib.tail_sizes(8, 1) == lengths_lib.tail_sizes(4, 1) == []


@pytest.mark.parametrize("shards", [1, 4])
def test_groups_hold_every_prompt_once_and_little_padding(shards: int) -> None:
    lengths = sorted(np.random.RandomState(1).randint(60, 600, 300).tolist(), reverse=True)
    buckets = lengths_lib.bucket_lengths(lengths)
    groups = lengths_lib.plan_groups(lengths, buckets, 16, 64 // shards, shards)
    members = [place for group in groups for place in group.members() if place is not None]
    assert sorted(members) == list(range(300))
    for group in groups:
        assert len(group.rows) == shards
        assert len(group.members()) == group.room * shards
        assert max(sum(lengths[place] for place in row) for row in group.rows) <= group.tokens
        assert max(map(len, group.rows)) <= min(group.room, 64 // shards)
        assert max(lengths[place] for row in group.rows for place in row) <= group.bucket
    assert len({(group.tokens, group.room, group.bucket) for group in groups}) <= len(buckets), "programs"
    assert sum(group.tokens * shards for group in groups) <= (1.05 if shards == 1 else 1.2) * sum(lengths)
    assert lengths_lib.plan_groups([5], [32], 1, 8, 1)[0].members() == [0, *[None] * 7]
