import functools
import json
import os
import random
import time
from pathlib import Path

import official_oracle
import pytest
import tiny_tasks
from tiny_tasks import Part

from ecomgpt_jax.evaluation.official_scores import (
    _entities,
    common_words_length,
    entity_f1,
    official_scores,
    rouge_l,
    set_f1,
)
from ecomgpt_jax.instruct.records import Span
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, gold_answer, load_tasks, read_rows

EVAL = os.environ.get("ECOMGPT_EVAL", "")


def scores(part: Part, predictions: list[str]) -> dict[str, float]:
    return official_scores(*part, predictions)


def half_words(common: int, said: int, wanted: int) -> float:
    p, r = common / said, common / wanted
    return 2 * p * r / (p + r + 1e-8)


def test_classification_by_hand() -> None:
    # Blank -> "error"; "." dropped; a repeated label is one label; case counts.
    found = scores(tiny_tasks.TOPICS, [" Price. ", "Colour, Size, Size", "", "price"])
    assert found["micro-f1"] == pytest.approx(2 * 3 / (1 + 2 + 1 + 1 + 5))
    assert found["macro-f1"] == pytest.approx(0.5)
    # Words of the second row: {"Colour,", "Size,", "Size"} against {"Size,", "Colour"}.
    assert found["rouge-l-f1"] == pytest.approx((half_words(1, 1, 1) + half_words(1, 3, 2)) / 4, abs=1e-9)


def test_extract_loses_its_match_to_a_full_stop_and_spaces_are_stripped() -> None:
    found = scores(tiny_tasks.CHOICE, [" 紫砂 茶壶 ", "砂锅."])
    assert found["micro-f1"] == found["macro-f1"] == pytest.approx(0.5)
    assert found["rouge-l-f1"] == pytest.approx(1.0, abs=1e-7)


def test_condition_extract_throws_one_character_away_and_does_not_strip() -> None:
    gold = [gold_answer(tiny_tasks.VALUES[0], row) for row in tiny_tasks.VALUES[1]]
    assert scores(tiny_tasks.VALUES, gold)["micro-f1"] == pytest.approx(2 * 3 / (2 + 1 + 1 + 4))
    assert scores(tiny_tasks.VALUES, [" 红色, 纯棉", gold[1], gold[2]])["micro-f1"] == pytest.approx(2 * 2 / 8)


def test_generation_is_scored_on_sets_of_characters() -> None:
    found = scores(tiny_tasks.TITLES, ["衣衣红", "\n"])
    gold = len(set("红色纯棉上衣2021")), len(set("蓝色 上衣"))
    assert found["micro-f1"] == pytest.approx(2 * 2 / (2 + gold[0] + len(set("error")) + gold[1]))
    assert found["rouge-l-f1"] == 0


def test_entities_by_hand() -> None:
    gold = [gold_answer(tiny_tasks.PARTS[0], row) for row in tiny_tasks.PARTS[1]]
    assert scores(tiny_tasks.PARTS, gold)["micro-f1"] == 1
    found = scores(
        tiny_tasks.PARTS,
        ["Brand: Acme\nPart: chuck", "Part: None\nno colon", "Brand: Acme\nBrand: Bolt\nPlace: battery"],
    )
    # Brand: 3 of 3; Part: "chuck" is wrong and 2 are missed; Place: 1 said, 0 right.
    assert found["micro-f1"] == pytest.approx(2 * 3 / (5 + 5))
    assert found["macro-f1"] == pytest.approx((1 + 0 + 0) / 3)


