import pickle
import random

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import make
from ecomgpt_jax.instruct.choose import choose
from ecomgpt_jax.instruct.instructions import Row
from ecomgpt_jax.instruct.read import BuildStats
from ecomgpt_jax.instruct.records import LabelledText, TextPair
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


TEXTS = [f" Cup number {number} is red. " + "x" * 100 * (number % 2) for number in range(60)]
CUPS = [LabelledText(id=text, group=text, language="en", text=text, labels={}) for text in TEXTS]


@pytest.mark.parametrize(
    ("copying", "numbers", "longest"), [(1, {1}, 40), (2, {1, 2}, 80), (4, {1, 2, 4}, 80)], ids=str
)
def test_copying_repeats_one_of_the_texts_shown(copying: int, numbers: set[int], longest: int) -> None:
    (task,) = plain_text.tasks({"shop": ("en",)}, copying)
    assert task.name == "EN-shop-Extract-copying"
    made = list(task.examples(task.select(CUPS), (), random.Random(0)))
    assert [example.record_id for example in made] == TEXTS
    shown = [example.sentences.split("\n")[:-1] for example in made]
    assert {len(lines) for lines in shown} - {3} == numbers  # of four, two may be cut to the same
    for example, text, lines in zip(made, TEXTS, shown, strict=True):
        assert text.strip().startswith(example.answer)
        assert example.answer in lines
        assert len(set(lines)) == len(lines)
        assert 8 <= len(example.answer) <= max(map(len, lines)) <= longest
    assert len({len(example.answer) for example in made}) > 10
    places = {lines.index(example.answer) for example, lines in zip(made, shown, strict=True)}
    assert len(places) >= min(copying, 2)  # where it stands tells nothing
    assert made == list(task.examples(task.select(CUPS), (), random.Random(0)))
    assert made != list(task.examples(task.select(CUPS), (), random.Random(1)))


def training_rows(data: DataConfig, held_out: make.HeldOut) -> list[Row]:
    choice = choose(data)
    made = (each for shard in make.shards(choice) for each in make.make_rows(choice, shard, BuildStats(), held_out))
    return [row for split, row in made if split == "train"]


@pytest.mark.parametrize("plain", [True, False], ids=["beside plain texts", "beside instructions"])
def test_rows_of_copying_have_the_texts_as_prompt(plain: bool) -> None:
    data = DataConfig(synthetic_records=20, plain_text=plain, copying=3, instances_per_task=4, languages=("en",))
    rows = training_rows(data, {})
    copying = [row for row in rows if row["task"].endswith("-copying")]
    assert 0 < len(copying) < len(rows)
    assert any("### Response:" in row["prompt"] for row in rows) != plain
    assert all(row["response"] in row["prompt"].split("\n") for row in copying)
    assert pickle.loads(pickle.dumps(plain_text.tasks({"shop": ("en",)}, 3)))  # tasks go to other processes


def test_the_mixture_has_texts_without_a_prompt_and_the_same_held_out_tasks() -> None:
    data = DataConfig(synthetic_records=20, plain_text=True, instances_per_task=4, languages=("zh",))
    held_out: dict = {}
    rows = training_rows(data, held_out)
    assert {row["language"] for row in rows} == {"zh"}
    assert {row["prompt"] for row in rows} == {""}
    assert all(row["response"] and "###" not in row["response"] for row in rows)
    assert len(held_out) == 12
    kept_out = {row.sentences for _, part in held_out.values() for row in part}
    assert not kept_out & {row["response"] for row in rows}
