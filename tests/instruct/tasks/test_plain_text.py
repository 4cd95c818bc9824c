import random

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import mixture
from ecomgpt_jax.instruct.records import LabelledText, TextPair
from ecomgpt_jax.instruct.rows import Account
from ecomgpt_jax.instruct.tasks import plain_text


def test_a_record_becomes_its_own_texts_labelled_or_not() -> None:
    (task,) = plain_text.tasks({"shop": ("en",)})
    records = [
        LabelledText(id="1", group="1", language="en", text="A red cup.", labels={"mood": ("glad",)}),
        LabelledText(id="2", group="2", language="en", supervision="none", text="{sentences}", labels={}),
        TextPair(
            id="3", group="3", language="en", left="cup", right="mug", label="same", left_attributes=(("c", "cup"),)
        ),
        LabelledText(id="4", group="4", language="zh", text="杯子", labels={}),
    ]
    made = list(task.examples(task.select(records), (), random.Random(0)))
    assert [(example.record_id, example.answer) for example in made] == [
        ("1", "A red cup."),
        ("2", "{sentences}"),
        ("3", "cup\nmug"),
    ]


def test_the_mixture_has_texts_without_a_prompt_and_the_same_held_out_tasks() -> None:
    data = DataConfig(synthetic_records=20, plain_text=True, instances_per_task=4, languages=("zh",))
    held_out: dict = {}
    rows = [row for part in mixture.parts(data) for row in mixture.generate(data, part, Account(), [], held_out)]
    assert {row["language"] for row in rows} == {"zh"}
    assert {row["prompt"] for row in rows} == {""}
    assert all(row["response"] and "###" not in row["response"] for row in rows)
    assert len(held_out) == 12
    kept_out = {row.sentences for _, part in held_out.values() for row in part}
    assert not kept_out & {row["response"] for row in rows}
