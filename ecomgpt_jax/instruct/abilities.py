"""The ability graph: which atomic abilities each task uses, and how many tasks reuse the abilities of atomic tasks.

Every form names the abilities that it needs (`Form.abilities`). The atomic tasks that the Chain-of-Task operators
derive train one or two of them; base and held-out tasks combine several.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Ability:
    """One node of the graph, with the names of its tasks.

    Attributes:
      name: the ability.
      atomic: atomic tasks that use it.
      base: base tasks that use it.
      held_out: held-out tasks that use it.
      atomic_rows: training rows of the atomic tasks.
      base_rows: training rows of the base tasks.
    """

    name: str
    atomic: tuple[str, ...]
    base: tuple[str, ...]
    held_out: tuple[str, ...]
    atomic_rows: int
    base_rows: int

    @property
    def reused(self) -> int:
        """Number of base and held-out tasks that use the ability."""
        return len(self.base) + len(self.held_out)


def ability_graph(tasks: Mapping[str, Mapping[str, Any]]) -> list[Ability]:
    """Returns the abilities, most reused first.

    Args:
      tasks: the "tasks" of a data set's statistics: {name: {"operator", "held_out", "train"} and, if known,
        "abilities"}.
    """
    graph = []
    for name in sorted({ability for entry in tasks.values() for ability in entry.get("abilities", ())}):
        users = {task: entry for task, entry in tasks.items() if name in entry.get("abilities", ())}
        held_out = tuple(task for task, entry in users.items() if entry["held_out"])
        atomic = tuple(task for task, entry in users.items() if entry["operator"] and not entry["held_out"])
        base = tuple(task for task, entry in users.items() if not entry["operator"] and not entry["held_out"])
        rows = (sum(users[task]["train"] for task in part) for part in (atomic, base))
        graph.append(Ability(name, atomic, base, held_out, *rows))
    return sorted(graph, key=lambda ability: (-ability.reused, ability.name))


def kind_of(task: str) -> str:
    """Returns the last part of a task's name, without a number at its end."""
    return re.sub(r"_\d+$", "", task.split("-", 3)[-1])


def links(graph: list[Ability]) -> dict[tuple[str, str], int]:
    """Returns how many base and held-out tasks of each kind use each ability: {(ability, kind): tasks}."""
    return dict(collections.Counter((a.name, kind_of(task)) for a in graph for task in (*a.base, *a.held_out)))
