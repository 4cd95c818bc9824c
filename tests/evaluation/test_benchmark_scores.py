"""Official scores against an independent reading of the published scorers, in their own steps, and known figures."""

import importlib.util
import math
import random
import re
from collections import defaultdict

import pytest
import shopping_oracle as shopping_oracle_rules

from ecomgpt_jax.evaluation.benchmark_scores import official
from ecomgpt_jax.evaluation.corrected_scores import corrected_scores, score_rows
from ecomgpt_jax.instruct.benchmarks import TRUTH
from ecomgpt_jax.instruct.records import Span
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow

ANSWERS = ("yes", "no", "Yes ", "maybe", "", "yes.", "A", "B: x", "C", " D", "E", "Answer: B", "b", "A,A", "a good one")


def task(metric: str, labels: tuple[str, ...] = (), separator: str = ",", family: str = "CLS") -> TaskFolder:
    sets = {"default": labels} if labels else {}
    return TaskFolder(f"EN-Bench-{family}-t", "", "{sentences}", sets, "default", separator, metric=metric)


def choices(golds: list[str]) -> list[TaskRow]:
    return [TaskRow("q", {"default": (gold,), TRUTH: (gold,)}) for gold in golds]


def lists(truths: list[list], golds: list[list] | None = None) -> list[TaskRow]:
    golds = golds or truths
    return [
        TaskRow("q", {"default": tuple(map(str, gold)), TRUTH: tuple(map(str, truth))})
        for gold, truth in zip(golds, truths, strict=True)
    ]


def macro_f1(golds: list[str], said: list[str]) -> float:
    """The mean over labels that occur of the harmonic mean of precision and recall, 0 where either is undefined."""
    table: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])  # right, said, gold
    for gold, one in zip(golds, said, strict=True):
        table[gold][2] += 1
        table[one][1] += 1
        table[gold][0] += gold == one
    values = []
    for right, out, wanted in table.values():
        precision, recall = right / out if out else 0, right / wanted if wanted else 0
        values.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    return sum(values) / len(values)


def letters_oracle(golds: list[str], answers: list[str]) -> tuple[float, float, int] | None:
    kept, labels, skipped = [], [], 0
    for gold, answer in zip(golds, answers, strict=True):
        text = answer.strip()
        if text == "":
            return None  # the first character of nothing
        if text[0] in {"A", "B", "C", "D", "E"}:
            kept.append(text[0])
            labels.append(gold[0])
        else:
            skipped += 1
    if not kept:
        return None
    return macro_f1(labels, kept), sum(map(str.__eq__, labels, kept)) / len(kept), skipped


def yes_no_oracle(golds: list[str], answers: list[str]) -> tuple[float, float, int] | None:
    pairs = [(g, a.lower().strip()) for g, a in zip(golds, answers, strict=True) if a.lower().strip() in {"yes", "no"}]
    counts = {kind: pairs.count(kind) for kind in (("yes", "yes"), ("no", "yes"), ("yes", "no"), ("no", "no"))}
    if len({x for pair in pairs for x in pair}) < 2:
        return None  # the confusion matrix has one cell
    hit, false, missed = counts["yes", "yes"], counts["no", "yes"], counts["yes", "no"]
    precision, recall = hit / (hit + false) if hit + false else 0, hit / (hit + missed) if hit + missed else 0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    return f1, (hit + counts["no", "no"]) / len(pairs), len(golds) - len(pairs)


