"""Tasks over reviews whose annotation names a target without a judgement, or a category without a term."""

import random

from ecomgpt_jax.instruct.records import AspectText, SpannedText
from ecomgpt_jax.instruct.tasks.aspects import polarities_of
from ecomgpt_jax.instruct.tasks.entities import terms, typed
from ecomgpt_jax.instruct.tasks.task import Dataset, Example, Examples, Form, LabelSet, Records, distinct, show


def _targets(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = typed(record, data)
        if spans:
            yield Example(record.id, record.text, ", ".join(terms(spans)), spans=tuple(spans))


def _polarity_of(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        topics = distinct(
            data.display_label(item.category) for item in record.tuples if data.display_label(item.polarity)
        )
        topics = tuple(topic for topic in topics if topic)
        if topics:
            topic = rng.choice(topics)
            gold = distinct(
                data.display_label(i.polarity) for i in record.tuples if data.display_label(i.category) == topic
            )
            given = f"Review: {record.text}\nTopic: {topic}"
            yield Example(record.id, given, ", ".join(gold), show(labels, gold, rng), gold)


TARGETS = Form(
    name="opinion_target",
    family="Extract",
    definition="opinion target extraction",
    record=SpannedText,
    make=_targets,
    abilities=("find aspects",),
    en=(
        "{sentences}\nWhich [label] is this [text] about? Copy its name.",
        "Extract the [label] that the [text] comments on.\n{sentences}",
        "{sentences}\nCopy the name of what the writer of the [text] talks about.",
        "Find the opinion target in this [text]. Output the name only.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这条[text]评价的是哪个[label]？请抄出名称。",
        "抽取[text]所谈论的[label]。\n{sentences}",
        "{sentences}\n写出作者在这条[text]中谈的是什么，只抄名称。",
        "找出下面[text]的评价对象，只输出名称。\n{sentences}",
    ),
)

POLARITY_OF_CATEGORY = Form(
    name="topic_polarity",
    family="CLS",
    definition="topic polarity classification",
    record=AspectText,
    labels=polarities_of,
    make=_polarity_of,
    operator="simplification",
    abilities=("judge polarity",),
    en=(
        "{sentences}\nWhat does the [text] think of the topic? Choose from {label_set}.",
        "Classify the sentiment of the [text] towards the given topic. Candidates: {label_set}.\n{sentences}",
        "{sentences}\nOn this topic, is the [text] {label_set}?",
        "Given a [text] and a topic, pick the polarity from: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这条[text]对该话题的态度如何？候选：{label_set}。",
        "判断[text]在给定话题上的情感倾向，从{label_set}中选择。\n{sentences}",
        "{sentences}\n就这个话题而言，[text]是哪一种倾向：{label_set}？",
        "给定[text]和话题，选择情感极性：{label_set}。\n{sentences}",
    ),
)
