import json
from collections import Counter
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.evaluation.page import render_html, render_markdown
from ecomgpt_jax.evaluation.preference import (
    majority,
    make_study,
    preference_sections,
    read_judgements,
    read_key,
    summarise,
)
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.instruct.task_folder import gold_answer


def study(rows: int = 99, annotators: int = 3, seed: int = 0) -> tuple[list[dict], dict]:
    """A answers "A <gold>", B "B <gold>", but in row 0 of every task both answer the same."""
    parts, a, b = [], {}, {}
    for task, made in tiny_tasks.ALL:
        golds = tuple(gold_answer(task, row) for row in made)
        parts.append(TaskPrompts(task, made, golds, golds))
        a[task.name] = ["same", *(f"A {gold}" for gold in golds[1:])]
        b[task.name] = ["same ", *(f"B {gold}" for gold in golds[1:])]
    return make_study(parts, a, b, rows, annotators, seed)


def save(folder: Path, sheet: dict, judgements: dict[str, str]) -> Path:
    path = folder / f"{sheet['annotator']}.json"
    content = {"study": sheet["study"], "annotator": sheet["annotator"], "judgements": judgements}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def prefer(sheet: dict, letter: str) -> dict[str, str]:
    """Judges by the author of an answer, which only this test knows."""
    return {item["id"]: "left" if item["left"].startswith(letter) else "right" for item in sheet["items"]}


def test_sheets_are_balanced_and_tell_nothing() -> None:
    sheets, key = study()
    assert key["identical"] == {task.name: 1 for task, _ in tiny_tasks.ALL}
    assert len(key["items"]) == sum(len(rows) - 1 for _, rows in tiny_tasks.ALL)
    for sheet in sheets:
        assert set(sheet) == {"study", "annotator", "items"}
        assert set(sheet["items"][0]) == {"id", "task", "prompt", "left", "right"}
        lefts: dict[str, Counter] = {}
        for item in sheet["items"]:
            assert key["left"][sheet["annotator"]][item["id"]] == item["left"][0].lower()
            assert item["right"][0] != item["left"][0]
            lefts.setdefault(item["task"], Counter())[item["left"][0]] += 1
        assert all(abs(count["A"] - count["B"]) <= 1 for count in lefts.values())
    one, two = (key["left"][f"annotator-{number}"] for number in (1, 2))
    assert all(one[item] != two[item] for item in key["items"])
    assert [item["id"] for item in sheets[0]["items"]] != [item["id"] for item in sheets[1]["items"]]


def test_a_study_depends_on_its_seed_alone() -> None:
    assert study(rows=2, seed=5) == study(rows=2, seed=5)
    assert study(rows=2, seed=5) != study(rows=2, seed=6)
    assert all(number <= 2 for number in Counter(i["task"] for i in study(rows=2)[1]["items"].values()).values())


def test_the_same_answers_everywhere_are_no_study() -> None:
    task, rows = tiny_tasks.TOPICS
    part = TaskPrompts(task, rows, ("p",) * 4, ("g",) * 4)
    with pytest.raises(DataError, match="nothing to judge"):
        make_study([part], {task.name: ["x"] * 4}, {task.name: ["x"] * 4}, 4, 2)


def test_blinding_is_undone(tmp_path: Path) -> None:
    sheets, key = study()
    paths = [save(tmp_path, sheet, prefer(sheet, "A")) for sheet in sheets]
    result = summarise(key, *read_judgements(paths, key))
    items = len(key["items"])
    assert (result["all"]["win"], result["all"]["tie"], result["all"]["loss"]) == (items, 6, 0)
    assert result["tasks"]["EN-Shop-CLS-shade"]["win"] == 7
    assert result["tasks"]["EN-Shop-CLS-shade"]["p"] == 2 / 2**7
    assert result["all"]["net"] == pytest.approx(items / (items + 6))
    assert result["all"]["low"] < result["all"]["net"] < result["all"]["high"]
    assert result["agreement"]["fleiss"]["value"] is None  # all of one category: nothing to tell chance from
    assert result["position"]["all"]["p"] > 0.5
    paths = [save(tmp_path, sheet, prefer(sheet, "B")) for sheet in sheets]
    assert summarise(key, *read_judgements(paths, key))["all"]["loss"] == items