def test_later_terms_cover_earlier_ones() -> None:
    sentence_pair = entity_f1([({("A", 0, 2), ("B", 2, 4)}, {("A", 0, 4), ("B", 2, 4)})])
    assert sentence_pair == (pytest.approx(0.5), pytest.approx(0.5))
    row = tiny_tasks.spanned("red red drill", ("Brand", "red red"), ("Part", "red drill"))
    task = tiny_tasks.PARTS[0]
    same = official_scores(task, [row], ["Brand: red red\nPart: red drill"])
    assert same["micro-f1"] == 1
    # Both "red" are entities of their own, then "red drill" covers the second.
    other = official_scores(task, [row], ["Brand: red\nPart: red drill"])
    assert other["micro-f1"] == pytest.approx(2 * 1 / (2 + 2))


def test_an_empty_term_begins_an_entity_at_every_character() -> None:
    task, row = tiny_tasks.PARTS[0], tiny_tasks.spanned("red mug", ("Brand", "red"))
    # "red" is covered again: seven entities of Part, one character each.
    assert official_scores(task, [row], ["Brand: red\nPart: mug, "])["micro-f1"] == 0
    # "mug" and "red" cover all but the blank, which stays an entity: 1 right of 3 said and 1 wanted.
    found = official_scores(task, [row], ["Part: , mug, \nBrand: red"])
    assert found["micro-f1"] == pytest.approx(2 * 1 / (3 + 1))
    assert official_scores(task, [row], ["Brand: red\nPart: "])["micro-f1"] == 1  # no term at all: the line is skipped


@pytest.mark.parametrize("label", ["yes ", "Co.", "3.5 mm"])
def test_labels_with_a_blank_at_the_end_or_a_full_stop_never_match(label: str) -> None:
    task = TaskFolder("EN-Shop-CLS-quirk", "d", "{sentences}{label_set}", {"default": (label, "no")})
    rows = [tiny_tasks.labelled("x", label), tiny_tasks.labelled("x", "no")]
    assert official_scores(task, rows, [label, "no"])["micro-f1"] == pytest.approx(1 / 2)


def noisy(task: TaskFolder, row: TaskRow, rng: random.Random) -> str:
    """A gold answer with trailing separators, repeated types, empty terms, stops and blanks."""
    gold, sep = gold_answer(task, row), task.separator
    lines = gold.split("\n")
    for _ in range(rng.randint(0, 3)):
        place = rng.randrange(len(lines))
        line, kind = lines[place], lines[place].partition(": ")[0]
        words = row.sentences.split() or [""]
        lines[place] = rng.choice(
            [line + sep, line + sep + sep, line.replace(sep, sep * 2), sep + line, line + ".", line + " ", "", ". ",
             line + sep + rng.choice(words), f"{kind}: {sep}{rng.choice(words)}", line[:-1]]
        )  # fmt: skip
        extra = [f"{kind}: {rng.choice(words)}", f"{kind}: ", kind, f"{kind}: None{sep}", f": {rng.choice(words)}"]
        lines += rng.sample(extra, rng.randint(0, 2)) if task.family == "NER" else []
    return "\n".join(lines)


def same_as_the_oracle(task: TaskFolder, rows: list[TaskRow], answers: list[str]) -> dict[str, float]:
    found, wanted = official_scores(task, rows, answers), official_oracle.official_scores(task, rows, answers)
    assert found == pytest.approx(wanted, rel=0, abs=1e-9), task.name
    return found


QUIRKY = (
    TaskFolder("EN-Own-CLS-a", "d", "{sentences}{label_set}", {"default": ("yes ", "Co.", "a, b", "a", "b", "")}),
    TaskFolder("EN-Own-Condition_Extract-b", "d", "{sentences}", {}, separator="; "),
    TaskFolder("EN-Own-NER-c", "d", "{sentences}{label_set}", {"default": ("size:EU", "size", "None", "Brand")}),
    TaskFolder("EN-Own-Extract-d", "d", "{sentences}", {}, separator="\n"),
    TaskFolder("EN-Own-Generate-e", "d", "{sentences}"),
)