@pytest.mark.parametrize("seed", range(40))
def test_ecinstruct_against_the_oracle(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice((1, 2, 5, 30))
    answers = [rng.choice(ANSWERS[:6] if seed % 4 == 0 else ANSWERS) for _ in range(size)]
    if seed % 2:
        answers = [answer or "F" for answer in answers]
    for metric, labels, oracle in (
        ("ecinstruct:letter", ("A", "B", "C", "D"), letters_oracle),
        ("ecinstruct:yes_no", ("yes", "no"), yes_no_oracle),
    ):
        golds = [rng.choice(labels) for _ in range(size)]
        found, wanted = official(task(metric, labels), choices(golds), answers), oracle(golds, answers)
        if wanted is None:
            assert found["score"] is None
            assert "raises" in found["reason"]
        else:
            assert (found["score"], found["accuracy"]) == pytest.approx(wanted[:2], abs=1e-12)
            assert found["invalid"] == wanted[2]


def test_letters_that_are_no_option_count_officially_and_not_in_the_corrected_score() -> None:
    letters, rows = task("ecinstruct:letter", ("A", "B", "C", "D")), choices(["A", "B", "C", "D"])
    assert official(letters, rows, ["A", "B", "C", "E"])["score"] == pytest.approx(0.6)
    assert corrected_scores(letters, rows, ["A", "B", "C", "E"])["macro-f1"] == pytest.approx(0.75)
    assert official(letters, rows, ["Answer: B"] * 4)["accuracy"] == 0.25  # read as A
    assert corrected_scores(letters, rows, ["Answer: B"] * 4)["exact-match"] == 0.25  # read as B
    dropped = official(letters, rows, ["A", "x", "x", "x"])
    assert dropped["score"] == 1.0
    assert corrected_scores(letters, rows, ["A", "x", "x", "x"])["exact-match"] == 0.25


SHOPPING_ANSWERS = {
    "accuracy": ("0", "1", " 2", "3 ", "12", "\n1", "\t1", "B", "", "  ", "1\n2", "the 1", "01"),
    "hit rate@3": ("1,2,3", "4, 5,1", "1,1,1,2", "x,2,9", "", "\n3,1", "1\n,2", "1\n2,3",
                   "-1,+2", "9 8", "2.0,1", ",,3"),
    "ndcg": ("1,2,3", "3,2,1", "1,1,1", "0,2,3", "", "x", "4,1", "\n2,1\n3", "2,1,3,1,1", "-1,1", " 3 ,x, 1", "2\n1",
             "-9"),
    "micro f1": ("red", "Red, blue", "red,red", "red, ,", "", "\nblue", "green\nred", " red ,BLUE ", ",",
                 "red;blue", " "),
    "rougel": ("red shoe", "shoe red", "red red red", "", "box of tea", "Red shoes, box!", "tea\nbox of", "of", "..."),
    "bleu": ("red shoe in a box", "Red shoe in a bag", "red red red red red", "", "red shoe", "\na red shoe in box\nx",
             "tea of a big box red shoe in a box", "tea of two cup pot"),
}  # fmt: skip
SHOPPING_TRUTHS = {
    "accuracy": ("0", "1", "2"),
    "hit rate@3": ([1, 2, 3], [4], [5, 1]),
    "ndcg": ([1.0, 0.1, 0.0], [3, 0, 1], [0, 0.5, 1, 0], [0, 0]),
    "micro f1": (["red"], ["Red", "blue"], ["tea box"]),
    "rougel": ("red shoe", "a box of tea"),
    "bleu": ("red shoe in a box", "a red shoe in the big box"),
}


def shopping_oracle(kind: str, answers: list[str], truths: list) -> float | None:
    """What the published scorer says of these rows; None where it raises or gives nan."""
    by_row = {
        "accuracy": shopping_oracle_rules.first_letter,
        "hit rate@3": shopping_oracle_rules.hit_at_3,
        "ndcg": shopping_oracle_rules.ndcg,
        "rougel": lambda said, gold: shopping_oracle_rules.rouge_l(re.sub("[^a-z]", " ", said.lower()), gold),
        "bleu": shopping_oracle_rules.bleu,
    }
    try:
        if kind == "micro f1":
            return shopping_oracle_rules.list_f1(answers, truths)
        values = [by_row[kind](answer, truth) for answer, truth in zip(answers, truths, strict=True)]
    except shopping_oracle_rules.Raises:
        return None
    return None if any(map(math.isnan, values)) else sum(values) / len(values)


@pytest.mark.parametrize("kind", SHOPPING_ANSWERS)
def test_shopping_mmlu_against_the_oracle(kind: str) -> None:
    if kind in ("rougel", "bleu"):
        pytest.importorskip("rouge_score" if kind == "rougel" else "sacrebleu")
    rng, scores = random.Random(kind), []
    every = [([answer], [truth]) for answer in SHOPPING_ANSWERS[kind] for truth in SHOPPING_TRUTHS[kind]]
    drawn = [zip(*rng.choices([(a[0], t[0]) for a, t in every], k=size), strict=True) for size in (2, 5, 30) * 10]
    for answers, truths in [*every, *(map(list, pair) for pair in drawn)]:
        if kind in ("rougel", "bleu"):
            rows = [TaskRow("q", spans=(Span(0, 0, "", truth),)) for truth in truths]
        else:
            rows = lists([truth if isinstance(truth, list) else [truth] for truth in truths])
        family = "Generate" if kind in ("rougel", "bleu") else "CLS"
        found = official(task(f"shopping_mmlu:{kind}", family=family), rows, answers)
        wanted = shopping_oracle(kind, answers, truths)
        assert found["score"] == (None if wanted is None else pytest.approx(wanted, abs=1e-9)), (answers, truths)
        scores.append(wanted)
    assert {0.0, 1.0} < {round(score, 9) for score in scores if score is not None}
    assert (None in scores) == (kind in ("ndcg", "micro f1"))


@pytest.mark.parametrize(
    ("said", "weights", "theirs", "ours"),
    [
        ("1,1,1", [3, 0, 0], 2.130930, 1.0),
        ("0,2,3", [3, 0, 1], 0.196568, None),
        ("3,1", [1.0, 0.1, 0], None, None),
        ("", [1, 0], 0.0, 0.0),
        ("2,1\n1,2", [0, 1], 1.0, 1.0),
    ],
)
def test_ndcg(said: str, weights: list[float], theirs: float | None, ours: float | None) -> None:
    ranking, rows = task("shopping_mmlu:ndcg"), lists([weights], [["1"]])
    found = official(ranking, rows, [said])["score"]
    if theirs is not None:
        assert found == pytest.approx(theirs, abs=1e-6)
    value = float(score_rows(ranking, rows, [said])[0, 0])
    assert 0 <= value <= 1
    assert ours is None or value == pytest.approx(ours)


def test_ndcg_where_the_scorer_fails() -> None:
    ranking = task("shopping_mmlu:ndcg")
    assert "raises" in official(ranking, lists([[1, 0]], [["1"]]), ["-9"])["reason"]
    assert "nan" in official(ranking, lists([[0, 0]], [["1"]]), ["1"])["reason"]
    assert score_rows(ranking, lists([[0, 0]], [["1"]]), ["1"])[0, 0] == 1


def test_first_character_accuracy_strips_blanks_alone() -> None:
    numbers, rows = task("shopping_mmlu:accuracy", ("0", "1", "2", "3")), choices(["1"] * 5)
    said = ["1", " 1", "\n1", "12", ""]
    assert official(numbers, rows, said)["score"] == pytest.approx(3 / 5)
    assert corrected_scores(numbers, rows, said)["exact-match"] == pytest.approx(3 / 5)  # the line feed, not the 12


def test_hit_rate_takes_the_first_three_numbers() -> None:
    hits, rows = task("shopping_mmlu:hit rate@3"), lists([[1, 4, 5]])
    assert official(hits, rows, ["1, 1, 1, 4"])["score"] == pytest.approx(1 / 3)
    assert score_rows(hits, rows, ["1, 1, 1, 4"])[0, 0] == pytest.approx(2 / 3)
    assert official(hits, rows, ["x, 4,5,1"])["score"] == 1.0


def test_list_f1_counts_repeated_and_blank_items_as_false() -> None:
    items, rows = task("shopping_mmlu:micro f1"), lists([["red"]])
    assert official(items, rows, ["red, Red"])["score"] == pytest.approx(2 / 3)
    assert corrected_scores(items, rows, ["red, Red"])["score"] == 1.0
    assert official(items, rows, ["red, ,"])["score"] == pytest.approx(2 / 3)
    assert "raises" in official(items, rows, [""])["reason"]
    assert corrected_scores(items, rows, [""])["score"] == 0.0


def test_texts() -> None:
    rows = [TaskRow("q", spans=(Span(0, 0, "", "好"),))]
    for kind, package in (("rougel", "rouge_score"), ("bleu", "sacrebleu")):
        found = official(task(f"shopping_mmlu:{kind}", family="Generate"), rows, ["好"])
        if importlib.util.find_spec(package) is None:
            assert package in found["reason"]
        elif kind == "rougel":
            assert found["score"] == 0.0  # no Latin letter, no token
        assert corrected_scores(task(f"shopping_mmlu:{kind}", family="Generate"), rows, ["好"])["score"] == 1.0
    for metric in ("shopping_mmlu:sent-transformer", "shopping_mmlu:jp-bleu", "chinese_ecom_qa:text"):
        assert official(task(metric, family="Generate"), rows, ["好"])["score"] is None
    several = [TaskRow("q", spans=(Span(0, 0, "", "a b"), Span(0, 0, "", "c d")))]
    assert (
        score_rows(task("shopping_mmlu:sent-transformer", separator="\n", family="Generate"), several, ["c d"])[0, 0]
        == 1
    )


def test_an_oracle_would_notice_a_dropped_row() -> None:
    assert letters_oracle(["A", "B"], ["A", "x"]) != letters_oracle(["A", "B"], ["A", "A"])
    assert math.isclose(macro_f1(["A", "B"], ["A", "A"]), 1 / 3)
