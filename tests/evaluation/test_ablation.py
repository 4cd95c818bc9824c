import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecomgpt_jax.evaluation import ablation


def summarise(variants: list[str], ratios: dict[str, list], owners: Any, *others: Any, **options: Any) -> dict:
    """The figures where each row of each task has an input of its own."""
    inputs = {task: [f"{task} {row}" for row in range(len(runs[0]))] for task, runs in ratios.items()}
    return ablation.summarise(variants, ratios, owners, inputs, *others, **options)


def binary(shares: list[float], rows: int = 400) -> list[np.ndarray]:
    """One run per share: the first rows right, each row with weight one."""
    return [np.stack([np.arange(rows) < share * rows, np.ones(rows)], 1).astype(float) for share in shares]


def test_the_seen_scores_are_means_over_runs_and_the_average_counts_each_task_once() -> None:
    ratios = {"b": binary([0.2, 0.4, 0.5]), "a": binary([0.6, 0.8, 0.9], 100)}
    result = summarise(["one", "two"], ratios, [0, 0, 1], groups={"en": ["a"]})["variants"]
    assert result["one"]["tasks"]["b"]["value"] == pytest.approx(0.3)
    assert result["one"]["average"]["value"] == pytest.approx((0.3 + 0.7) / 2)
    assert result["two"]["difference"]["value"] == pytest.approx(0.7 - 0.5)
    assert result["one"]["groups"]["en"]["value"] == pytest.approx(0.7)
    assert "difference" not in result["one"]


def test_intervals_cover_rows_and_seeds() -> None:
    same_rows = summarise(["a"], {"t": binary([0.5])}, [0])["variants"]["a"]["average"]
    # One run of 400 rows at one half: 1.96 * sqrt(0.25 / 400) = 0.049 to each side.
    assert same_rows["high"] - same_rows["low"] == pytest.approx(0.098, abs=0.012)
    spread = summarise(["a"], {"t": binary([0.2, 0.5, 0.8])}, [0, 0, 0])["variants"]["a"]["average"]
    assert spread["high"] - spread["low"] > 0.4  # the seeds differ more than rows do


def test_variants_are_paired_over_rows() -> None:
    ratios = {"t": binary([0.50, 0.48])}
    result = summarise(["a", "b"], ratios, [0, 1])["variants"]
    difference = result["b"]["difference"]
    assert difference["high"] < 0  # 8 rows of 400 lost and none won; unpaired it would be 0.07 to each side
    assert difference["low"] > -0.05


