import dataclasses

import numpy as np
import pytest
import tiny_tasks
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tiny_tasks import Part

from ecomgpt_jax.evaluation.corrected_scores import (
    _value,
    chrf,
    class_scores,
    corrected_scores,
    input_statistics,
    interval,
    rouge_l,
    score_rows,
    token_f1,
    tokens,
)
from ecomgpt_jax.instruct.records import Span
from ecomgpt_jax.instruct.task_folder import FAMILIES, TaskFolder, TaskRow, format_entities, gold_answer


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
        rows = [dataclasses.replace(row, sentences=f"{row.sentences} {i}") for i in range(40) for row in rows]
        golds = [gold_answer(task, row) for row in rows]
        answers = [gold if rng.random() < 0.6 else golds[0] + "x" for gold in golds]
        statistics = input_statistics(task, rows, answers)
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


def test_labels_that_hold_their_separator_are_labels() -> None:
    labels = ("Clothing, Shoes & Jewelry", "Home & Kitchen", "Clothing, Bags", "Toys")
    task = TaskFolder("EN-Shop-CLS-group", "d", "{sentences}{label_set}", {"default": labels})
    rows = [tiny_tasks.labelled("x", *picked) for picked in (labels[:1], labels[1:2], (labels[2], labels[3]))]
    golds = [gold_answer(task, row) for row in rows]
    assert corrected_scores(task, rows, golds)["format-error-rate"] == 0
    found = corrected_scores(task, rows, ["Clothing, Bags", "Clothing", golds[2] + "."])
    assert found["score"] == pytest.approx(2 * 2 / (4 + 4))
    assert found["exact-match"] == pytest.approx(1 / 3)
    assert found["format-error-rate"] == pytest.approx(1 / 3)  # "Clothing" alone is no label
    classes = class_scores(task, rows, golds)
    assert {name: scores["f1"] for name, scores in classes.items()} == dict.fromkeys(labels, 1.0)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("👍", ""), ("!!!", ""), ("⭐⭐⭐", "🙂"), ("。", "！"), (".", ""), ("。", "."), (" ", ""), ("👍", "red"),
     ("red", "👍"), ("《》", "「」"), ("—", "-")],
)  # fmt: skip
def test_answers_with_nothing_in_common_never_score(gold: str, answer: str) -> None:
    assert rouge_l(answer, gold) == token_f1(answer, gold) == chrf(answer, gold) == 0
    assert rouge_l(gold, gold) == token_f1(gold, gold) == chrf(gold, gold) == 1
    for family in ("Generate", "Extract", "Condition_Extract"):
        task, row = TaskFolder(f"EN-A-{family}-a", "", ""), TaskRow(gold, spans=(Span(0, 0, "", gold),))
        found = corrected_scores(task, [row], [answer])
        assert {value for name, value in found.items() if name != "format-error-rate"} == {0.0}
        assert corrected_scores(task, [row], [gold])["exact-match"] == 1


def test_a_task_without_entities_is_right_only_where_the_answer_says_so() -> None:
    task, rows = tiny_tasks.PARTS[0], [tiny_tasks.PARTS[1][1]] * 2
    assert corrected_scores(task, rows, ["Brand: None\nPart: None", "None"])["score"] == 1
    half = corrected_scores(task, rows, ["Brand: None\nPart: None", "🙂"])
    assert (half["score"], half["exact-match"]) == (0, 0.5)
    assert corrected_scores(task, rows, ["", "Brand"]) | {"format-error-rate": 0} == {
        "score": 0, "score-low": 0, "score-high": 0, "exact-match": 0, "macro-f1": 0, "format-error-rate": 0
    }  # fmt: skip


def test_types_may_hold_colons_and_lines_end_at_line_feeds_alone() -> None:
    kinds = ("size", "size:EU", "brand ")
    task = TaskFolder("EN-Shop-NER-a", "d", "{sentences}{label_set}", {"default": kinds})
    spans = (Span(0, 0, "size:EU", "42"), Span(0, 0, "size", "L: wide"), Span(0, 0, "brand ", "Oak\u2028moor"))
    row = TaskRow("x", spans=spans)
    gold = corrected_scores(task, [row], [gold_answer(task, row)])
    assert (gold["score"], gold["format-error-rate"]) == (1, 0)
    found = corrected_scores(task, [row], ["size: 42\nsize:EU: L: wide\nbrand: Oak"])
    assert (found["score"], found["format-error-rate"]) == (0, 0)
    assert corrected_scores(task, [row], ["size: 1\nsize: 2"])["format-error-rate"] == 1


