"""Tasks over targets and over categories without terms."""

import random

from ecomgpt_jax.instruct.records import AspectText, AspectTuple, Span, SpannedText
from ecomgpt_jax.instruct.tasks import opinions
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

DATASET = Dataset(name="X", source="x", language="zh", rename={"positive": "正面", "negative": "负面", "none": ""})


def test_the_target_is_copied() -> None:
    record = SpannedText(
        id="1", group="1", language="zh", text="去了骨之味，骨之味不错", spans=(Span(2, 5, "target", "骨之味"),)
    )
    bare = SpannedText(id="2", group="2", language="zh", text="不错", spans=())
    (example,) = bind(opinions.TARGETS, DATASET).examples([record, bare], (), random.Random(0))
    assert (example.answer, example.spans) == ("骨之味", record.spans)


def test_polarity_of_a_topic() -> None:
    record = AspectText(
        id="1",
        group="1",
        language="zh",
        text="上菜快，就是贵",
        tuples=(AspectTuple("", "上菜", "", "positive"), AspectTuple("", "价格", "", "negative")),
    )
    task = bind(opinions.POLARITY_OF_CATEGORY, DATASET)
    labels = task.label_set([record])
    assert labels == ("正面", "负面")
    answers = {}
    for seed in range(8):
        (example,) = task.examples([record], labels, random.Random(seed))
        answers[example.sentences.rsplit(": ", 1)[1]] = example.answer
    assert answers == {"上菜": "正面", "价格": "负面"}


def test_a_text_without_categories_is_passed_over() -> None:
    record = AspectText(
        id="1", group="1", language="zh", text="好", tuples=(AspectTuple("味道", "", "好", "positive"),)
    )
    assert list(bind(opinions.POLARITY_OF_CATEGORY, DATASET).examples([record], ("正面",), random.Random(0))) == []
