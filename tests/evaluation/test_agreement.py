import numpy as np
import pytest

from ecomgpt_jax.evaluation.agreement import bootstrap_interval, cohen_kappa, fleiss_kappa, krippendorff_alpha


def counted(columns: list[str]) -> np.ndarray:
    """Returns counts by item and category from one string per annotator, "." for a missing judgement."""
    items = [[int(mark) for mark in item if mark != "."] for item in zip(*columns, strict=True)]
    return np.array([np.bincount(item, minlength=6) for item in items])


def test_cohen_by_hand() -> None:
    # 20 both yes, 5 yes-no, 10 no-yes, 15 both no: p_o = 35/50; p_e = (25*30 + 25*20) / 50^2 = 0.5; (0.7-0.5)/0.5
    first = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(first, first) == 1
    assert cohen_kappa([0, 1], [1, 0]) == -1


def test_cohen_uses_each_annotators_own_shares() -> None:
    # Categories 0, 1, 2 with shares 2 1 1 and 1 1 2: p_e = (2*1 + 1*1 + 1*2) / 16; p_o = 12/16, then 8/16.
    assert cohen_kappa([0, 0, 1, 2], [0, 2, 1, 2]) == pytest.approx((12 - 5) / (16 - 5))
    assert cohen_kappa([0, 0, 1, 2], [0, 1, 2, 2]) == pytest.approx((8 - 5) / (16 - 5))


def test_fleiss_of_the_textbook() -> None:
    # Ten patients, 14 psychiatrists, five diagnoses: p_o = 0.378, p_e = 0.213, kappa = 0.210.
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_by_hand() -> None:
    # Two items of three votes, (2, 1) and (0, 3): p_o = (2/6 + 6/6) / 2 = 2/3; shares 1/3, 2/3, p_e = 5/9.
    assert fleiss_kappa(np.array([[2, 1], [0, 3]])) == pytest.approx((2 / 3 - 5 / 9) / (4 / 9))
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa(np.array([[2, 1], [0, 2]]))


def test_krippendorff_of_two_observers_by_hand() -> None:
    # Ten items, six in agreement; 14 zeros and 6 ones: 1 - D_e = (14*13 + 6*5) / (20*19) = 212/380.
    counts = counted(["0100000010", "1110010000"])
    assert krippendorff_alpha(counts) == pytest.approx((0.6 - 212 / 380) / (1 - 212 / 380))
    assert krippendorff_alpha(counts) == pytest.approx(0.095, abs=5e-4)


def test_krippendorff_with_missing_judgements_of_the_textbook() -> None:
    # Four observers, twelve units: the last has one judgement and does not count; 40 values, alpha = 0.743.
    counts = counted(["123321412...", "1233224125.3", ".3332342251.", "12332441251."])
    assert counts[counts.sum(1) > 1].sum() == 40
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(counts) == krippendorff_alpha(counts[:-1])


def test_nothing_to_compare_is_none() -> None:
    assert cohen_kappa([], []) is fleiss_kappa(np.zeros((0, 3))) is krippendorff_alpha(np.zeros((0, 3))) is None
    assert krippendorff_alpha(np.array([[1, 0], [0, 1]])) is None
    assert cohen_kappa([1, 1], [1, 1]) is fleiss_kappa(np.array([[2, 0]])) is None
    assert krippendorff_alpha(np.array([[2, 0], [3, 0]])) is None


def test_chance_is_zero() -> None:
    votes = np.random.default_rng(0).integers(0, 3, (4000, 3))
    counts = np.array([np.bincount(row, minlength=3) for row in votes])
    assert abs(cohen_kappa(votes[:, 0], votes[:, 1])) < 0.05
    assert abs(fleiss_kappa(counts)) < 0.03
    assert krippendorff_alpha(counts) == pytest.approx(fleiss_kappa(counts), abs=1e-3)


def test_interval_holds_the_value_and_skips_what_is_undefined() -> None:
    values = np.random.default_rng(1).normal(5, 1, 400)
    low, high = bootstrap_interval(lambda picks: float(values[picks].mean()), 400)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_interval(lambda picks: None, 5) is None
    assert bootstrap_interval(lambda picks: 1.0, 0) is None
    assert bootstrap_interval(lambda picks: 1.0 if picks[0] else None, 5) == (1.0, 1.0)
