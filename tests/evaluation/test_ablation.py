import numpy as np
import pytest

from ecomgpt_jax.evaluation import ablation


def binary(shares: list[float], rows: int = 400) -> list[np.ndarray]:
    """One run a share: the first rows right, each row worth one."""
    return [np.stack([np.arange(rows) < share * rows, np.ones(rows)], 1).astype(float) for share in shares]


def test_the_seen_scores_are_means_over_runs_and_the_average_counts_each_task_once() -> None:
    ratios = {"b": binary([0.2, 0.4, 0.5]), "a": binary([0.6, 0.8, 0.9], 100)}
    result = ablation.summarise(["one", "two"], ratios, [0, 0, 1], groups={"en": ["a"]})["variants"]
    assert result["one"]["tasks"]["b"]["value"] == pytest.approx(0.3)
    assert result["one"]["average"]["value"] == pytest.approx((0.3 + 0.7) / 2)
    assert result["two"]["difference"]["value"] == pytest.approx(0.7 - 0.5)
    assert result["one"]["groups"]["en"]["value"] == pytest.approx(0.7)
    assert "difference" not in result["one"]


def test_intervals_cover_rows_and_seeds() -> None:
    same_rows = ablation.summarise(["a"], {"t": binary([0.5])}, [0])["variants"]["a"]["average"]
    # One run of 400 rows at one half: 1.96 * sqrt(0.25 / 400) = 0.049 to each side.
    assert same_rows["high"] - same_rows["low"] == pytest.approx(0.098, abs=0.012)
    spread = ablation.summarise(["a"], {"t": binary([0.2, 0.5, 0.8])}, [0, 0, 0])["variants"]["a"]["average"]
    assert spread["high"] - spread["low"] > 0.4  # the seeds differ more than rows do


def test_variants_are_paired_over_rows() -> None:
    ratios = {"t": binary([0.50, 0.48])}
    result = ablation.summarise(["a", "b"], ratios, [0, 1])["variants"]
    difference = result["b"]["difference"]
    assert difference["high"] < 0  # 8 rows of 400 lost and none won; unpaired it would be 0.07 to each side
    assert difference["low"] > -0.05


def test_a_known_trend_is_found_and_noise_is_not() -> None:
    shares = [0.2, 0.3, 0.4, 0.25, 0.35, 0.45]
    factors = {str(i): {"log2 tasks": float(i % 3), "log2 size": float(i // 3)} for i in range(6)}
    fit = ablation.summarise([str(i) for i in range(6)], {"t": binary(shares)}, range(6), factors)["trend"]
    assert fit["log2 tasks"]["value"] == pytest.approx(0.1)
    assert fit["log2 size"]["value"] == pytest.approx(0.05)
    assert fit["log2 tasks"]["low"] > 0
    rng = np.random.default_rng(0)
    flat = {"t": [np.stack([rng.random(400) < 0.4, np.ones(400)], 1).astype(float) for _ in range(6)]}
    fit = ablation.summarise([str(i) for i in range(6)], flat, range(6), factors)["trend"]
    assert fit["log2 tasks"]["low"] < 0 < fit["log2 tasks"]["high"]


def test_factors_that_cannot_be_told_apart_give_no_trend() -> None:
    factors = {"a": {"x": 0.0, "y": 1.0}, "b": {"x": 1.0, "y": 2.0}}
    assert ablation.summarise(["a", "b"], {"t": binary([0.1, 0.2])}, [0, 1], factors)["trend"] == {}


def test_rows_without_anything_to_find_count_as_right() -> None:
    empty = [np.zeros((10, 2))]
    assert ablation.summarise(["a"], {"t": empty}, [0])["variants"]["a"]["average"]["value"] == 1


def test_the_page_has_a_row_a_variant_and_one_a_task() -> None:
    summary = ablation.summarise(["all", "less"], {"t": binary([0.5, 0.25])}, [0, 1], groups={"en": ["t"]})
    page = ablation.markdown("cot", "Does it help?", summary, ["a caveat"])
    assert "| less | 25.0 [" in page
    assert "| -25.0 [" in page
    assert "| t | 50.0 [" in page
    assert page.endswith("- a caveat\n")
