import html
import re

import numpy as np
import pytest
import tiny_tasks

from ecomgpt_jax.evaluation.comparison import (
    SHOWN_ROWS,
    compare_losses,
    compare_predictions,
    comparison_sections,
    holm,
    interval_and_p,
    mcnemar,
    most_different,
    paired_bootstrap,
    sign_test,
)
from ecomgpt_jax.evaluation.page import render_html, render_markdown
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, gold_answer

LABELS = tuple("abcdefgh")
EVIL = "</td><script>alert(1)</script>"


def labels_task(name: str, rows: int) -> TaskPrompts:
    task = TaskFolder(f"EN-Made-CLS-{name}", "topic", "{sentences}{label_set}", {"default": LABELS})
    made = tuple(TaskRow(f"{name} {i}", {"default": (LABELS[i % 8],)}) for i in range(rows))
    return TaskPrompts(task, made, tuple(row.sentences for row in made), tuple(gold_answer(task, row) for row in made))


def answers(part: TaskPrompts, right: np.ndarray) -> list[str]:
    return [gold if good else "wrong" for gold, good in zip(part.golds, right, strict=True)]


def one_or_zero(right: np.ndarray) -> np.ndarray:
    return np.stack([right.astype(float), np.ones(len(right))], axis=1)


def planted(rows: int, shared: int, only_a: int, only_b: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that A and B have right: `shared` both, the others as given; in a seeded order."""
    order = np.random.default_rng(seed).permutation(rows)
    a, b = order < shared + only_a, (order < shared) | (order >= rows - only_b)
    return a, b


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (3, 3, 1.0),
        (6, 1, 2 * (1 + 7) / 128),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 8, 112 / 1024),
    ],
)
def test_sign_test_is_the_binomial_sum(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == p


def test_sign_test_of_many_rows_is_the_normal_one() -> None:
    assert sign_test(5100, 4900) == pytest.approx(0.0466, abs=2e-4)  # z = 199 / 100 with continuity correction
    assert 0 < sign_test(1000, 0) < 1e-300


def test_mcnemar_counts_only_what_one_has_right() -> None:
    a = [True] * 9 + [True] * 8 + [False] * 2 + [False] * 4
    b = [True] * 9 + [False] * 8 + [True] * 2 + [False] * 4
    assert mcnemar(a, b) == (8, 2, 112 / 1024)
    assert mcnemar(b, a) == (2, 8, 112 / 1024)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last rises to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize(("shared", "only_a", "only_b"), [(300, 10, 0), (310, 12, 2), (400, 15, 5)])
def test_two_points_on_500_rows_are_found(shared: int, only_a: int, only_b: int) -> None:
    for seed in range(5):
        a, b = planted(500, shared, only_a, only_b, seed)
        difference, draws = paired_bootstrap(one_or_zero(a), one_or_zero(b), seed=(seed,))
        assert difference == pytest.approx(0.02)
        low, high, p = interval_and_p(difference, draws)
        assert 0 < low < 0.02 < high < 0.05
        assert p < 0.05


def test_two_points_are_found_among_twelve_tasks() -> None:
    """Holm over 12 tasks; no other task is reported as different."""
    parts = [labels_task(f"t{number}", 500) for number in range(12)]
    a, b = {}, {}
    for number, part in enumerate(parts):
        right_a, right_b = planted(500, 300, *((10, 0) if number == 3 else (7, 7)), seed=number)
        a[part.task.name], b[part.task.name] = answers(part, right_a), answers(part, right_b)
    result = compare_predictions(parts, a, b)
    assert result["verdicts"] == {"win": 1, "tie": 11, "loss": 0}
    found = result["tasks"]["EN-Made-CLS-t3"]
    assert found["verdict"] == "win"
    assert found["mcnemar"] == {"only_a": 10, "only_b": 0, "p": 2 / 1024, "p_holm": 12 * 2 / 1024}
    assert result["average"]["difference"] == pytest.approx(0.02 / 12)
    assert compare_predictions(parts, b, a)["verdicts"] == {"win": 0, "tie": 11, "loss": 1}


def test_losses_are_means_over_rows_with_paired_intervals() -> None:
    """B is 0.25 above A on every row of one task, whatever the rows' spread, and equal on the other."""
    parts = [labels_task(name, 200) for name in ("x", "y")]
    spread = np.random.default_rng(0).gamma(1.0, 2.0, 200)
    a = {part.task.name: spread for part in parts}
    b = {parts[0].task.name: spread + 0.25, parts[1].task.name: spread}
    result = compare_losses(parts, a, b)
    moved, still = result["tasks"].values()
    assert moved["a"] == pytest.approx(spread.mean())
    assert (moved["difference"], moved["low"], moved["high"]) == pytest.approx((-0.25, -0.25, -0.25))
    assert moved["p_holm"] < 0.01
    assert (still["difference"], still["p_holm"]) == (0, 1)
    assert result["average"]["difference"] == pytest.approx(-0.125)
    apart = compare_losses(parts, a, {name: values[::-1] for name, values in b.items()})["tasks"][parts[0].task.name]
    assert apart["high"] - apart["low"] > 0.5, "the same losses in another order are no longer paired"


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_two_halves_of_one_model_are_alike(noise: float) -> None:
    """One model with independent noise: at most 1 of 20 seeds is reported as different, by either test."""
    called = np.zeros(2, int)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = rng.random(500) < 0.6
        a, b = (model ^ (rng.random(500) < noise) for _ in range(2))
        difference, draws = paired_bootstrap(one_or_zero(a), one_or_zero(b), seed=(seed,))
        called += interval_and_p(difference, draws)[2] < 0.05, mcnemar(list(a), list(b))[2] < 0.05
    assert called.max() <= 1


def test_p_values_are_even_where_nothing_differs() -> None:
    """Without a difference p < 0.2 occurs about one time in five: the test is neither too weak nor too strong."""
    low = 0
    for seed in range(200):
        rng = np.random.default_rng([7, seed])
        a, b = rng.random((2, 300)) < 0.6
        draws = paired_bootstrap(one_or_zero(a), one_or_zero(b), seed=(seed,), resamples=1000)
        low += interval_and_p(*draws)[2] < 0.2
    assert 24 <= low <= 56  # 40 expected, sd 5.7


def test_joining_like_rows_changes_no_distribution() -> None:
    """Against the plain bootstrap over rows, and an unpaired one as control."""
    rng = np.random.default_rng(3)
    size = rng.integers(1, 4, 200)
    a, b = (np.stack([rng.integers(0, size + 1) * 2.0, 2.0 * size], axis=1) for _ in range(2))
    b[:150] = a[:150]
    difference, draws = paired_bootstrap(a, b)
    picks = rng.integers(0, 200, (4000, 200))
    plain = (a[picks].sum(1) @ [1, 0]) / (a[picks].sum(1) @ [0, 1]) - (b[picks].sum(1) @ [1, 0]) / (
        b[picks].sum(1) @ [0, 1]
    )
    assert difference == pytest.approx(a[:, 0].sum() / a[:, 1].sum() - b[:, 0].sum() / b[:, 1].sum())
    assert np.std(draws[0]) == pytest.approx(np.std(plain), rel=0.06)
    other = rng.permutation(picks)
    unpaired = a[picks, 0].sum(1) / a[picks, 1].sum(1) - b[other, 0].sum(1) / b[other, 1].sum(1)
    assert np.std(unpaired) > 1.3 * np.std(draws[0])


def test_p_is_the_exact_one_where_that_is_known() -> None:
    """With one part a row the randomisation test is the sign test; the percentiles would say 0.04 at 4 to 0."""
    for only_a, only_b in [(4, 0), (6, 1), (10, 0), (9, 9)]:
        a, b = planted(500, 300, only_a, only_b, seed=1)
        p = interval_and_p(*paired_bootstrap(one_or_zero(a), one_or_zero(b)))[2]
        exact = sign_test(only_a, only_b)
        assert p == pytest.approx(exact, abs=1e-4 + 4 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_nothing_to_find_and_nothing_said_scores_one() -> None:
    nothing, wrong = np.zeros((3, 2)), np.array([[0.0, 1.0]] * 3)
    difference, draws = paired_bootstrap(nothing, wrong)
    assert difference == 1.0
    assert (draws[0] == 1.0).all()


def world() -> tuple[list[TaskPrompts], dict, dict]:
    parts, a, b = [], {}, {}
    for task, rows in tiny_tasks.ALL:
        golds = tuple(gold_answer(task, row) for row in rows)
        parts.append(TaskPrompts(task, rows, golds, golds))
        a[task.name] = list(golds)
        b[task.name] = [*golds[:1], *[tiny_tasks.HOSTILE[i % 11] + EVIL for i in range(len(golds) - 1)]]
    return parts, a, b


def test_exchanging_a_and_b_changes_signs_and_nothing_else() -> None:
    parts, a, b = world()
    there, back = compare_predictions(parts, a, b), compare_predictions(parts, b, a)
    pairs = [(entry, back["tasks"][name]) for name, entry in there["tasks"].items()]
    for one, other in [*pairs, (there["average"], back["average"])]:
        assert (one["difference"], one["low"], one["high"]) == (-other["difference"], -other["high"], -other["low"])
        assert (one["p"], one["a"], one["b"]) == (other["p"], other["b"], other["a"])
    assert any(entry["difference"] for entry in there["tasks"].values())


def test_the_same_input_gives_the_same_result_and_tasks_do_not_disturb_each_other() -> None:
    parts, a, b = world()
    assert compare_predictions(parts, a, b) == compare_predictions(parts, a, b)
    name = parts[2].task.name
    alone, among = (compare_predictions(some, a, b)["tasks"][name] for some in (parts[2:3], parts))
    assert (alone["low"], alone["p"]) == (among["low"], among["p"])
    part = labels_task("t", 500)
    right = {part.task.name: list(part.golds)}, {part.task.name: answers(part, np.arange(500) % 50 > 0)}
    assert len({compare_predictions([part], *right, seed=seed)["average"]["p"] for seed in range(6)}) > 1


def test_a_model_against_itself_is_a_tie() -> None:
    parts, a, _ = world()
    result = compare_predictions(parts, a, a)
    assert result["verdicts"] == {"win": 0, "tie": len(parts), "loss": 0}
    assert result["average"]["p"] == 1
    assert result["average"]["low"] == result["average"]["high"] == 0
    assert all(entry["most_different"] == [] for entry in result["tasks"].values())


def test_rows_that_differ_most_come_first() -> None:
    ratios = np.array([[1, 1], [0.5, 1], [0, 1], [0, 0], [1, 1.0]])
    others = np.array([[1, 1], [0.0, 1], [1, 1], [0, 1], [1, 1.0]])
    rows = most_different("vwxyz", "abcde", "fghij", ratios, others)
    assert [row["index"] for row in rows] == [2, 3, 1]
    assert rows[0] == {"index": 2, "gold": "x", "a": "c", "b": "h", "score_a": 0, "score_b": 1}
    many = np.ones((99, 2))
    assert len(most_different("g" * 99, "a" * 99, "b" * 99, many, many * [0, 1])) == SHOWN_ROWS


def test_texts_of_models_are_escaped() -> None:
    parts, a, b = world()
    a[parts[0].task.name] = ["*" + EVIL] * 4
    result = {**compare_predictions(parts, a, b), "a_folder": EVIL, "b_folder": "b", "notes": [EVIL]}
    sections = comparison_sections(result)
    page = render_html("Comparison", sections)
    assert "<script" not in page
    assert html.escape("*" + EVIL) in page
    assert not re.search(r"https?://|src=|href=", page)
    text = render_markdown("Comparison", sections)
    assert "<script" not in text.replace("\\<", "")
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert widths == {14, 7}