def test_own_files_of_noise_score_as_the_description_reads() -> None:
    pytest.importorskip("seqeval")
    rng = random.Random(4)
    parts = [(task, list(rows) * 8) for task, rows in tiny_tasks.ALL]
    for task in QUIRKY:
        rows = []
        for _ in range(40):
            words = rng.choices(["red", "mug", "LCD", "size", "42", "a", "b", "红", "a.b", "None"], k=rng.randint(1, 9))
            spans = [Span(0, 0, rng.choice(task.labels or ("",)), rng.choice(words)) for _ in range(rng.randint(1, 4))]
            labels = {"default": tuple(rng.choices(task.labels, k=rng.randint(1, 3)))} if task.family == "CLS" else {}
            rows.append(TaskRow(" ".join(words), labels, () if labels else tuple(spans)))
        parts.append((task, rows))
    moved = 0
    for task, rows in parts:
        for _ in range(3):
            answers = [noisy(task, row, rng) for row in rows]
            found = same_as_the_oracle(task, rows, answers)
            clean = official_scores(task, rows, [gold_answer(task, row) for row in rows])
            moved += found["micro-f1"] < clean["micro-f1"] - 0.02
        same_as_the_oracle(task, rows, [gold_answer(task, row) for row in rows])
    assert moved > len(parts)  # the noise is felt


@pytest.mark.skipif(not EVAL, reason="ECOMGPT_EVAL is not set")
def test_released_rows_with_noise_score_as_the_description_reads() -> None:
    pytest.importorskip("seqeval")
    rng = random.Random(5)
    for task in load_tasks(EVAL):
        rows = read_rows(task, limit=60)
        same_as_the_oracle(task, rows, [noisy(task, row, rng) for row in rows])


@pytest.mark.skipif(not EVAL, reason="ECOMGPT_EVAL is not set")
@pytest.mark.slow
def test_the_oracle_reads_the_description_right() -> None:
    parity = Path(EVAL).parent / "parity"
    wanted = json.loads((parity / "official_scores.json").read_text(encoding="utf-8"))
    for task in load_tasks(EVAL):
        for variant, scores_of in wanted[task.name].items():
            lines = (parity / "predictions" / f"{task.name}.{variant}.jsonl").read_text(encoding="utf-8").split("\n")
            answers = [json.loads(line)["prediction"] for line in lines if line]
            found = official_oracle.official_scores(task, read_rows(task), answers)
            loose = task.name == "EN-Lenovo-NER-NER"
            for name, value in scores_of.items():
                bound = 3e-3 if loose and name != "rouge-l-f1" else 1e-6
                assert found[name] == pytest.approx(value, rel=0, abs=bound), (task.name, variant, name)


def test_no_entity_anywhere_is_zero_and_does_not_divide_by_it() -> None:
    assert entity_f1([(set(), set())]) == (0.0, 0.0)
    assert set_f1([(set(), set())]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "common", "said", "wanted"),
    [
        ("the cat sat", "the cat sat down", 3, 3, 4),
        ("a a a", "a b", 1, 1, 2),  # words count once
        ("a b. c", "c. a b", 3, 3, 3),  # sentences in any order
        ("b a", "a b", 1, 2, 2),
        ("红色上衣", "红色 上衣", 0, 1, 2),
        (". ", "x", 0, 1, 1),
    ],
)
def test_rouge_l_by_hand(hypothesis: str, reference: str, common: int, said: int, wanted: int) -> None:
    assert rouge_l(hypothesis, reference) == pytest.approx(half_words(common, said, wanted), abs=1e-12)


def test_rouge_l_equals_the_rouge_package() -> None:
    peer = pytest.importorskip("rouge").Rouge(metrics=["rouge-l"])
    rng = random.Random(0)
    for _ in range(400):
        texts = [
            "".join(rng.choice(["a ", "b ", "c", "d ", ". ", ".", "e "]) for _ in range(rng.randint(1, 25)))
            for _ in "12"
        ]
        if all(text.replace(".", "") for text in texts):
            assert rouge_l(*texts) == pytest.approx(peer.get_scores(*texts)[0]["rouge-l"]["f"], abs=1e-12), texts


