"""Examples keep their answers in both forms."""

from ecomgpt_jax.instruct.example_rows import as_folder, as_row, row_of
from ecomgpt_jax.instruct.instructions import ROW_FIELDS
from ecomgpt_jax.instruct.task_folder import gold_answer
from ecomgpt_jax.instruct.tasks import classification
from ecomgpt_jax.instruct.tasks.task import Dataset, Example, bind

TASK = bind(classification.CLASSIFICATION, Dataset(name="X", source="x", language="en", kind="mood"))


def test_row_fields() -> None:
    row = row_of(TASK, Example("7", "{label_set} {x}", "good", ("good", "bad"), ("good",)), "{sentences}|{label_set}")
    assert tuple(row) == ROW_FIELDS
    assert row["prompt"].endswith("\n{label_set} {x}|good, bad")
    assert (row["response"], row["record_id"], row["source"]) == ("good", "7", "x")


def test_a_held_out_task_keeps_its_gold_answer() -> None:
    folder = as_folder(TASK, ("good", "bad"))
    example = Example("1", "text", "bad, good", ("good", "bad"), ("bad", "good"))
    assert gold_answer(folder, as_row(TASK, example)) == example.answer
    assert folder.labels == ("good", "bad")
