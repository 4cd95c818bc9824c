"""The unit of resampling: a distinct input, with all its rows.

Rows that share an input are not independent. The official tasks have 6,500 rows over 5,471 distinct inputs: some occur
twice in a task, and two pairs of tasks have the same texts.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def number_inputs(inputs: Iterable[str]) -> dict[str, int]:
    """Returns the number of each distinct input, from 0, in the order of their first rows."""
    return {text: index for index, text in enumerate(dict.fromkeys(inputs))}


def sum_by_input(values: np.ndarray, inputs: Sequence[str]) -> np.ndarray:
    """Returns the sums of `values` [rows, ...] over the rows of each distinct input, by its first row."""
    order = number_inputs(inputs)
    sums = np.zeros((len(order), *values.shape[1:]))
    np.add.at(sums, [order[text] for text in inputs], values)
    return sums


def tasks_sharing_inputs(inputs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Returns groups of tasks: tasks that share an input, directly or through others, are in one group."""
    groups: list[tuple[list[str], set[str]]] = []
    for task, texts in inputs.items():
        names, union = [task], set(texts)
        for group in [group for group in groups if not union.isdisjoint(group[1])]:
            groups.remove(group)
            names, union = [*group[0], *names], union | group[1]
        groups.append((names, union))
    return [names for names, _ in groups]