def test_labels_that_differ_little_are_different() -> None:
    labels = ("Price", "price", "Co.", "Co", "3", "3.5", "yes ")
    task = TaskFolder("EN-Shop-CLS-a", "d", "{sentences}{label_set}", {"default": labels})
    rows = [tiny_tasks.labelled("x", label) for label in labels]
    golds = [gold_answer(task, row) for row in rows]
    assert corrected_scores(task, rows, golds)["format-error-rate"] == 0
    assert corrected_scores(task, rows, golds[1:] + golds[:1])["score"] == 0
    assert corrected_scores(task, rows, [f" {gold} " for gold in golds])["score"] == 1


def test_a_label_that_the_gold_answer_repeats_may_be_repeated() -> None:
    task = tiny_tasks.TOPICS[0]
    rows = [tiny_tasks.labelled("x", "Size", "Size"), tiny_tasks.labelled("x", "Size")]
    found = corrected_scores(task, rows, ["Size, Size", "Size, Size"])
    assert (found["score"], found["format-error-rate"]) == (pytest.approx(2 * 3 / (4 + 3)), 0.5)


TEXTS = st.text(max_size=8) | st.lists(st.sampled_from(["a", "b", ", ", ":", ".", " ", "None", "1"])).map("".join)
NAMES = TEXTS.map(lambda text: text.replace("\n", ""))


@st.composite
def labelled_tasks(draw: st.DrawFn) -> tuple[TaskFolder, list[TaskRow]]:
    family = draw(st.sampled_from(FAMILIES))
    labels = tuple(draw(st.lists(NAMES, min_size=1, max_size=5)))
    separator = draw(st.sampled_from([", ", "; ", "#", ",,", " "]))
    task = TaskFolder(f"EN-A-{family}-a", "", "{sentences}", {"default": labels}, separator=separator)
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        if family == "CLS":
            rows.append(TaskRow("x", {"default": tuple(draw(st.lists(st.sampled_from(labels), min_size=1)))}))
        else:
            found = draw(st.lists(st.tuples(st.sampled_from(labels), NAMES), max_size=4))
            rows.append(TaskRow("x", spans=tuple(Span(0, 0, kind, term) for kind, term in found)))
    return task, rows


def values(task: TaskFolder, rows: list[TaskRow], answers: list[str]) -> dict[str, float]:
    """The corrected scores without their intervals, which are slow; format errors are no score."""
    statistics = input_statistics(task, rows, answers)
    del statistics["format-error-rate"]
    return {name: float(_value(ratios.sum(0))) for name, ratios in statistics.items()}


@given(labelled_tasks())
@examples(max_examples=150, deadline=None)
def test_gold_against_gold_is_1(part: tuple[TaskFolder, list[TaskRow]]) -> None:
    task, rows = part
    found = values(task, rows, [gold_answer(task, row) for row in rows])
    assert found == dict.fromkeys(found, pytest.approx(1.0))


@given(labelled_tasks(), st.data())
@examples(max_examples=150, deadline=None)
def test_an_answer_that_shares_no_character_with_gold_is_0(
    part: tuple[TaskFolder, list[TaskRow]], data: st.DataObject
) -> None:
    task, rows = part
    golds = [gold_answer(task, row) for row in rows]
    assume(all(golds))  # an empty answer is right where the gold answer is empty
    used = {case for text in golds for case in (*text, *text.lower(), *text.upper())}
    common = st.sampled_from([c for c in "🙂!。xyzXYZ0 \n:,.\u2028" if c not in used] or ["🙂"])
    answer = data.draw(st.text(common | st.characters(exclude_characters=used), max_size=6))
    assume(not used & {*answer, *answer.lower(), *answer.upper()})
    found = values(task, rows, [answer] * len(rows))
    assert found == dict.fromkeys(found, 0.0)
