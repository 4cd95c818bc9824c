"""No interval narrows where rows ask about an input that other rows ask about."""

import dataclasses

import numpy as np
import pytest

from ecomgpt_jax.evaluation import ablation
from ecomgpt_jax.evaluation.comparison import compare_predictions
from ecomgpt_jax.evaluation.corrected_scores import score_rows
from ecomgpt_jax.evaluation.distinct_inputs import sum_by_input, tasks_sharing_inputs
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.evaluation.scores import score_task
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow

LABELS = ("red", "blue", "green")
RIGHT = np.random.default_rng(0).random((2, 200)) < [[0.6], [0.5]]  # of model A and of model B


def task(name: str, repeats: int = 1, inputs: str = "input") -> TaskPrompts:
    """200 inputs, each in `repeats` rows, the repeats after all others."""
    folder = TaskFolder(f"EN-Made-CLS-{name}", "colour", "{sentences}{label_set}", {"default": LABELS})
    rows = tuple(TaskRow(f"{inputs} {i}", {"default": (LABELS[i % 3],)}) for i in range(200)) * repeats
    return TaskPrompts(folder, rows, tuple(row.sentences for row in rows), tuple(LABELS[i % 3] for i in range(200)))


def answers(part: TaskPrompts, model: int) -> list[str]:
    golds = [row.labels["default"][0] for row in part.rows]
    return [gold if RIGHT[model, i % 200] else "black" for i, gold in enumerate(golds)]


def compared(*parts: TaskPrompts) -> dict:
    return compare_predictions(parts, *({part.task.name: answers(part, model) for part in parts} for model in (0, 1)))


def width(entry: dict) -> float:
    return entry["high"] - entry["low"]


def test_sums_stand_in_the_order_of_the_first_rows() -> None:
    values = np.arange(8.0).reshape(4, 2)
    assert sum_by_input(values, ["b", "a", "b", "c"]).tolist() == [[4, 6], [2, 3], [6, 7]]
    assert sum_by_input(values, list("dcba")).tolist() == values.tolist()


def test_tasks_that_share_inputs_through_others_are_in_one_group() -> None:
    shared = {"a": ["1", "2"], "b": ["3"], "c": ["2", "4"], "d": ["5"], "e": ["4", "3"]}
    assert tasks_sharing_inputs(shared) == [["d"], ["a", "c", "b", "e"]]


def test_evaluate_gives_a_doubled_file_the_same_intervals() -> None:
    once, twice = (score_task(part, answers(part, 0)) for part in (task("t"), task("t", 2)))
    assert twice["rows"] == 2 * once["rows"]
    assert set(once["intervals"]) == {"score", "exact-match", "macro-f1", "format-error-rate"}
    for name, interval in once["intervals"].items():
        assert twice["intervals"][name] == pytest.approx(interval)
    assert np.ptp(once["intervals"]["score"]) == pytest.approx(2 * 1.96 * (0.24 / 200) ** 0.5, rel=0.15)


def test_compare_gives_a_doubled_file_the_same_interval_and_p_values() -> None:
    once, twice = (compared(part)["tasks"]["EN-Made-CLS-t"] for part in (task("t"), task("t", 2)))
    assert (once["rows"], once["inputs"], twice["rows"], twice["inputs"]) == (200, 200, 400, 200)
    for name in ("low", "high", "p"):
        assert twice[name] == pytest.approx(once[name])
    assert twice["mcnemar"] == once["mcnemar"]


def test_compare_counts_an_input_once_over_tasks() -> None:
    """The average of two tasks that ask the same of the same inputs is no surer than one of them."""
    one, same, other = (compared(task("a"), *more)["average"] for more in ((), (task("b"),), (task("b", 1, "x"),)))
    assert (one["inputs"], same["inputs"], other["inputs"]) == (200, 200, 400)
    assert width(same) == pytest.approx(width(one), rel=0.1)
    assert same["p"] == pytest.approx(one["p"], rel=0.3)
    assert width(other) == pytest.approx(width(one) / 2**0.5, rel=0.1)


def test_compare_weighs_a_task_that_shares_some_inputs_by_its_own() -> None:
    """Of one group of tasks, the small one is drawn in few resamples; all differences stay in range."""
    small = task("b")
    small = dataclasses.replace(small, rows=small.rows[:2], prompts=small.prompts[:2])
    result = compared(task("a"), small)["average"]
    assert result["inputs"] == 200
    assert -1 <= result["low"] < result["difference"] < result["high"] <= 1


def test_an_experiment_counts_an_input_once() -> None:
    def average(*parts: TaskPrompts) -> dict:
        ratios = {part.task.name: [score_rows(part.task, part.rows, answers(part, 0))] for part in parts}
        inputs = {part.task.name: [row.sentences for row in part.rows] for part in parts}
        return ablation.summarise(["v"], ratios, [0], inputs)["variants"]["v"]["average"]

    one = average(task("a"))
    assert average(task("a", 2)) == pytest.approx(one)
    assert width(average(task("a"), task("b"))) == pytest.approx(width(one), rel=0.1)
    assert width(average(task("a"), task("b", 1, "x"))) == pytest.approx(width(one) / 2**0.5, rel=0.1)