def test_a_known_trend_is_found_and_noise_is_not() -> None:
    shares = [0.2, 0.3, 0.4, 0.25, 0.35, 0.45]
    factors = {str(i): {"log2 tasks": float(i % 3), "log2 size": float(i // 3)} for i in range(6)}
    fit = summarise([str(i) for i in range(6)], {"t": binary(shares)}, range(6), factors)["trend"]
    assert fit["log2 tasks"]["value"] == pytest.approx(0.1)
    assert fit["log2 size"]["value"] == pytest.approx(0.05)
    assert fit["log2 tasks"]["low"] > 0
    rng = np.random.default_rng(0)
    flat = {"t": [np.stack([rng.random(400) < 0.4, np.ones(400)], 1).astype(float) for _ in range(6)]}
    fit = summarise([str(i) for i in range(6)], flat, range(6), factors)["trend"]
    assert fit["log2 tasks"]["low"] < 0 < fit["log2 tasks"]["high"]


def test_factors_that_cannot_be_told_apart_give_no_trend() -> None:
    factors = {"a": {"x": 0.0, "y": 1.0}, "b": {"x": 1.0, "y": 2.0}}
    assert summarise(["a", "b"], {"t": binary([0.1, 0.2])}, [0, 1], factors)["trend"] == {}


def test_rows_without_anything_to_find_count_as_right() -> None:
    empty = [np.zeros((10, 2))]
    assert summarise(["a"], {"t": empty}, [0])["variants"]["a"]["average"]["value"] == 1


def test_the_page_has_a_row_a_variant_and_one_a_task() -> None:
    summary = summarise(["all", "less"], {"t": binary([0.5, 0.25])}, [0, 1], groups={"en": ["t"]})
    page = ablation.markdown("cot", "Does it help?", summary, ["a caveat"])
    assert "| less | 25.0 [" in page
    assert "| -25.0 [" in page
    assert "| t | 50.0 [" in page
    assert page.endswith("- a caveat\n")


def test_losses_are_summed_up_beside_the_scores() -> None:
    losses = {"t": [np.full(400, 2.0), np.full(400, 1.5)], "u": [np.full(10, 4.0), np.full(10, 4.5)]}
    scores = {"t": binary([0.5, 0.25]), "u": binary([0.5, 0.25], 10)}
    factors = {"all": {"x": 0.0}, "less": {"x": 1.0}}
    summary = summarise(["all", "less"], scores, [0, 1], factors, {"en": ["t"]}, losses=losses)
    found = summary["loss"]["variants"]["less"]
    assert found["average"] == {"value": 3.0, "low": 3.0, "high": 3.0}
    assert found["tasks"]["t"]["value"] == found["groups"]["en"]["value"] == 1.5
    assert summary["loss"]["variants"]["all"]["tasks"]["u"]["value"] == 4.0
    page = ablation.markdown("cot", "Does it help?", summary, [])
    assert "| less | 3.000 [3.000, 3.000] | +0.000 [+0.000, +0.000] | 1.500 [1.500, 1.500] |" in page
    assert "| u | 4.000 [4.000, 4.000] | 4.500 [4.500, 4.500] |" in page
    assert "Loss" not in ablation.markdown("cot", "?", summarise(["a"], {"t": binary([0.5])}, [0]), [])


def test_what_falls_without_an_ability_stands_beside_what_is_declared() -> None:
    # "a" needs finding and falls without it; "b" needs comparing and falls without that; each ignores the other.
    ratios = {"a": binary([0.8, 0.3, 0.8]), "b": binary([0.6, 0.6, 0.2])}
    left_out = {"no_find": "find", "no_compare": "compare"}
    names, owners = ["all", "no_find", "no_compare"], [0, 1, 2]

    def found(uses: dict[str, tuple[str, ...]]) -> dict:
        return summarise(names, ratios, owners, left_out=left_out, uses=uses)["dependency"]

    right = found({"a": ("find",), "b": ("compare",)})
    assert np.allclose(right["change"], [[-0.5, 0], [0, -0.4]])
    assert right["declared"] == [[1, 0], [0, 1]]
    assert right["rank_correlation"]["value"] > 0.9
    wrong = {"a": ("compare",), "b": ("find",)}
    assert found(wrong)["rank_correlation"]["value"] < -0.9
    # The same harm told by losses, which rise.
    losses = {"a": [np.full(400, value) for value in (1.0, 3.0, 1.0)], "b": [np.full(400, v) for v in (2.0, 2.0, 2.5)]}
    summary = summarise(
        names, ratios, owners, left_out=left_out, uses={"a": ("find",), "b": ("compare",)}, losses=losses
    )
    assert np.allclose(summary["loss"]["dependency"]["change"], [[2.0, 0], [0, 0.5]])
    assert summary["loss"]["dependency"]["rank_correlation"]["value"] > 0.9
    page = ablation.markdown("dependency", "?", summary, [])
    assert "by score: +0.9" in page
    assert "by loss of right answers: +0.9" in page
    assert "rank_correlation" not in found({"a": ("find", "compare"), "b": ("find", "compare")})


def test_every_official_task_and_every_ability_left_out_are_known() -> None:
    official = (
        "EN-ABSA-CLS-review_topic_category", "EN-Lenovo-Condition_Extract-Condition_Extract", "EN-Lenovo-NER-NER",
        "EN-Reddit_QA-Extract-Extract_QA", "ZH-MEPAVE-Condition_Extract-attribute_value_detection",
        "ZH-MEPAVE-NER-attribute_value_extraction", "ZH-Multi_CPR-CLS-query_item_matching",
        "ZH-Multi_CPR-Extract-product_select_2", "ZH-OpenBG_Align-CLS-item_align",
        "ZH-OpenBG_Align-CLS-item_coarse_classify", "ZH-OpenBG_Align-CLS-item_fine_classify",
        "ZH-OpenBG_Align-CLS-title_attribute_matching", "ZH-OpenBG_Align-Generate-title_generate",
    )  # fmt: skip
    uses = ablation.abilities_of(official)
    assert all(uses.values())
    left_out = runpy.run_path(str(Path(__file__).parents[2] / "configs/ablations.py"))["_ABILITIES"]
    assert set(left_out) == {ability for used in uses.values() for ability in used}
    assert ablation.abilities_of(["EN-Mine-CLS-other"]) == {"EN-Mine-CLS-other": ()}
