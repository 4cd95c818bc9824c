import os

import pytest
import tiny_tasks
from tiny_tasks import Part

from ecomgpt_jax.evaluation.baselines import baseline_predictions
from ecomgpt_jax.evaluation.official_scores import official_scores
from ecomgpt_jax.instruct.task_folder import candidates, load_tasks, read_rows

# Official micro-F1 and ROUGE-L of the released test sets: majority, copy, and random where there are candidates.
RELEASED = {
    "EN-ABSA-CLS-review_topic_category": ((0.453, 0.374), (0.000, 0.003), (0.222, 0.179)),
    "EN-Lenovo-Condition_Extract-Condition_Extract": ((0.031, 0.022), (0.001, 0.240), None),
    "EN-Lenovo-NER-NER": ((0.037, 0.545), (0.000, 0.214), None),
    "EN-Reddit_QA-Extract-Extract_QA": ((0.006, 0.006), (0.000, 0.074), None),
    "ZH-MEPAVE-Condition_Extract-attribute_value_detection": ((0.059, 0.041), (0.000, 0.000), None),
    "ZH-MEPAVE-NER-attribute_value_extraction": ((0.099, 0.962), (0.000, 0.000), None),
    "ZH-Multi_CPR-Extract-product_select_2": ((0.004, 0.004), (0.000, 0.027), None),
    "ZH-OpenBG_Align-CLS-item_align": ((0.552, 0.851), (0.000, 0.000), (0.480, 0.827)),
    "ZH-OpenBG_Align-CLS-title_attribute_matching": ((0.552, 0.851), (0.000, 0.000), (0.500, 0.833)),
    "ZH-OpenBG_Align-CLS-item_fine_classify": ((0.022, 0.022), (0.000, 0.001), None),
    "ZH-OpenBG_Align-CLS-item_coarse_classify": ((0.288, 0.288), (0.000, 0.000), (0.184, 0.184)),
    "ZH-OpenBG_Align-Generate-title_generate": ((0.097, 0.002), (0.173, 0.000), None),
    "ZH-Multi_CPR-CLS-query_item_matching": ((0.666, 0.889), (0.000, 0.000), (0.518, 0.839)),
}


def test_baselines_by_hand() -> None:
    task, rows = tiny_tasks.TOPICS
    found = baseline_predictions(task, rows)
    assert found["majority"] == ["Price"] * 4
    assert found["copy"] == [row.sentences[:60] for row in rows]
    assert all(answer in candidates(task, i, rows[i]) for i, answer in enumerate(found["random"]))
    assert baseline_predictions(task, rows) == found


@pytest.mark.parametrize("part", tiny_tasks.ALL, ids=lambda part: part[0].name)
def test_random_does_not_depend_on_the_rows_that_follow(part: Part) -> None:
    task, rows = part
    assert baseline_predictions(task, rows[:2])["random"] == baseline_predictions(task, rows)["random"][:2]


@pytest.mark.skipif("ECOMGPT_EVAL" not in os.environ, reason="ECOMGPT_EVAL is not set")
def test_released_test_sets_give_the_published_figures() -> None:
    for task in load_tasks(os.environ["ECOMGPT_EVAL"]):
        rows = read_rows(task)
        found = baseline_predictions(task, rows)
        for name, wanted in zip(("majority", "copy", "random"), RELEASED[task.name], strict=True):
            if wanted is not None:
                scores = official_scores(task, rows, found[name])
                assert (scores["micro-f1"], scores["rouge-l-f1"]) == pytest.approx(wanted, abs=1e-3), (task.name, name)
