"""Tasks over `AspectText`: review sentences with aspect, category, opinion and polarity.

The file is longer than 350 lines because each form contains its wordings.
"""

import functools
import random

from ecomgpt_jax.instruct.records import AspectText, AspectTuple
from ecomgpt_jax.instruct.tasks.task import (
    YES_NO,
    Dataset,
    Example,
    Examples,
    Form,
    LabelSet,
    Make,
    Records,
    answer_span,
    binary_example,
    distinct,
    in_language,
    others,
    selection,
    show,
)


def polarities_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the polarities of all records as shown, sorted."""
    return tuple(sorted({dataset.display_label(t.polarity) for r in records for t in r.tuples} - {""}))


def categories_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the aspect categories of all records as shown, sorted."""
    return tuple(sorted({dataset.display_label(t.category) for r in records for t in r.tuples} - {""}))


def line(item: AspectTuple, data: Dataset) -> str:
    """Returns a tuple as "aspect | category | opinion | polarity" with its annotated parts only."""
    parts = (item.aspect, data.display_label(item.category), item.opinion, data.display_label(item.polarity))
    return " | ".join(part for part in parts if part)


def _tuples(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        lines = distinct(line(item, data) for item in record.tuples)
        if lines:
            yield Example(record.id, record.text, "\n".join(lines), spans=answer_span(*lines))


def _terms(part: str) -> Make:
    def make(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
        for record in records:
            found = distinct(getattr(item, part) for item in record.tuples)
            if not record.tuples or not any(found):
                continue
            found = tuple(term for term in found if term)
            yield Example(record.id, record.text, ", ".join(found), spans=answer_span(*found))

    return make


def _opinion_of(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        aspects = distinct(item.aspect for item in record.tuples if item.aspect and item.opinion)
        if aspects:
            aspect = rng.choice(aspects)
            said = distinct(item.opinion for item in record.tuples if item.aspect == aspect and item.opinion)
            given = f"Review: {record.text}\nAspect: {aspect}"
            yield Example(record.id, given, ", ".join(said), spans=answer_span(*said))


def _polarity_of(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        aspects = distinct(item.aspect for item in record.tuples if item.aspect and data.display_label(item.polarity))
        if aspects:
            aspect = rng.choice(aspects)
            gold = distinct(data.display_label(i.polarity) for i in record.tuples if i.aspect == aspect and i.polarity)
            shown = show(labels, gold, rng)
            yield Example(record.id, f"Review: {record.text}\nAspect: {aspect}", ", ".join(gold), shown, gold)


def _category_of(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        items = [item for item in record.tuples if (item.aspect or item.opinion) and data.display_label(item.category)]
        if items:
            item = rng.choice(items)
            given = item.aspect or item.opinion
            gold = distinct(data.display_label(i.category) for i in items if given == (i.aspect or i.opinion))
            shown = show(labels, gold, rng)
            yield Example(record.id, f"Review: {record.text}\nTerm: {given}", ", ".join(gold), shown, gold)


def _topics(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = distinct(label for label in (data.display_label(item.category) for item in record.tuples) if label)
        if gold:
            yield Example(record.id, record.text, ", ".join(gold), show(labels, gold, rng), gold)


def _write(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        lines = distinct(line(item, data) for item in record.tuples)
        if lines:
            yield Example(record.id, "\n".join(lines), record.text, spans=answer_span(record.text))


def _paired(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    for index, record in enumerate(records):
        items = [item for item in record.tuples if item.aspect and item.opinion]
        if not items:
            continue
        item, truth = rng.choice(items), rng.random() < 0.5
        opinion = item.opinion
        if not truth:
            own = {i.opinion for i in items if i.aspect == item.aspect}
            pool = [i.opinion for i in items if i.opinion not in own]
            if not pool:
                pool = [i.opinion for o in others(records, index, 1, rng) for i in o.tuples if i.opinion]
                pool = [term for term in pool if term not in own]
            if not pool:
                continue
            opinion = rng.choice(pool)
        given = f"Review: {record.text}\nAspect: {item.aspect}\nOpinion: {opinion}"
        yield binary_example(record.id, given, (yes, no), truth, rng)


def _which_review(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for index, record in enumerate(records):
        items = [item for item in record.tuples if item.aspect and data.display_label(item.polarity)]
        if not items:
            continue
        item = rng.choice(items)
        rest = [
            o.text
            for o in others(records, index, 2, rng)
            if all(i.aspect != item.aspect or i.polarity != item.polarity for i in o.tuples)
        ]
        if rest:
            question = f"Aspect: {item.aspect}, {data.display_label(item.polarity)}"
            yield selection(record.id, record.text, rest, question, rng)


_form = functools.partial(Form, record=AspectText)

TUPLES = _form(
    name="opinion_tuples",
    family="Extract",
    definition="aspect opinion tuple extraction",
    make=_tuples,
    separator="\n",
    abilities=("find aspects", "find opinions", "pair aspect and opinion", "judge polarity"),
    en=(
        "{sentences}\nExtract the opinions of this [text], a line each: aspect | category | opinion | polarity.",
        "List what the [text] judges and how: one line for each opinion, its parts separated by ' | '.\n{sentences}",
        "{sentences}\nFor every aspect in the [text], write aspect, category, opinion words and polarity on a line.",
        "Find all aspect opinion tuples in the following [text].\n{sentences}",
    ),
    zh=(
        "{sentences}\n抽取这条[text]中的观点，每行一个：对象 | 类别 | 观点 | 倾向，没有的部分略去。",
        "请逐行列出[text]评价了什么、怎么评价，各部分用“ | ”隔开。\n{sentences}",
        "{sentences}\n对[text]中的每个评价对象，写出对象、类别、观点词和情感倾向。",
        "找出下面[text]里的全部观点元组。\n{sentences}",
    ),
)

ASPECT_TERMS = _form(
    name="aspect_terms",
    family="Extract",
    definition="aspect term extraction",
    make=_terms("aspect"),
    needs=("aspects",),
    operator="simplification",
    abilities=("find aspects",),
    en=(
        "{sentences}\nWhich aspects does this [text] talk about? Copy the words.",
        "List the aspect terms of the [text].\n{sentences}",
        "{sentences}\nExtract what is being judged in the [text].",
        "Name every feature that the following [text] comments on, in its own words.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这条[text]评价了哪些方面？请抄出原词。",
        "列出[text]中的评价对象。\n{sentences}",
        "{sentences}\n抽取[text]里被评价的内容。",
        "请写出下面[text]中出现的方面词。\n{sentences}",
    ),
)

OPINION_TERMS = _form(
    name="opinion_terms",
    family="Extract",
    definition="opinion term extraction",
    make=_terms("opinion"),
    needs=("opinions",),
    operator="simplification",
    abilities=("find opinions",),
    en=(
        "{sentences}\nCopy the opinion words of this [text].",
        "Which words of the [text] express a judgement?\n{sentences}",
        "{sentences}\nExtract all opinion terms from the [text].",
        "List how the writer of this [text] describes things, in the writer's words.\n{sentences}",
    ),
    zh=(
        "{sentences}\n抄出这条[text]中的观点词。",
        "[text]里哪些词表达了评价？\n{sentences}",
        "{sentences}\n抽取[text]中的全部观点词。",
        "请列出下面[text]用来评价的词语。\n{sentences}",
    ),
)

OPINION_OF_ASPECT = _form(
    name="opinion_of_aspect",
    family="Extract",
    definition="opinion extraction for an aspect",
    make=_opinion_of,
    needs=("aspects", "opinions"),
    operator="simplification",
    abilities=("pair aspect and opinion",),
    en=(
        "{sentences}\nWhat does the [text] say about the aspect? Copy the opinion words.",
        "Find the opinion that goes with the given aspect.\n{sentences}",
        "{sentences}\nHow is the aspect described in the [text]?",
        "Extract the words of the [text] that judge the aspect named below it.\n{sentences}",
    ),
    zh=(
        "{sentences}\n[text]怎么评价这个方面？抄出观点词。",
        "找出与给定方面对应的观点。\n{sentences}",
        "{sentences}\n该方面在[text]中是如何被描述的？",
        "从[text]中抽取评价给定方面的词语。\n{sentences}",
    ),
)

POLARITY_OF_ASPECT = _form(
    name="aspect_polarity",
    family="CLS",
    definition="aspect polarity classification",
    labels=polarities_of,
    make=_polarity_of,
    needs=("aspects",),
    operator="simplification",
    abilities=("judge polarity",),
    en=(
        "{sentences}\nWhat is the sentiment towards the aspect? Choose from {label_set}.",
        "Classify the polarity of the aspect in the [text]. Candidates: {label_set}.\n{sentences}",
        "{sentences}\nIs the [text] {label_set} about this aspect?",
        "Given a [text] and an aspect, pick the polarity from: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n对该方面的情感倾向是什么？候选：{label_set}。",
        "判断[text]中给定方面的倾向，从{label_set}中选择。\n{sentences}",
        "{sentences}\n这条[text]对该方面的态度是哪一种：{label_set}？",
        "给定[text]和方面，选择情感极性：{label_set}。\n{sentences}",
    ),
)

CATEGORY_OF_TERM = _form(
    name="term_category",
    family="CLS",
    definition="aspect category classification",
    labels=categories_of,
    make=_category_of,
    needs=("aspects", "categories"),
    operator="simplification",
    abilities=("categorise a term",),
    en=(
        "{sentences}\nWhich topic does the term belong to? Topics: {label_set}.",
        "Choose the category of the term from {label_set}.\n{sentences}",
        "{sentences}\nPick the topic for this term among {label_set}.",
        "Under which of these headings would you file the term: {label_set}?\n{sentences}",
    ),
    zh=(
        "{sentences}\n该词属于哪个话题？候选：{label_set}。",
        "从{label_set}中为给定的词选择类别。\n{sentences}",
        "{sentences}\n请在{label_set}中选出这个词所属的话题。",
        "给定的词应归入哪一类：{label_set}？\n{sentences}",
    ),
)

TOPICS = _form(
    name="topics",
    family="CLS",
    definition="review topic category",
    labels=categories_of,
    make=_topics,
    needs=("categories",),
    operator="simplification",
    abilities=("spot topics",),
    en=(
        "{sentences}\nWhich topics is this [text] about? Select from: {label_set}.",
        "Choose all categories that fit the [text] from the topics {label_set}.\n{sentences}",
        "{sentences}\nName the topics that the above [text] touches. Candidates: {label_set}.",
        "Topics: {label_set}.\n{sentences}\nSelect every topic that the [text] talks about.",
    ),
    zh=(
        "{sentences}\n这条[text]谈到了哪些话题？候选：{label_set}。",
        "从{label_set}中选出[text]涉及的全部类别。\n{sentences}",
        "{sentences}\n请选择上面[text]的话题，可选：{label_set}。",
        "话题：{label_set}。\n{sentences}\n选出[text]提到的所有话题。",
    ),
)

REVIEW_WRITING = _form(
    name="review_writing",
    family="Generate",
    definition="review writing from opinions",
    make=_write,
    needs=("text from annotation",),
    operator="reversal",
    abilities=("write from facts",),
    en=(
        "{sentences}\nWrite a [text] that expresses these opinions.",
        "Turn the opinions below into one [text].\n{sentences}",
        "Compose the [text] that a customer with these views would write.\n{sentences}",
        "{sentences}\nWrite a short [text] that says all of the above.",
    ),
    zh=(
        "{sentences}\n写一条表达以上观点的[text]。",
        "把下面的观点写成一条[text]。\n{sentences}",
        "一位顾客持有如下看法，请替他写一条[text]。\n{sentences}",
        "{sentences}\n根据以上内容写出简短的[text]。",
    ),
)

PAIRING = _form(
    name="pairing",
    family="CLS",
    definition="aspect opinion pairing",
    labels=in_language(YES_NO),
    make=_paired,
    needs=("aspects", "opinions"),
    operator="recombination",
    abilities=("pair aspect and opinion",),
    en=(
        "{sentences}\nDoes the opinion describe the aspect in this [text]? Candidates: {label_set}.",
        "Decide whether aspect and opinion belong together. Answer with one of {label_set}.\n{sentences}",
        "{sentences}\nIn the [text], is the opinion said of the aspect? {label_set}",
        "Do the aspect and the opinion form a pair in the [text]? Choose from: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n在这条[text]中，该观点是否在描述该方面？候选：{label_set}。",
        "判断方面与观点是否对应，回答{label_set}之一。\n{sentences}",
        "{sentences}\n这个观点说的是这个方面吗？可选：{label_set}。",
        "给出的方面和观点在[text]中是一对吗？从{label_set}中选择。\n{sentences}",
    ),
)

WHICH_REVIEW = _form(
    name="review_selection",
    family="Extract",
    definition="review selection",
    make=_which_review,
    needs=("distinct texts",),
    operator="recombination",
    abilities=("judge polarity", "compare texts"),
    en=(
        "{sentences}\nWhich of the numbered texts has the opinion in the last line? Copy it.",
        "Pick the [text] that judges the aspect as given at the end.\n{sentences}\nOutput the text only.",
        "{sentences}\nCopy the [text] that agrees with the last line.",
        "One of these texts matches the aspect and polarity given at the end. Write it out.\n{sentences}",
    ),
    zh=(
        "{sentences}\n哪一条[text]符合最后一行的评价？请抄写该条。",
        "选出对末行所给方面持该倾向的[text]，只输出原文。\n{sentences}",
        "{sentences}\n抄出与最后一行一致的[text]。",
        "下列[text]中有一条与末行的方面和倾向相符，请写出它。\n{sentences}",
    ),
)
