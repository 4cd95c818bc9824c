import numpy as np
import pytest
import tiny_tasks
from tiny_tasks import Part

from ecomgpt_jax.evaluation.corrected_scores import (
    chrf,
    class_scores,
    corrected_scores,
    interval,
    rouge_l,
    row_statistics,
    score_rows,
    token_f1,
    tokens,
)
from ecomgpt_jax.instruct.records import Span
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, format_entities, gold_answer


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


def test_class_scores_by_hand() -> None:
    found = class_scores(*tiny_tasks.TOPICS, ["Price.", "Colour, Size, Size", "Blue", " Price "])
    assert found == {
        "Colour": {"f1": pytest.approx(2 / 3), "gold": 2, "said": 1, "right": 1},
        "Price": {"f1": 1.0, "gold": 2, "said": 2, "right": 2},
        "Size": {"f1": pytest.approx(2 / 3), "gold": 1, "said": 2, "right": 1},
    }


def test_every_score_has_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(0)
    for task, rows in tiny_tasks.ALL:
        rows = rows * 40
        golds = [gold_answer(task, row) for row in rows]
        answers = [gold if rng.random() < 0.6 else golds[0] + "x" for gold in golds]
        statistics = row_statistics(task, rows, answers)
        scores = corrected_scores(task, rows, answers)
        assert set(statistics) == set(scores) - {"score-low", "score-high"}
        for name, ratios in statistics.items():
            low, high = interval(ratios)
            assert low <= scores[name] <= high, (task.name, name)
            assert low < high or scores[name] in (0, 1), (task.name, name)


def test_a_class_that_a_resample_lacks_is_left_out() -> None:
    ratios = np.array([[[2.0, 2.0], [0.0, 0.0]]] * 5 + [[[0.0, 0.0], [0.0, 2.0]]])
    low, high = interval(ratios)
    assert (low, high) == (0.5, 1.0)


def test_format_errors_are_judged_by_the_candidates_that_were_shown() -> None:
    task, rows = tiny_tasks.TOPICS
    golds = [gold_answer(task, row) for row in rows]
    assert corrected_scores(task, rows, golds)["format-error-rate"] == 0
    assert corrected_scores(task, rows, golds, [("Size",)] * len(rows))["format-error-rate"] == 1


def test_entity_f1_equals_seqeval() -> None:
    """On entities that stand once in their sentence, (type, term) pairs are spans."""
    seqeval = pytest.importorskip("seqeval.metrics")
    rng, kinds = np.random.default_rng(1), ("Brand", "Part")
    task = TaskFolder("EN-Made-NER-n", "d", "{sentences}{label_set}", {"default": kinds})
    words = [f"word{number}" for number in range(12)]
    rows, answers, tags = [], [], ([], [])
    for _ in range(60):
        picked = [[(rng.choice(kinds), word) for word in words if rng.random() < 0.3] for _ in range(2)]
        rows.append(TaskRow(" ".join(words), spans=tuple(Span(0, 0, str(kind), word) for kind, word in picked[0])))
        answers.append(format_entities(task, picked[1]))
        for side, entities in zip(tags, picked, strict=True):
            kind_of = {word: kind for kind, word in entities}
            side.append([f"B-{kind_of[word]}" if word in kind_of else "O" for word in words])
    found = corrected_scores(task, rows, answers)
    assert found["score"] == pytest.approx(seqeval.f1_score(*tags))
    assert found["macro-f1"] == pytest.approx(seqeval.f1_score(*tags, average="macro"))
    assert 0.1 < found["score"] < 0.9


def test_chrf_equals_sacrebleu() -> None:
    metric = pytest.importorskip("sacrebleu.metrics").CHRF()
    pairs = [
        ("红色纯棉上衣", "红色 纯棉 上衣2021"), ("a blue shirt for men", "blue shirts, men"), ("x", "x"),
        ("ab", "abcdefgh"), ("completely other", "红色"), ("夏季新款连衣裙女士长裙", "新款女士夏季连衣长裙"),
    ]  # fmt: skip
    for answer, gold in pairs:
        assert chrf(answer, gold) == pytest.approx(metric.sentence_score(answer, [gold]).score / 100, abs=1e-9)