def test_votes_are_counted_by_hand(tmp_path: Path) -> None:
    """Three annotators, four items: votes AAA, AAt, At-, AB-."""
    sheets, key = study()
    first = sorted(key["items"])[:4]
    said = ["AAAA", "AAtB", "At.."]
    paths = []
    for sheet, letters in zip(sheets, said, strict=True):
        left = key["left"][sheet["annotator"]]
        judged = {
            item: "tie" if mark == "t" else "left" if left[item] == mark.lower() else "right"
            for item, mark in zip(first, letters, strict=True)
            if mark != "."
        }
        paths.append(save(tmp_path, sheet, judged))
    result = summarise(key, *read_judgements(paths, key))
    assert (result["judgements"], result["unjudged"]) == (10, len(key["items"]) - 4)
    assert (result["all"]["win"], result["all"]["tie"], result["all"]["loss"]) == (2, 2 + 6, 0)
    agreement = result["agreement"]
    # Fleiss over AAA and AAt: p_o = (1 + 2/6) / 2 = 2/3; shares 5/6 and 1/6, p_e = 26/36.
    assert agreement["fleiss"]["items"] == 2
    assert agreement["fleiss"]["value"] == pytest.approx((2 / 3 - 26 / 36) / (10 / 36))
    # Alpha over all four, n = 10 with 7 A, 2 t, 1 B: 1 - D_o = (3 + 1 + 0 + 0) / 10, 1 - D_e = (42 + 2) / 90.
    assert agreement["krippendorff"]["value"] == pytest.approx((0.4 - 44 / 90) / (46 / 90))
    # Cohen of the first two, AAAA against AAtB: p_o = 1/2 and p_e = 1 * 1/2.
    assert agreement["cohen"][0]["annotators"] == ["annotator-1", "annotator-2"]
    assert (agreement["cohen"][0]["items"], agreement["cohen"][0]["value"]) == (4, 0)


def test_a_liking_for_the_left_is_seen(tmp_path: Path) -> None:
    sheets, key = study(annotators=2)
    paths = [save(tmp_path, sheet, {item["id"]: "left" for item in sheet["items"]}) for sheet in sheets]
    result = summarise(key, *read_judgements(paths, key))
    assert result["position"]["all"]["p"] < 1e-6
    assert result["position"]["annotator-1"]["right"] == 0
    assert result["all"]["win"] == result["all"]["loss"] == 0  # sides change between the two, so they cancel
    assert result["agreement"]["cohen"][0]["value"] == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize(("values", "outcome"), [([0], 0), ([0, 2], 1), ([0, 0, 1], 0), ([2, 1, 2], 2), ([0, 1, 2], 1)])
def test_majority(values: list[int], outcome: int) -> None:
    assert majority(values) == outcome


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": "other"}, "of study 'other'"),
        ({"annotator": "annotator-9"}, "not in the key"),
        ({"annotator": ["annotator-1"]}, "not in the key"),
        ({"judgements": {"999": "left"}}, "'999'"),
        ({"judgements": {"1": "both"}}, "'both'"),
        ({"judgements": {"1": ["left"]}}, "not a choice"),
        ({"judgements": 3}, "no judgements"),
    ],
)
def test_wrong_judgements_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    sheets, key = study()
    content = {"study": key["study"], "annotator": "annotator-1", "judgements": {}, **change}
    (tmp_path / "j.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        read_judgements([tmp_path / "j.json"], key)
    assert "\n" not in str(caught.value)
    twice = save(tmp_path, sheets[0], {})
    with pytest.raises(DataError, match="twice"):
        read_judgements([twice, twice], key)
    with pytest.raises(MissingInputError):
        read_judgements([tmp_path / "none.json"], key)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    _, key = study()
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key), encoding="utf-8")
    assert read_key(path) == key
    for damage in ([], {**key, "study": 1}, {**key, "identical": {}}, {**key, "left": {"annotator-1": {}}}):
        path.write_text(json.dumps(damage), encoding="utf-8")
        with pytest.raises(DataError, match=r"key\.json"):
            read_key(path)


def test_result_is_shown_with_names_escaped(tmp_path: Path) -> None:
    sheets, key = study()
    result = summarise(key, *read_judgements([save(tmp_path, s, prefer(s, "A")) for s in sheets], key))
    result["tasks"]["<script>x</script>"] = result["tasks"].pop("EN-Shop-CLS-shade")
    sections = preference_sections(result)
    assert "<script" not in render_html("t", sections)
    text = render_markdown("t", sections)
    assert "| All | 22 | 6 | 16 (73%) | 6 (27%) | 0 (0%) |" in text
    assert "Krippendorff" in text
    empty = preference_sections(summarise({**key, "identical": {}}, {}, {}))
    assert "0 judgements by 0 annotators" in render_markdown("t", empty)
