"""Takes exactly `data.total_instances` rows of a whole data set: those of the chosen tasks, shared out among them.

Of each task the first rows are taken. Rows of a task come in a seeded order that hangs on no other task, so these are
the ones that a build with a lower limit would have kept.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct import mixture, parts
from ecomgpt_jax.instruct.rows import Account, Row

PART = "sample"  # names the files of what is taken, as the name of a source names those of its part
# What chooses among the rows of a whole data set, at the values that choose nothing.
_CHOICE = {
    "tasks": (), "operators": (), "leave_out_abilities": (), "chain_of_task": True, "num_tasks": 0,
    "total_instances": 0, "temperature": 1.0,
}  # fmt: skip


def whole(data: DataConfig) -> DataConfig:
    """Returns the settings of the data set that rows are taken from."""
    return dataclasses.replace(data, **_CHOICE)


def take(
    data: DataConfig, stats: Mapping[str, Any], read: Callable[[str], Iterable[Row]], folder: Path, account: Account
) -> str:
    """Writes the rows of both splits as one part and returns its name.

    Args:
      data: the settings.
      stats: of the whole data set, see `ecom_instruct.Built`.
      read: returns the rows of one of its splits.
      folder: where the part is written, see `parts.write_rows`.
      account: gets the counts, and what the whole data set's says of its sources.

    Raises:
      ConfigError: the chosen tasks have fewer than `data.total_instances`.
    """
    known = {name: entry for name, entry in stats["tasks"].items() if not entry["held_out"]}
    own = known.keys() - set(mixture.task_names(whole(data)))
    wanted = own.union(mixture.task_names(data))
    chosen = {name: entry for name, entry in known.items() if name in wanted}
    sizes = {name: entry["train"] for name, entry in chosen.items()}
    limits = {
        "train": allocate(sizes, data.total_instances, data.temperature),
        "test": {name: entry["test"] for name, entry in chosen.items()},
    }
    for split, kept in account.rows.items():
        parts.write_rows(folder, f"{PART}.{split}", _first(read(split), limits[split], kept))
    account.own = {name: chosen[name] for name in chosen if name in own}
    account.sources, account.files = stats["sources"], stats["files"]
    account.dropped.update(stats["dropped"])
    return PART


def _first(rows: Iterable[Row], limits: Mapping[str, int], kept: collections.Counter[str]) -> Iterator[Row]:
    """Yields the first rows of each task, as many as its limit says, and counts them in `kept`."""
    for row in rows:
        if kept[row["task"]] < limits.get(row["task"], 0):
            kept[row["task"]] += 1
            yield row


def allocate(sizes: Mapping[str, int], total: int, temperature: float) -> dict[str, int]:
    """Returns how many instances each task gives so that they are `total` together.

    A task's share goes with size ** (1 / temperature), or is the same for all when that is 0. No instance is repeated:
    a task that has fewer than its share gives all it has, and the others make up for it.

    Raises:
      ConfigError: the tasks have fewer than `total` instances.
    """
    if sum(sizes.values()) < total:
        raise ConfigError(f"data.total_instances={total}, and the other settings leave {sum(sizes.values())}")
    weights = {name: size ** (1 / temperature) if temperature else 1.0 for name, size in sorted(sizes.items()) if size}
    shares: dict[str, float] = {}
    while len(shares) < len(weights):
        left = [name for name in weights if name not in shares]
        scale = (total - sum(shares.values())) / sum(weights[name] for name in left)
        small = [name for name in left if sizes[name] <= scale * weights[name]]
        shares |= {name: sizes[name] if small else scale * weights[name] for name in small or left}
    limits = {name: math.floor(share) for name, share in shares.items()}
    rest = sorted(
        (name for name in shares if limits[name] < sizes[name]), key=lambda name: (limits[name] - shares[name], name)
    )
    return limits | {name: limits[name] + 1 for name in rest[: total - sum(limits.values())]}
