"""Shapes of decoding, derived from the prompts' lengths: padded lengths, groups of prompts that are read together."""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIN_ROWS = 8  # products with fewer rows use kernels that round differently
GRANULE = 32  # lengths are multiples of this, so that different prompts use the same programs
_BUCKETS = 6  # prompt lengths that prefill is compiled for
_CACHE_LENGTHS = 3  # cache lengths that a step is compiled for
_LITTLE_WASTE = 1.1  # maximum ratio of padded to real tokens in prefill
_CAPACITIES = 8  # number of sizes of a packed row that are compared


class Group(NamedTuple):
    """Prompts that are read together, and the shape of the program for them.

    Attributes:
      rows: the prompts of each packed row, as indices in a list of all prompts.
      tokens: of a packed row.
      room: maximum number of prompts of a packed row.
      bucket: padded length in attention.
    """

    rows: list[list[int]]
    tokens: int
    room: int
    bucket: int

    def members(self) -> list[int | None]:
        """Returns the prompt in each row of the result."""
        return [place for row in self.rows for place in (*row, *[None] * (self.room - len(row)))]


def round_up(size: int, unit: int) -> int:
    """Returns the smallest multiple of `unit` that is at least `size`."""
    return -(-size // unit) * unit


def smallest(choices: Sequence[int], need: int) -> int:
    """Returns the first of ascending `choices` that is at least `need`."""
    return next(choice for choice in choices if choice >= need)


def bucket_lengths(lengths: Sequence[int], count: int = _BUCKETS, granule: int = GRANULE) -> list[int]:
    """Returns padded lengths, ascending, for these lengths: multiples of `granule` that waste little padding.

    As few as keep the number of padded tokens within a tenth of the minimum, and at most `count`; the best ones are
    found by dynamic programming over the distinct lengths.
    """
    sizes, weights = np.unique([round_up(length, granule) for length in lengths], return_counts=True)
    before = np.concatenate([[0], np.cumsum(weights)])
    # cost[j]: fewest padded tokens with the first j sizes covered; picks[j]: the buckets that reach it.
    cost, picks = np.where(before == 0, 0.0, np.inf), [[] for _ in before]
    for _ in range(count):
        reach = [
            min((cost[i] + sizes[j - 1] * (before[j] - before[i]), i) for i in range(j)) for j in range(1, len(before))
        ]
        picks = [[], *([*picks[i], int(sizes[j])] for j, (_, i) in enumerate(reach))]
        cost = np.array([0.0, *(total for total, _ in reach)])
        if cost[-1] <= _LITTLE_WASTE * (sizes * weights).sum():
            break
    return picks[-1]


def cache_lengths(buckets: Sequence[int], width: int, count: int = _CACHE_LENGTHS) -> list[int]:
    """Returns at most `count` cache lengths, ascending, for prompts of these padded lengths and `width` new tokens.

    The longest fits every prompt; each shorter one saves at least a quarter of the next longer one.
    """
    lengths = [buckets[-1] + width]
    for bucket in reversed(buckets):
        if len(lengths) < count and bucket + width <= 0.75 * lengths[0]:
            lengths.insert(0, bucket + width)
    return lengths


def tail_sizes(batch: int, shards: int) -> list[int]:
    """Returns the numbers of slots, descending, for decoding the last prompts: halves, at least 8."""
    sizes = [batch]
    while (half := round_up(max(MIN_ROWS, sizes[-1] // 2), shards)) < sizes[-1]:
        sizes.append(half)
    return sizes[1:]


def _pack(lengths: Sequence[int], tokens: int, most: int, shards: int) -> list[list[list[int]]]:
    """Distributes prompts to groups of `shards` rows with at most `tokens` tokens and `most` prompts each.

    The emptiest row gets the longest prompt that fits, so a group ends with a few shorter ones.
    """
    groups: list[list[list[int]]] = []
    left, sizes = list(range(len(lengths)))[::-1], list(lengths)[::-1]  # shortest first
    while left:
        rows, room = [[] for _ in range(shards)], [tokens] * shards
        while True:
            row = max(range(shards), key=room.__getitem__)
            fits = bisect.bisect_right(sizes, room[row])
            if not fits or len(rows[row]) == most:
                break
            rows[row].append(left.pop(fits - 1))
            room[row] -= sizes.pop(fits - 1)
        groups.append(rows)
    return groups


def plan_groups(lengths: Sequence[int], buckets: Sequence[int], group: int, most: int, shards: int) -> list[Group]:
    """Plans the groups in which prompts are read; the size of a packed row is the one with the least padding.

    Args:
      lengths: of the prompts, descending, at least one.
      buckets: padded lengths, ascending; each has one shape.
      group: approximate number of prompts of mean length that are read together.
      most: prompts per packed row.
      shards: packed rows per group.

    Returns:
      The groups; the first has the longest prompt.
    """
    least = max(lengths[0], math.ceil(min(group * sum(lengths) / len(lengths), sum(lengths)) / shards))
    sizes = {round_up(least * (_CAPACITIES + i) // _CAPACITIES, GRANULE) for i in range(_CAPACITIES)}
    dealt = {size: _pack(lengths, size, most, shards) for size in sizes}
    tokens = min(sizes, key=lambda size: (size * len(dealt[size]), size))
    fits = [smallest(buckets, lengths[rows[0][0]]) for rows in dealt[tokens]]
    room = dict.fromkeys(buckets, 1)
    for bucket, rows in zip(fits, dealt[tokens], strict=True):
        room[bucket] = max(room[bucket], *map(len, rows))
    unit = max(1, MIN_ROWS // shards)
    return [
        Group(rows, tokens, max(room[bucket], unit), bucket) for bucket, rows in zip(fits, dealt[tokens], strict=True)
    ]
