"""The packing plan: which instances share which row, decided once, offline, from their lengths alone (no jax).

Best-fit decreasing inside shuffled windows: an instance goes to the row with the least room that still holds it. On
EcomInstruct's lengths rows of 1024 are filled above 98.5 %; packing one by one in arrival order reaches 87 %.
"""

import dataclasses

import numpy as np
import tqdm

WINDOW = 4096  # instances packed together; larger fills better and shuffles less


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


def _pack_window(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Returns rows of positions into `lengths`, best fit decreasing; ties keep their order."""
    rows: list[list[int]] = []
    # waiting[room] lists the rows with that much room; bit `room` of `open_rooms` says that the list is not empty.
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0
    order = np.argsort(-lengths, kind="stable")
    for position, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = open_rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            index = waiting[room].pop()
            if not waiting[room]:
                open_rooms &= ~(1 << room)
            rows[index].append(position)
        else:
            room, index = capacity, len(rows)
            rows.append([position])
        if room > length:
            waiting[room - length].append(index)
            open_rooms |= 1 << (room - length)
    return rows


def plan_epoch(lengths: np.ndarray, capacity: int, seed: int, packing: bool = True) -> Plan:
    """Plans one pass over all instances.

    Args:
      lengths: [instances] positions that each instance takes, 1..capacity.
      capacity: positions in a row.
      seed: shuffles the instances into windows and the rows of the plan.
      packing: False gives every instance its own row.

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
    rows: list[np.ndarray] = []
    for start in tqdm.trange(0, len(order), WINDOW, desc="pack", unit="window", disable=None, delay=2):
        window = order[start : start + WINDOW]
        rows.extend(window[row] for row in _pack_window(lengths[window], capacity))
    shuffled = [rows[index] for index in random.permutation(len(rows))]
    sizes = np.fromiter((len(row) for row in shuffled), np.int64, len(shuffled))
    members = np.concatenate(shuffled) if shuffled else np.zeros(0, np.int64)
    return Plan(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), members)


def plan_epochs(lengths: np.ndarray, capacity: int, epochs: int, seed: int, packing: bool = True) -> Plan:
    """Plans several passes, each with its own shuffle; an epoch's rows all come before the next one's."""
    plans = [plan_epoch(lengths, capacity, seed * 1_000_003 + epoch, packing) for epoch in range(epochs)]
    offsets = np.cumsum([0, *(len(plan.members) for plan in plans)])
    starts = [plan.starts[:-1] + offset for plan, offset in zip(plans, offsets, strict=False)]
    return Plan(np.concatenate([*starts, offsets[-1:]]), np.concatenate([plan.members for plan in plans]))


def fill(plan: Plan, lengths: np.ndarray, capacity: int) -> float:
    """Returns the share of positions in use."""
    return float(np.asarray(lengths)[plan.members].sum() / max(1, len(plan) * capacity))
