"""Tasks over `AttributedItem` about a product's category."""

import functools
import random

from ecomgpt_jax.instruct.records import AttributedItem
from ecomgpt_jax.instruct.tasks.task import (
    MATCH,
    Dataset,
    Example,
    Examples,
    Form,
    LabelSet,
    Make,
    Records,
    answer_span,
    binary_example,
    given,
    in_language,
    joined,
    listing,
    others,
    show,
)


def coarse_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the root categories of all records, sorted."""
    return tuple(sorted({record.category[0] for record in records if record.category}))


def fine_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the leaf categories of all records, sorted."""
    return tuple(sorted({record.category[-1] for record in records if record.category}))


def _classify(level: int) -> Make:
    def make(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
        for record in records:
            if record.category:
                gold = (record.category[level],)
                yield Example(record.id, listing(record), gold[0], show(labels, gold, rng), gold)

    return make


def _title_category(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if record.category:
            gold = (record.category[-1],)
            yield Example(record.id, record.title, gold[0], show(labels, gold, rng), gold)


def _in_category(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    match, differ = data.in_language(MATCH)
    for index, record in enumerate(records):
        if not record.category:
            continue
        category, truth = rng.choice(record.category), rng.random() < 0.5
        if not truth:
            foreign = [c for o in others(records, index, 1, rng) for c in o.category if c not in record.category]
            if not foreign:
                continue
            category = rng.choice(foreign)
        yield binary_example(record.id, f"Title: {record.title}\nCategory: {category}", (match, differ), truth, rng)


def _title_in_category(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        attributes = given(record)
        if record.category and attributes:
            some = rng.sample(attributes, min(3, len(attributes)))
            facts = f"Category: {' > '.join(record.category)}\n{joined(some)}"
            yield Example(record.id, facts, record.title, spans=answer_span(record.title))


_form = functools.partial(Form, record=AttributedItem)

COARSE = _form(
    name="coarse_category",
    family="CLS",
    definition="product item category",
    labels=coarse_of,
    make=_classify(0),
    abilities=("categorise a product",),
    en=(
        "{sentences}\nWhich department does the product belong to? Candidates: {label_set}",
        "Sort the product into one of these categories: {label_set}.\n{sentences}",
        "{sentences}\nCategorize this item. Options: {label_set}",
        "Choose the main category of the item from {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n该商品属于哪个大类？候选：{label_set}",
        "请把商品归入以下大类之一：{label_set}。\n{sentences}",
        "{sentences}\n给这件商品分类，可选：{label_set}",
        "从{label_set}中选择商品的一级类目。\n{sentences}",
    ),
)

FINE = _form(
    name="fine_category",
    family="CLS",
    definition="product item category",
    labels=fine_of,
    make=_classify(-1),
    abilities=("categorise a product",),
    en=(
        "{sentences}\nWhat kind of product is this? Candidates: {label_set}",
        "Choose the exact category of the product from {label_set}.\n{sentences}",
        "{sentences}\nAssign the item to its leaf category. Options: {label_set}",
        "Find the most specific category for the item among: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这是什么商品？候选：{label_set}",
        "从{label_set}中选择商品的具体类目。\n{sentences}",
        "{sentences}\n给商品归入末级类目，可选：{label_set}",
        "请为商品选择最具体的类别：{label_set}。\n{sentences}",
    ),
)

TITLE_CATEGORY = _form(
    name="title_category",
    family="CLS",
    definition="product item category",
    labels=fine_of,
    make=_title_category,
    needs=("choices",),
    operator="simplification",
    abilities=("categorise a product",),
    en=(
        "{sentences}\nFrom the title alone, which category is it? {label_set}",
        "Classify the product title. Candidates: {label_set}.\n{sentences}",
        "{sentences}\nUnder which category would a shop list this title: {label_set}?",
        "Pick the category that suits the title among {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n只看标题，它属于哪个类目？{label_set}",
        "给商品标题分类，候选：{label_set}。\n{sentences}",
        "{sentences}\n店铺会把这个标题放在哪一类：{label_set}？",
        "从{label_set}中选择与标题相符的类目。\n{sentences}",
    ),
)

IN_CATEGORY = _form(
    name="category_check",
    family="CLS",
    definition="title category matching",
    labels=in_language(MATCH),
    make=_in_category,
    needs=("comparable texts",),
    operator="recombination",
    abilities=("categorise a product", "verify a label"),
    en=(
        "{sentences}\nDo title and category match? Candidate: {label_set}.",
        "Decide whether the product belongs to the category. Choose from {label_set}.\n{sentences}",
        "{sentences}\nDetermine if the category suits the title. Options: {label_set}.",
        "Is the title filed under the right category? Answer {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n标题与类目是否匹配？候选：{label_set}。",
        "判断商品是否属于该类目，从{label_set}中选择。\n{sentences}",
        "{sentences}\n这个类目适合该标题吗？可选：{label_set}。",
        "标题放在这个类目下对吗？回答{label_set}之一。\n{sentences}",
    ),
)

TITLE_IN_CATEGORY = _form(
    name="title_from_category",
    family="Generate",
    definition="product title generation",
    make=_title_in_category,
    needs=("text from annotation",),
    operator="reversal",
    abilities=("write from facts",),
    en=(
        "{sentences}\nWrite a title for a product of this category that has these properties.",
        "Compose the title of a product from its category and some attributes.\n{sentences}",
        "{sentences}\nGenerate a fitting product title.",
        "A shop sells the following. Write its title.\n{sentences}",
    ),
    zh=(
        "{sentences}\n为该类目下具有这些属性的商品写一个标题。",
        "根据类目和部分属性拟写商品标题。\n{sentences}",
        "{sentences}\n生成一个合适的商品标题。",
        "店铺出售如下商品，请写出标题。\n{sentences}",
    ),
)