def test_lcs_length_equals_the_textbook() -> None:
    @functools.lru_cache(None)
    def textbook(x: str, y: str) -> int:
        if not x or not y:
            return 0
        return textbook(x[:-1], y[:-1]) + 1 if x[-1] == y[-1] else max(textbook(x[:-1], y), textbook(x, y[:-1]))

    rng = random.Random(1)
    for _ in range(200):
        x, y = ("".join(rng.choices("abc", k=rng.randint(0, 12))) for _ in "12")
        assert common_words_length(x, y) == textbook(x, y)


@pytest.mark.parametrize("part", tiny_tasks.ALL, ids=lambda part: part[0].name)
def test_hostile_answers_are_scored_fast(part: Part) -> None:
    task, rows = part
    started = time.process_time()
    for answer in tiny_tasks.HOSTILE:
        found = official_scores(task, rows, [answer] * len(rows))
        assert all(0 <= value <= 1 for value in found.values()), answer[:20]
    assert time.process_time() - started < 5


@pytest.mark.skipif(not EVAL, reason="ECOMGPT_EVAL is not set")
@pytest.mark.parametrize("variant", ["light", "heavy"])
def test_every_figure_of_the_released_scorer(variant: str) -> None:
    parity = Path(EVAL).parent / "parity"
    wanted = json.loads((parity / "official_scores.json").read_text(encoding="utf-8"))
    tasks = load_tasks(EVAL)
    assert sorted(wanted) == [task.name for task in tasks]
    for task in tasks:
        lines = (parity / "predictions" / f"{task.name}.{variant}.jsonl").read_text(encoding="utf-8").split("\n")
        predictions = [json.loads(line)["prediction"] for line in lines if line]
        found = official_scores(task, read_rows(task), predictions)
        for name, value in wanted[task.name][variant].items():
            loose = task.name == "EN-Lenovo-NER-NER" and name != "rouge-l-f1"
            assert found[name] == pytest.approx(value, rel=0, abs=2e-3 if loose else 1e-6), (task.name, name)
        shifted = official_scores(task, read_rows(task), predictions[1:] + predictions[:1])
        assert abs(shifted["micro-f1"] - wanted[task.name][variant]["micro-f1"]) > 0.01


def test_entity_f1_equals_seqeval() -> None:
    report = pytest.importorskip("seqeval.metrics").classification_report
    rng = random.Random(2)
    task = tiny_tasks.PARTS[0]
    rows, answers, tags = [], [], ([], [])
    for _ in range(60):
        sentence = "".join(rng.choices("ab ", k=rng.randint(1, 14)))
        texts = []
        for side in (0, 1):
            lines = {
                kind: rng.choices(["a", "b", "ab", "a b", "None", "zz"], k=2)
                for kind in rng.sample(["Brand", "Part", ""], 2)
            }
            texts.append("\n".join(f"{kind}: {', '.join(terms)}" for kind, terms in lines.items()))
            row = ["O"] * len(sentence)
            for kind, terms in lines.items():
                for term in dict.fromkeys(terms):
                    for start in range(len(sentence)):
                        if term != "None" and sentence.startswith(term, start):
                            row[start : start + len(term)] = [f"B-{kind}"] + [f"I-{kind}"] * (len(term) - 1)
            tags[side].append(row)
        rows.append(sentence)
        answers.append(texts)
    pairs = [
        tuple(_entities(sentence, text, task.separator) for text in texts)
        for sentence, texts in zip(rows, answers, strict=True)
    ]
    wanted = report(tags[1], tags[0], output_dict=True, zero_division=0)
    micro, macro = entity_f1(pairs)
    assert micro == pytest.approx(wanted["micro avg"]["f1-score"], abs=1e-12)
    assert macro == pytest.approx(wanted["macro avg"]["f1-score"], abs=1e-12)
    assert 0.1 < micro < 0.9
