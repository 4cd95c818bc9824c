from ecomgpt_jax.instruct import overlap
from ecomgpt_jax.instruct.contamination import Exclusion
from ecomgpt_jax.instruct.records import LabelledText, Span
from ecomgpt_jax.instruct.task_folder import TaskRow

LONG = "the red kettle with a long spout boils two litres of water in under three minutes"
TASKS = {
    "EN-A-CLS-x": [TaskRow("A blue mug that holds a litre."), TaskRow(f"Say whether: {LONG} or not")],
    "EN-B-Extract-y": [TaskRow("nothing alike here", spans=(Span(0, 0, "", "a very particular answer of its own"),))],
    "EN-C-CLS-z": [TaskRow("a blue mug, that holds a litre")],
}


def record(text: str) -> LabelledText:
    return LabelledText(id=text[:9], group="g", language="en", text=text, labels=())


def test_rows_that_share_text_are_named_by_source_and_by_task() -> None:
    exclusion = Exclusion(row for rows in TASKS.values() for row in rows)
    records = [
        record("Unlike all others, this is new."),
        record(LONG.upper() + "!"),
        record("A very particular answer, of its own"),
    ]
    found = {"en_shop": overlap.rows_in_source(records, TASKS, exclusion)}
    assert found == {"en_shop": {"EN-A-CLS-x": [1], "EN-B-Extract-y": [0]}}
    assert overlap.rows_in_source(records[:1], TASKS, exclusion) == {}
    assert overlap.rows_in_task("EN-C-CLS-z", TASKS) == {"EN-A-CLS-x": [0]}
    lines = overlap.table(found, TASKS).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["en_shop", "EN-A-CLS-x", "1", "of", "2"]
    assert overlap.table({}, TASKS).startswith("no evaluation row")
