"""Tasks over `AttributedItem`: a product's attributes, title and description.

The file is longer than 350 lines because each form contains its wordings.
"""

import functools
import random

from ecomgpt_jax.instruct.records import AttributedItem, Span
from ecomgpt_jax.instruct.tasks.task import (
    MATCH,
    MOST_ATTRIBUTES,
    NOTHING,
    Dataset,
    Example,
    Examples,
    Form,
    LabelSet,
    Records,
    answer_span,
    binary_example,
    distinct,
    given,
    in_language,
    joined,
    others,
    show,
)


def names_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the attribute names of all records, sorted."""
    return tuple(sorted({name for record in records for name, _ in record.attributes}))


def values(record: AttributedItem, kind: str = "") -> tuple[str, ...]:
    """Returns the distinct values of one attribute (of all if `kind` is empty) that occur in the title."""
    return distinct(v for name, v in given(record) if v in record.title and (not kind or name == kind))


def _spans(record: AttributedItem) -> tuple[Span, ...]:
    found = ((record.title.find(v), name, v) for name, v in given(record))
    return tuple(sorted((Span(at, at + len(v), name, v) for at, name, v in found if at >= 0), key=_place))


def _place(span: Span) -> tuple[int, int, str]:
    return span.start, span.end, span.type


def _asked(record: AttributedItem, rng: random.Random) -> tuple[str, ...]:
    """Returns the attribute names annotated for a product, shuffled; others may be in the title without annotation."""
    names = list(distinct(name for name, _ in record.attributes))
    rng.shuffle(names)
    return tuple(names[:MOST_ATTRIBUTES])


def _extract(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = _spans(record)
        if spans:
            shown = _asked(record, rng)
            lines = [f"{name}: {', '.join(values(record, name)) or NOTHING}" for name in shown]
            gold = tuple(span for span in spans if span.type in shown)
            yield Example(record.id, record.title, "\n".join(lines), shown, (), gold)


def _detect(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        shown = _asked(record, rng)
        gold = tuple(span for span in _spans(record) if span.type in shown)
        if gold:
            yield Example(record.id, record.title, ", ".join(distinct(s.term for s in gold)), shown, (), gold)


def _one_value(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = _spans(record)
        if not spans:
            continue
        name = _asked(record, rng)[0] if rng.random() < 0.3 else rng.choice(spans).type
        answer = ", ".join(values(record, name)) or NOTHING
        gold = tuple(span for span in spans if span.type == name)
        yield Example(record.id, f"Title: {record.title}\nAttribute: {name}", answer, (), (), gold)


def _list_names(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = distinct(span.type for span in _spans(record))
        if gold:
            yield Example(record.id, record.title, ", ".join(gold), show(labels, gold, rng), gold)


def _type_value(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        attributes = given(record)
        if attributes:
            value = rng.choice(attributes)[1]
            gold = distinct(name for name, other in attributes if other == value)
            shown = show(labels, gold, rng)
            yield Example(record.id, f"Title: {record.title}\nValue: {value}", ", ".join(gold), shown, gold)


def _title(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        attributes = given(record)
        if attributes:
            yield Example(record.id, joined(attributes), record.title, spans=answer_span(record.title))


def _describe(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        lead = f"Title: {record.title}" if record.title else ""
        facts = "\n".join(filter(None, (lead, joined(given(record)))))
        if record.description and facts:
            yield Example(record.id, facts, record.description, spans=answer_span(record.description))


def _fits(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    match, differ = data.in_language(MATCH)
    for index, record in enumerate(records):
        attributes, truth = given(record), rng.random() < 0.5
        if not attributes:
            continue
        if not truth:
            drawn = [own for own in map(given, others(records, index, 1, rng)) if own and own != attributes]
            if not drawn:
                continue
            attributes = drawn[0]
        pair = f"Title: {record.title}, Attribute: {joined(attributes)}"
        yield binary_example(record.id, pair, (match, differ), truth, rng)


def _select(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for index, record in enumerate(records):
        titles = [o.title for o in others(records, index, 2, rng) if o.title != record.title]
        attributes = given(record)
        if not titles or not attributes:
            continue
        titles.append(record.title)
        rng.shuffle(titles)
        some = joined(rng.sample(attributes, min(4, len(attributes))))
        choice = f"Attribute: {some}\nCandidate Title: {', '.join(titles)}"
        yield Example(record.id, choice, record.title, spans=answer_span(record.title))


_form = functools.partial(Form, record=AttributedItem)

EXTRACTION = _form(
    name="attribute_extraction",
    family="NER",
    definition="attribute value extraction",
    labels=names_of,
    make=_extract,
    abilities=("find spans", "type spans"),
    en=(
        "{sentences}\nExtract the values of {label_set} from the product title, one attribute a line.",
        "What are {label_set} of this product? Write None where the title does not say.\n{sentences}",
        "{sentences}\nFill in these attributes from the title: {label_set}.",
        "Attributes: {label_set}\n{sentences}\nGive each attribute's value in the title as 'name: value'.",
    ),
    zh=(
        "{sentences}\n从商品标题中抽取{label_set}的取值，每行一个属性。",
        "该商品的{label_set}分别是什么？标题没有说明的写None。\n{sentences}",
        "{sentences}\n请根据标题填写以下属性：{label_set}。",
        "属性：{label_set}\n{sentences}\n按“属性: 取值”逐行输出。",
    ),
)

VALUE_DETECTION = _form(
    name="value_detection",
    family="Condition_Extract",
    definition="attribute value detection",
    labels=names_of,
    make=_detect,
    operator="simplification",
    abilities=("find spans",),
    en=(
        "{sentences}\nDetect the attribute values about {label_set} in the title, without their names.",
        "Which words of the title are values of {label_set}?\n{sentences}",
        "{sentences}\nList all attribute values of the title. Attributes: {label_set}.",
        "Copy the words of this title that describe {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n找出标题中与{label_set}有关的属性值，不必写属性名。",
        "标题中哪些词是{label_set}的取值？\n{sentences}",
        "{sentences}\n列出标题里的全部属性值，属性范围：{label_set}。",
        "抄出标题中描述{label_set}的词语。\n{sentences}",
    ),
)

ONE_VALUE = _form(
    name="one_attribute",
    family="Extract",
    definition="extraction of one attribute",
    make=_one_value,
    operator="simplification",
    abilities=("find spans of a type",),
    en=(
        "{sentences}\nWhat is the value of the attribute? Answer None if the title does not tell.",
        "Copy the value of the named attribute from the title.\n{sentences}",
        "{sentences}\nExtract this one attribute from the product title.",
        "Look up the attribute in the title; write None when it is missing.\n{sentences}",
    ),
    zh=(
        "{sentences}\n该属性的取值是什么？标题没有说明则回答None。",
        "从标题中抄出给定属性的取值。\n{sentences}",
        "{sentences}\n只抽取标题中的这一个属性。",
        "请在标题里查找给定属性，没有就写None。\n{sentences}",
    ),
)

NAME_LISTING = _form(
    name="attribute_listing",
    family="CLS",
    definition="attribute listing",
    labels=names_of,
    make=_list_names,
    needs=("choices",),
    operator="simplification",
    abilities=("spot types",),
    en=(
        "{sentences}\nWhich of these attributes does the title state: {label_set}?",
        "Name the attributes that the title gives a value for. Candidates: {label_set}.\n{sentences}",
        "{sentences}\nSelect from {label_set} all attributes found in the title.",
        "From the attributes {label_set}, keep those this title is explicit about.\n{sentences}",
    ),
    zh=(
        "{sentences}\n标题说明了以下哪些属性：{label_set}？",
        "列出标题给出取值的属性，候选：{label_set}。\n{sentences}",
        "{sentences}\n从{label_set}中选出标题里出现的全部属性。",
        "在{label_set}中保留标题明确提到的属性。\n{sentences}",
    ),
)

VALUE_TYPING = _form(
    name="value_typing",
    family="CLS",
    definition="attribute value typing",
    labels=names_of,
    make=_type_value,
    needs=("choices",),
    operator="simplification",
    abilities=("type spans",),
    en=(
        "{sentences}\nWhich attribute does the value belong to? Choose from {label_set}.",
        "Name the attribute of the given value. Candidates: {label_set}.\n{sentences}",
        "{sentences}\nThe value answers to one of {label_set}. Which?",
        "Tell what the value says about the product: {label_set}?\n{sentences}",
    ),
    zh=(
        "{sentences}\n该取值属于哪个属性？候选：{label_set}。",
        "请写出给定取值的属性名，从{label_set}中选择。\n{sentences}",
        "{sentences}\n这个取值对应{label_set}中的哪一个？",
        "给定的词说明了商品的哪个属性：{label_set}？\n{sentences}",
    ),
)

TITLE_WRITING = _form(
    name="title_writing",
    family="Generate",
    definition="product title generation",
    make=_title,
    needs=("text from annotation",),
    operator="reversal",
    abilities=("write from facts",),
    en=(
        "{sentences}\nWrite a product title with these attributes.",
        "Make a shop title out of the attributes below.\n{sentences}",
        "Generate the title of a product described as follows.\n{sentences}",
        "{sentences}\nWhat would this product's title be?",
    ),
    zh=(
        "{sentences}\n根据以上属性写一个商品标题。",
        "用下面的属性拟一个商品标题。\n{sentences}",
        "请为具有如下属性的商品生成标题。\n{sentences}",
        "{sentences}\n这件商品的标题会是什么？",
    ),
)

DESCRIPTION = _form(
    name="description",
    family="Generate",
    definition="product description",
    make=_describe,
    needs=("description",),
    operator="reversal",
    abilities=("write from facts",),
    en=(
        "{sentences}\nDescribe the product in a short text.",
        "Write a product description from the following information.\n{sentences}",
        "{sentences}\nWrite the text that a shop would show beside this product.",
        "Tell a customer about this product.\n{sentences}",
    ),
    zh=(
        "{sentences}\n请为商品写一段简短的介绍。",
        "根据以下信息撰写商品描述。\n{sentences}",
        "{sentences}\n写出店铺展示这件商品时的文案。",
        "向顾客介绍这件商品。\n{sentences}",
    ),
)

FIT = _form(
    name="attributes_fit",
    family="CLS",
    definition="title attribute matching",
    labels=in_language(MATCH),
    make=_fits,
    operator="recombination",
    abilities=("compare facts",),
    en=(
        "{sentences}\nDo the attributes describe the product of the title? Candidate: {label_set}.",
        "Check whether title and attributes match. Choose from {label_set}.\n{sentences}",
        "{sentences}\nDetermine if this attribute list fits the title. Options: {label_set}.",
        "Could the title and the attributes be of one product? Answer {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这些属性描述的是标题中的商品吗？候选：{label_set}。",
        "检查标题与属性是否匹配，从{label_set}中选择。\n{sentences}",
        "{sentences}\n判断该属性列表是否适合这个标题，可选：{label_set}。",
        "标题和属性可能来自同一件商品吗？回答{label_set}之一。\n{sentences}",
    ),
)

TITLE_SELECTION = _form(
    name="title_selection",
    family="Extract",
    definition="product select",
    make=_select,
    operator="recombination",
    abilities=("compare facts", "compare texts"),
    en=(
        "{sentences}\nSelect the title that best fits the attributes. Output the title only.",
        "Which candidate has these attributes? Copy its title.\n{sentences}",
        "{sentences}\nCopy the candidate title that the attributes describe.",
        "Find the product with the given attributes among the candidates.\n{sentences}\nOutput the title content only.",
    ),
    zh=(
        "{sentences}\n选出与属性最相符的标题，只输出标题。",
        "哪个候选商品具有这些属性？抄写其标题。\n{sentences}",
        "{sentences}\n抄出属性所描述的候选标题。",
        "在候选中找到具有给定属性的商品。\n{sentences}\n只输出标题内容。",
    ),
)
