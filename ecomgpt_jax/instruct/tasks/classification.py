"""Tasks over `LabelledText`: intents, sentiment, ratings, categories of a text."""

import functools
import random

from ecomgpt_jax.instruct.records import LabelledText, Record
from ecomgpt_jax.instruct.tasks.task import (
    YES_NO,
    Dataset,
    Example,
    Examples,
    Form,
    LabelSet,
    Records,
    answer_span,
    binary_example,
    distinct,
    in_language,
    others,
    selection,
    show,
)


def gold_of(record: LabelledText, kind: str, data: Dataset) -> tuple[str, ...]:
    """Returns the record's labels of one kind as shown."""
    return distinct(label for label in map(data.display_label, record.labels.get(kind, ())) if label)


def labels_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns all labels of the dataset's kind as shown, sorted."""
    return tuple(sorted({label for record in records for label in gold_of(record, dataset.kind, dataset)}))


def coarse_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns all labels of the dataset's coarse kind as shown, sorted."""
    return tuple(sorted({label for record in records for label in gold_of(record, dataset.coarse, dataset)}))


def _classify(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = gold_of(record, data.kind, data)
        if gold:
            yield Example(record.id, record.text, ", ".join(gold), show(labels, gold, rng), gold)


def _coarse(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = gold_of(record, data.coarse, data)
        if gold:
            yield Example(record.id, record.text, ", ".join(gold), show(labels, gold, rng), gold)


def _two_options(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = gold_of(record, data.kind, data)
        wrong = [label for label in labels if label not in gold]
        if gold and wrong:
            yield binary_example(record.id, record.text, (rng.choice(gold), rng.choice(wrong)), True, rng)


def _check(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    names = labels_of(records, data)
    for record in records:
        gold = gold_of(record, data.kind, data)
        wrong = [label for label in names if label not in gold]
        if not gold or not wrong:
            continue
        truth = rng.random() < 0.5
        label = rng.choice(gold) if truth else rng.choice(wrong)
        yield binary_example(record.id, f"Text: {record.text}\nLabel: {label}", (yes, no), truth, rng)


def _write(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = gold_of(record, data.kind, data)
        if gold:
            yield Example(record.id, f"Label: {', '.join(gold)}", record.text, spans=answer_span(record.text))


def _same(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    by_label: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        by_label.setdefault(gold_of(record, data.kind, data), []).append(record)
    by_label.pop((), None)
    foreign = {gold: [label for label in by_label if label != gold] for gold in by_label}
    for record in records:
        gold = gold_of(record, data.kind, data)
        if not gold:
            continue
        theirs = gold if rng.random() < 0.5 or not foreign[gold] else rng.choice(foreign[gold])
        other = rng.choice(by_label[theirs])
        if other.group == record.group:
            continue
        given = f"Text 1: {record.text}\nText 2: {other.text}"
        yield binary_example(record.id, given, (yes, no), gold == theirs, rng)


def _which(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for index, record in enumerate(records):
        gold = gold_of(record, data.kind, data)
        if not gold:
            continue
        label = rng.choice(gold)
        rest = [o.text for o in others(records, index, 2, rng) if label not in gold_of(o, data.kind, data)]
        if rest:
            yield selection(record.id, record.text, rest, f"Label: {label}", rng)


def _rate(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = gold_of(record, data.kind, data)
        if gold:
            yield Example(record.id, record.text, ", ".join(gold), labels, gold)


_form = functools.partial(Form, record=LabelledText)

CLASSIFICATION = _form(
    name="classification",
    family="CLS",
    definition="text classification",
    labels=labels_of,
    make=_classify,
    abilities=("categorise a text",),
    en=(
        "{sentences}\nWhat is the [label] of this [text]? Candidates: {label_set}.",
        "Classify the [text] by [label]. Choose from {label_set}.\n{sentences}",
        "{sentences}\nSelect the [label] of the above [text] from: {label_set}.",
        "[labels]: {label_set}.\n{sentences}\nWhich of them fits the [text]?",
    ),
    zh=(
        "{sentences}\n这条[text]的[label]是什么？候选：{label_set}。",
        "判断[text]的[label]，从{label_set}中选择。\n{sentences}",
        "{sentences}\n为上面的[text]选择[label]，可选：{label_set}。",
        "[label]：{label_set}。\n{sentences}\n哪一个符合这条[text]？",
    ),
)

COARSE_CLASSIFICATION = _form(
    name="coarse_classification",
    family="CLS",
    definition="coarse text classification",
    labels=coarse_of,
    make=_coarse,
    needs=("coarse labels",),
    operator="simplification",
    abilities=("categorise a text",),
    en=(
        "{sentences}\nWhich broad group does this [text] belong to? Candidates: {label_set}.",
        "Sort the [text] into one of the main groups {label_set}.\n{sentences}",
        "{sentences}\nRoughly, what is the [text] about: {label_set}?",
        "Choose the general heading of the [text] from {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这条[text]属于哪个大类？候选：{label_set}。",
        "把[text]归入以下大类之一：{label_set}。\n{sentences}",
        "{sentences}\n[text]大致与什么有关：{label_set}？",
        "从{label_set}中为[text]选择总的类别。\n{sentences}",
    ),
)

TWO_OPTIONS = _form(
    name="two_options",
    family="CLS",
    definition="text classification with two options",
    labels=labels_of,
    make=_two_options,
    needs=("choices",),
    operator="simplification",
    abilities=("categorise a text",),
    en=(
        "{sentences}\nWhich [label] is right, {label_set}?",
        "Only one of {label_set} is the [label] of the [text]. Which?\n{sentences}",
        "{sentences}\nDecide between {label_set}.",
        "Choose the better [label] for the [text]: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n{label_set}，哪个是正确的[label]？",
        "{label_set}中只有一个是[text]的[label]，是哪个？\n{sentences}",
        "{sentences}\n请在{label_set}之间作出选择。",
        "为[text]选择更合适的[label]：{label_set}。\n{sentences}",
    ),
)

LABEL_CHECK = _form(
    name="label_check",
    family="CLS",
    definition="label check",
    labels=in_language(YES_NO),
    make=_check,
    operator="recombination",
    abilities=("verify a label",),
    en=(
        "{sentences}\nIs the label right for the [text]? Candidates: {label_set}.",
        "Check the [label] given below the [text]. Answer with one of {label_set}.\n{sentences}",
        "{sentences}\nDoes this [label] fit? {label_set}",
        "Decide if the [text] carries the right label. Choose from {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n该标签是否符合这条[text]？候选：{label_set}。",
        "核对下面给出的[label]，回答{label_set}之一。\n{sentences}",
        "{sentences}\n这个[label]合适吗？可选：{label_set}。",
        "判断[text]的标签是否正确，从{label_set}中选择。\n{sentences}",
    ),
)

TEXT_WRITING = _form(
    name="text_writing",
    family="Generate",
    definition="text writing for a label",
    make=_write,
    needs=("text from annotation",),
    operator="reversal",
    abilities=("write from facts",),
    en=(
        "{sentences}\nWrite a [text] with this [label].",
        "Give an example of a [text] that has the following [label].\n{sentences}",
        "{sentences}\nWhat might such a [text] look like? Write one.",
        "Compose one [text] for the label below.\n{sentences}",
    ),
    zh=(
        "{sentences}\n写一条具有该[label]的[text]。",
        "请举出一条属于以下[label]的[text]。\n{sentences}",
        "{sentences}\n这样的[text]会怎么写？请写一条。",
        "根据下面的标签撰写一条[text]。\n{sentences}",
    ),
)

SAME_LABEL = _form(
    name="same_label",
    family="CLS",
    definition="label comparison",
    labels=in_language(YES_NO),
    make=_same,
    needs=("comparable texts",),
    operator="recombination",
    abilities=("categorise a text", "compare texts"),
    en=(
        "{sentences}\nDo both have the same [label]? Candidates: {label_set}.",
        "Compare the two by [label] and answer {label_set}: are they alike?\n{sentences}",
        "{sentences}\nIs the [label] of the two equal? Choose from {label_set}.",
        "Would both be filed under one [label]? {label_set}\n{sentences}",
    ),
    zh=(
        "{sentences}\n两者的[label]相同吗？候选：{label_set}。",
        "比较两条文本的[label]是否一样，回答{label_set}之一。\n{sentences}",
        "{sentences}\n它们的[label]一致吗？从{label_set}中选择。",
        "两条内容会归入同一个[label]吗？可选：{label_set}。\n{sentences}",
    ),
)

WHICH_LABELLED = _form(
    name="labelled_text_selection",
    family="Extract",
    definition="text selection by label",
    make=_which,
    needs=("distinct texts",),
    operator="recombination",
    abilities=("categorise a text", "compare texts"),
    en=(
        "{sentences}\nWhich of the numbered texts has the label in the last line? Copy it.",
        "Pick the [text] with the [label] given at the end.\n{sentences}\nOutput the text only.",
        "{sentences}\nCopy the [text] to which the label belongs.",
        "One of these texts carries the label given at the end. Write it out.\n{sentences}",
    ),
    zh=(
        "{sentences}\n哪一条[text]符合最后一行的标签？请抄写该条。",
        "选出具有末行所给[label]的[text]，只输出原文。\n{sentences}",
        "{sentences}\n抄出该标签所属的[text]。",
        "下列[text]中有一条属于末行的标签，请写出它。\n{sentences}",
    ),
)

RATING = _form(
    name="rating",
    family="CLS",
    definition="rating prediction",
    labels=labels_of,
    make=_rate,
    abilities=("judge polarity",),
    en=(
        "{sentences}\nWhich [label] did the writer of this [text] give: {label_set}?",
        "Predict the [label] of the [text] on the scale {label_set}.\n{sentences}",
        "{sentences}\nHow satisfied does the writer sound? Choose the [label] from {label_set}.",
        "Scale: {label_set}.\n{sentences}\nWhere on it does this [text] stand?",
    ),
    zh=(
        "{sentences}\n写这条[text]的人给了几星？可选：{label_set}。",
        "预测[text]的[label]，等级为{label_set}。\n{sentences}",
        "{sentences}\n作者有多满意？从{label_set}中选择[label]。",
        "[label]等级：{label_set}。\n{sentences}\n这条[text]对应哪一级？",
    ),
)
