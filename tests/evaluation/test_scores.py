import json
from pathlib import Path

import pytest
import tiny_tasks

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.evaluation.baselines import BASELINES
from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.evaluation.scores import (
    average,
    averages,
    read_answer_losses,
    read_predictions,
    read_scores,
    score_task,
    write_predictions,
)


def test_predictions_read_back_the_same(tmp_path: Path) -> None:
    texts = ["", "a\nb", "\u2028", '"{}"', "红"]
    write_predictions(tmp_path / "p.jsonl", texts)
    assert read_predictions(tmp_path / "p.jsonl", 5) == texts


def test_losses_of_right_answers_stand_beside_the_predictions(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", ["a", "b"], [0.5, 1.25])
    assert read_answer_losses(tmp_path / "p.jsonl") == [0.5, 1.25]
    assert read_predictions(tmp_path / "p.jsonl", 2) == ["a", "b"]
    with pytest.raises(ValueError, match="shorter"):
        write_predictions(tmp_path / "q.jsonl", ["a", "b"], [0.5])
    write_predictions(tmp_path / "q.jsonl", ["a"])
    with pytest.raises(DataError, match='no "answer_loss"; evaluate again with --answer_loss'):
        read_answer_losses(tmp_path / "q.jsonl")


def test_any_order_and_more_keys_are_fine(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"index": 1, "prediction": "b", "x": 1}\n\n{"prediction": "a", "index": 0}')
    assert read_predictions(tmp_path / "p.jsonl", 2) == ["a", "b"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"index": 0, "prediction": "a"}], "first missing index is 1"),
        ([{"index": 0, "prediction": "a"}, {"index": 0, "prediction": "a"}], ":2:1: index 0 occurs twice"),
        ([{"index": 0, "prediction": "a"}, {"index": 2, "prediction": "a"}], ":2:1: index 2 is out of range"),
        ([{"index": -1, "prediction": "a"}], "out of range"),
        ([{"index": True, "prediction": "a"}], "whole number"),
        ([{"index": 0}], '"prediction", a string'),
        ([[]], "a JSON array"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, lines: list, words: str) -> None:
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError) as caught:
        read_predictions(tmp_path / "p.jsonl", 2)
    assert words in str(caught.value)
    with pytest.raises(MissingInputError):
        read_predictions(tmp_path / "q.jsonl", 2)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"accuracy": 0.5}, 'no "tasks" and "protocol" with its sha256'),
        ([], 'no "tasks" and "protocol"'),
        ({"tasks": {}, "protocol": {"name": "greedy"}}, "sha256"),
        ({"tasks": {"t": {"rows": 0}}, "protocol": {"sha256": "0"}}, 'task t: "rows" must be'),
        ({"tasks": {"t": 1}, "protocol": {"sha256": "0"}}, 'task t: "rows" must be'),
    ],
)
def test_files_that_hold_no_scores_are_refused(tmp_path: Path, scores: object, words: str) -> None:
    path = tmp_path / "scores.json"
    with pytest.raises(MissingInputError):
        read_scores(path)
    path.write_text(json.dumps(scores))
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_predictions_beyond_the_wanted_rows_are_passed_over(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", ["a", "b", "c"])
    assert read_predictions(tmp_path / "p.jsonl", 2, 3) == ["a", "b"]
    write_predictions(tmp_path / "p.jsonl", ["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r":4:1: index 3 is out of range; the task has 3 rows"):
        read_predictions(tmp_path / "p.jsonl", 2, 3)
    (tmp_path / "p.jsonl").write_text('{"index": 0, "prediction": "a"}\n{"index": 2, "prediction": "c"}')
    with pytest.raises(DataError, match="1 predictions for 2 rows; the first missing index is 1"):
        read_predictions(tmp_path / "p.jsonl", 2, 3)


def test_an_entry_holds_both_sets_and_the_baselines(tmp_path: Path) -> None:
    for task, rows in tiny_tasks.write_tiny_tasks(tmp_path):
        part = build_prompts(task)
        entry = json.loads(json.dumps(score_task(part, part.golds), allow_nan=False))
        assert entry["rows"] == len(rows)
        for scores in (entry, *(entry["baselines"][name] for name in BASELINES)):
            assert set(scores["official"]) == {"micro-f1", "macro-f1", "rouge-l-f1"}
            assert {"score", "score-low", "score-high", "format-error-rate"} <= set(scores["corrected"])
        assert set(entry["intervals"]) == set(entry["corrected"]) - {"score-low", "score-high"}
        assert entry["intervals"]["score"] == [entry["corrected"]["score-low"], entry["corrected"]["score-high"]]
        assert ("classes" in entry) == (task.family in ("CLS", "NER"))
        assert entry["corrected"]["score"] == 1 > entry["baselines"]["copy"]["corrected"]["score"]
        with pytest.raises(DataError, match=task.name):
            score_task(part, part.golds[1:])


def test_average_counts_each_task_once() -> None:
    entries = [{"rows": 1, "corrected": {"score": 0.0}}, {"rows": 99, "corrected": {"score": 1.0}}]
    assert average(entries, "corrected", "score") == 0.5
    assert average([], "corrected", "score") is None


def test_averages_are_over_groups() -> None:
    def entry(language: str, family: str, score: float) -> dict:
        scores = {"official": {"micro-f1": score, "rouge-l-f1": 0.0}, "corrected": {"score": score}}
        return {"language": language, "family": family, **scores}

    tasks = {"a": entry("en", "CLS", 1.0), "b": entry("zh", "CLS", 0.0), "c": entry("en", "NER", 0.5)}
    found = averages(tasks)
    assert {name: (group["tasks"], group["corrected"]["score"]) for name, group in found.items()} == {
        "All tasks": (3, 0.5), "English": (2, 0.75), "Chinese": (1, 0.0), "CLS": (2, 0.5), "NER": (1, 0.5),
    }  # fmt: skip
    tasks["a"]["domain"], tasks["b"]["domain"] = "held-out task", "in-domain"
    assert list(averages(tasks))[1:3] == ["In-domain", "Held-out task"]
