import numpy as np
import pytest
import tiny_tasks
from tiny_tasks import Part

from ecomgpt_jax.evaluation.corrected_scores import (
    chrf,
    corrected_scores,
    interval,
    rouge_l,
    score_rows,
    token_f1,
    tokens,
)
from ecomgpt_jax.instruct.task_folder import gold_answer


def test_classification_by_hand() -> None:
    found = corrected_scores(*tiny_tasks.TOPICS, ["Price.", "Colour, Size, Size", "Blue", " Price "])
    assert found["score"] == pytest.approx(2 * 4 / (6 + 5))
    assert found["exact-match"] == pytest.approx(2 / 4)
    # Price 1; Size: 1 hit, 2 said, 1 gold; Colour: 1 hit, 1 said, 2 gold.
    assert found["macro-f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert found["format-error-rate"] == pytest.approx(2 / 4)


def test_entities_by_hand() -> None:
    found = corrected_scores(
        *tiny_tasks.PARTS, ["Brand: Acme\nPart: chuck", "Brand: None\nPart: None", "Brand: Acme\nsome words"]
    )
    assert found["score"] == pytest.approx(2 * 2 / (3 + 5))
    assert found["macro-f1"] == pytest.approx((2 * 2 / (2 + 3) + 0) / 2)
    assert found["exact-match"] == pytest.approx(1 / 3)
    assert found["format-error-rate"] == pytest.approx(1 / 3)


def test_extraction_by_hand() -> None:
    found = corrected_scores(*tiny_tasks.VALUES, ["纯棉, 红色.", "蓝", "毛巾"])
    assert found["score"] == pytest.approx(2 * 3 / (4 + 4))
    assert found["exact-match"] == pytest.approx(2 / 3)
    assert found["token-f1"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["format-error-rate"] == pytest.approx(1 / 3)


def test_generation_by_hand() -> None:
    found = corrected_scores(*tiny_tasks.TITLES, ["红色上衣", "蓝色 上衣"])
    assert found["score"] == pytest.approx((2 * 4 / (4 + 7) + 1) / 2)
    assert found["exact-match"] == 0.5
    assert 0 < found["chrf"] < 1


def test_tokens_are_characters_and_words() -> None:
    assert tokens("红色T恤, iPhone 13!") == ["红", "色", "t", "恤", "iphone", "13"]
    assert token_f1("red big box", "the big red box") == pytest.approx(6 / 7)
    assert rouge_l("red big box", "the big red box") == pytest.approx(4 / 7)


def test_chrf_by_hand() -> None:
    # Orders 1 and 2: P = 2/2 and 1/1, R = 2/3 and 1/2, so P = 1 and R = 7/12.
    assert chrf("ab", "a b c") == pytest.approx(5 * (7 / 12) / (4 + 7 / 12))
    assert chrf("", "") == 1
    assert chrf("", "a") == chrf("b", "a") == 0


@pytest.mark.parametrize("part", tiny_tasks.ALL, ids=lambda part: part[0].name)
def test_gold_is_perfect_and_hostile_answers_stay_in_range(part: Part) -> None:
    task, rows = part
    found = corrected_scores(task, rows, [gold_answer(task, row) for row in rows])
    assert {name: value for name, value in found.items() if value != (name != "format-error-rate")} == {}
    for answer in tiny_tasks.HOSTILE:
        found = corrected_scores(task, rows, [answer] * len(rows))
        assert all(0 <= value <= 1 for value in found.values())
        assert found["score"] < 0.7


def test_interval_holds_the_score_narrows_with_rows_and_repeats() -> None:
    rng = np.random.default_rng(3)
    small, large = (np.stack([rng.random(rows) < 0.6, np.ones(rows)], axis=1).astype(float) for rows in (50, 5000))
    low, high = interval(small)
    assert low < small[:, 0].mean() < high
    assert interval(small) == (low, high)
    narrow = interval(large)
    assert narrow[1] - narrow[0] < (high - low) / 5
    # A mean of 5000 coin flips: 1.96 standard errors on each side.
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * (0.24 / 5000) ** 0.5, rel=0.1)


def test_the_score_is_the_ratio_of_row_sums() -> None:
    predictions = ["Price.", "Colour", "Blue", ""]
    ratios = score_rows(*tiny_tasks.TOPICS, predictions)
    assert ratios.shape == (4, 2)
    assert corrected_scores(*tiny_tasks.TOPICS, predictions)["score"] == ratios[:, 0].sum() / ratios[:, 1].sum()
