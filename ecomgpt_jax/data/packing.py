"""The packing plan: which instances share a row, computed offline from their lengths alone (no jax).

Best-fit decreasing inside shuffled windows: an instance goes into the fullest row that has room for it. On
EcomInstruct's lengths rows of 1024 are filled above 98.5 %; packing one by one in arrival order reaches 87 %.
"""

import dataclasses

import numpy as np
import tqdm

WINDOW = 4096  # instances packed together; a larger window fills rows better and shuffles less


@dataclasses.dataclass(frozen=True)
class Plan:
    """Row r holds the instances `members[starts[r]:starts[r + 1]]`, in that order.

    Attributes:
      starts: [rows + 1] int64.
      members: [instances] int64, each instance once.
    """

    starts: np.ndarray
    members: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> np.ndarray:
        """Returns the instances of one row."""
        return self.members[self.starts[index] : self.starts[index + 1]]


def _pack_window(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, list[int]]:
    """Packs by best-fit decreasing; ties keep their order.

    Returns:
      The positions into `lengths` in the order in which they are placed, and the row, from 0, that each is placed in.
    """
    rows: list[int] = []
    made = 0
    # waiting[room] lists the rows with that much room; bit `room` of `open_rooms` is set if it is not empty.
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0
    order = np.argsort(-lengths, kind="stable")
    for length in lengths[order].tolist():
        fitting = open_rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = waiting[room].pop()
            if not waiting[room]:
                open_rooms &= ~(1 << room)
        else:
            room, row = capacity, made
            made += 1
        rows.append(row)
        if room > length:
            waiting[room - length].append(row)
            open_rooms |= 1 << (room - length)
    return order, rows


def plan_epoch(lengths: np.ndarray, capacity: int, seed: int, packing: bool = True) -> Plan:
    """Plans one pass over all instances.

    Args:
      lengths: [instances] positions that each instance takes, 1..capacity.
      capacity: positions in a row.
      seed: shuffles the instances into windows and the rows of the plan.
      packing: if False, every instance has a separate row.

    Raises:
      ValueError: a length is outside 1..capacity.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(f"lengths must be within 1..{capacity}, not {lengths.min()}..{lengths.max()}")
    random = np.random.Generator(np.random.PCG64(seed))
    order = random.permutation(len(lengths))
    if not packing:
        return Plan(np.arange(len(order) + 1, dtype=np.int64), order)
    members, row_of = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
    rows = 0
    for start in tqdm.trange(0, len(order), WINDOW, desc="pack", unit="window", disable=None, delay=2):
        window = slice(start, start + WINDOW)
        placed, placed_in = _pack_window(lengths[order[window]], capacity)
        members[window] = order[window][placed]
        row_of[window] = np.add(placed_in, rows)
        rows += max(placed_in) + 1
    row_of = np.argsort(random.permutation(rows))[row_of]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row_of, minlength=rows))])
    return Plan(starts, members[np.argsort(row_of, kind="stable")])


def plan_epochs(lengths: np.ndarray, capacity: int, epochs: int, seed: int, packing: bool = True) -> Plan:
    """Plans several passes, each shuffled differently; all rows of an epoch precede those of the next."""
    plans = [plan_epoch(lengths, capacity, seed * 1_000_003 + epoch, packing) for epoch in range(epochs)]
    offsets = np.cumsum([0, *(len(plan.members) for plan in plans)])
    starts = [plan.starts[:-1] + offset for plan, offset in zip(plans, offsets, strict=False)]
    return Plan(np.concatenate([*starts, offsets[-1:]]), np.concatenate([plan.members for plan in plans]))


def fill(plan: Plan, lengths: np.ndarray, capacity: int) -> float:
    """Returns the share of positions in use."""
    return float(np.asarray(lengths)[plan.members].sum() / max(1, len(plan) * capacity))
