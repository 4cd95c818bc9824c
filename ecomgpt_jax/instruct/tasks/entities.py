"""Tasks over `SpannedText`: named entities, attribute values, address parts, slots."""

import functools
import random
from collections.abc import Sequence

from ecomgpt_jax.instruct.records import Span, SpannedText
from ecomgpt_jax.instruct.tasks.task import (
    NOTHING,
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


def types_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the span types of all records as shown, sorted."""
    return tuple(sorted({dataset.display_label(span.type) for r in records for span in r.spans} - {""}))


def typed(record: SpannedText, dataset: Dataset) -> list[Span]:
    """Returns the spans whose type is shown, with that type."""
    if not dataset.rename and dataset.spelling is str:
        return list(record.spans)
    spans = [Span(s.start, s.end, dataset.display_label(s.type), s.term) for s in record.spans]
    return [span for span in spans if span.type]


def terms(spans: Sequence[Span], kind: str = "") -> tuple[str, ...]:
    """Returns the distinct terms of one type (of all if `kind` is empty), in order of appearance."""
    return distinct(span.term for span in spans if not kind or span.type == kind)


def by_type(spans: Sequence[Span], kinds: Sequence[str]) -> str:
    """Returns the release's NER answer: a line "Type: term, term" or "Type: None" for each of `kinds`."""
    return "\n".join(f"{kind}: {', '.join(terms(spans, kind)) or NOTHING}" for kind in kinds)


def _recognise(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = typed(record, data)
        if spans:
            shown = show(labels, distinct(span.type for span in spans), rng)
            yield Example(record.id, record.text, by_type(spans, shown), shown, (), tuple(spans))


def _detect(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = typed(record, data)
        if spans:
            shown = show(labels, distinct(span.type for span in spans), rng)
            yield Example(record.id, record.text, ", ".join(terms(spans)), shown, (), tuple(spans))


def _one_type(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = typed(record, data)
        present = distinct(span.type for span in spans)
        if not present:
            continue
        absent = [label for label in labels if label not in present]
        kind = rng.choice(absent) if absent and rng.random() < 0.2 else rng.choice(present)
        answer = ", ".join(terms(spans, kind)) or NOTHING
        gold = tuple(span for span in spans if span.type == kind)
        yield Example(record.id, f"Text: {record.text}\nType: {kind}", answer, (), (), gold)


def _type_span(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = typed(record, data)
        if spans:
            span = rng.choice(spans)
            gold = distinct(other.type for other in spans if other.term == span.term)
            yield Example(
                record.id, f"Text: {record.text}\nSpan: {span.term}", ", ".join(gold), show(labels, gold, rng), gold
            )


def _list_types(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = distinct(span.type for span in typed(record, data))
        if gold:
            yield Example(record.id, record.text, ", ".join(gold), show(labels, gold, rng), gold)


def _compose(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        spans = typed(record, data)
        if spans:
            given = by_type(spans, distinct(span.type for span in spans))
            yield Example(record.id, given, record.text, spans=answer_span(record.text))


def _check(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    for index, record in enumerate(records):
        spans = typed(record, data)
        if not spans:
            continue
        span, truth = rng.choice(spans), rng.random() < 0.5
        term, kind = span.term, span.type
        if not truth:
            own = {(s.term, s.type) for s in spans}
            foreign = [s for other in others(records, index, 1, rng) for s in typed(other, data)]
            foreign = [s for s in foreign if (s.term, s.type) not in own]
            if not foreign:
                continue
            term, kind = (lambda s: (s.term, s.type))(rng.choice(foreign))
        yield binary_example(record.id, f"Text: {record.text}\nClaim: {kind}: {term}", (yes, no), truth, rng)


def _which_text(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for index, record in enumerate(records):
        spans = typed(record, data)
        if not spans:
            continue
        span = rng.choice(spans)
        rest = [o.text for o in others(records, index, 2, rng) if span.term not in o.text]
        if rest:
            yield selection(record.id, record.text, rest, f"{span.type}: {span.term}", rng)


_form = functools.partial(Form, record=SpannedText)

RECOGNITION = _form(
    name="recognition",
    family="NER",
    definition="named entity recognition",
    labels=types_of,
    make=_recognise,
    abilities=("find spans", "type spans"),
    en=(
        "{sentences}\nExtract the [labels] {label_set} from the [text], one type a line.",
        "Find every mention of {label_set} in the [text].\n{sentences}\nWrite 'type: mentions', a line for each type.",
        "{sentences}\nExtract all spans and their [label] from the [text]. Types: {label_set}. None if there is none.",
        "Read the [text] and list, for each of {label_set}, what it names.\n{sentences}",
        "[labels]: {label_set}\n{sentences}\nRecognize all entities in this [text] together with their type.",
    ),
    zh=(
        "{sentences}\n从上面的[text]中抽取以下[label]的内容，每个类型一行：{label_set}。",
        "请找出[text]中属于{label_set}的全部内容，没有的写None。\n{sentences}",
        "{sentences}\n识别[text]里的各个[label]及其取值，候选：{label_set}。",
        "[label]：{label_set}\n{sentences}\n按“类型: 内容”的格式逐行输出[text]中的实体。",
        "阅读下面的[text]，对{label_set}逐一给出其中提到的词语。\n{sentences}",
    ),
)

SPAN_DETECTION = _form(
    name="span_detection",
    family="Condition_Extract",
    definition="entity span detection",
    labels=types_of,
    make=_detect,
    needs=("several types", "several spans"),
    operator="simplification",
    abilities=("find spans",),
    en=(
        "{sentences}\nDetect the spans in this [text] that are about {label_set}. Their types are not needed.",
        "Which words of the [text] belong to one of {label_set}?\n{sentences}\nOutput only the words, with commas.",
        "{sentences}\nList every mention of {label_set} in the [text], without naming its type.",
        "Find all spans concerning {label_set} in the following [text].\n{sentences}",
    ),
    zh=(
        "{sentences}\n找出[text]中与{label_set}有关的全部片段，不需要给出类型。",
        "下面的[text]里哪些词属于{label_set}？只输出这些词。\n{sentences}",
        "{sentences}\n检测[text]中所有关于{label_set}的内容，用逗号隔开。",
        "请标出[text]中涉及{label_set}的词语。\n{sentences}",
    ),
)

ONE_TYPE = _form(
    name="one_type",
    family="Extract",
    definition="extraction of one type",
    make=_one_type,
    needs=("several types",),
    operator="simplification",
    abilities=("find spans of a type",),
    en=(
        "{sentences}\nExtract from the [text] what belongs to the given type, or answer None.",
        "Copy the words of the [text] that have the type named below it.\n{sentences}",
        "{sentences}\nWhat does the [text] say for this [label]? Write None if it says nothing.",
        "Look for one [label] only, the one given last.\n{sentences}\nOutput the mentions, separated by commas.",
    ),
    zh=(
        "{sentences}\n抽取[text]中属于给定类型的内容，没有则回答None。",
        "只看下面给出的一个[label]，输出[text]里对应的词语。\n{sentences}",
        "{sentences}\n这条[text]中该[label]的取值是什么？没有就写None。",
        "请根据给定的类型，从[text]中抄出相应的词。\n{sentences}",
    ),
)

TYPING = _form(
    name="span_typing",
    family="CLS",
    definition="entity typing",
    labels=types_of,
    make=_type_span,
    needs=("several types",),
    operator="simplification",
    abilities=("type spans",),
    en=(
        "{sentences}\nWhich type does the span have in this [text]? Choose from {label_set}.",
        "Give the [label] of the span below. Candidates: {label_set}.\n{sentences}",
        "{sentences}\nThe span is one of these [labels]: {label_set}. Which?",
        "Decide what kind of thing the span names in the [text]. Options: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n给定的片段在[text]中属于哪种类型？候选：{label_set}。",
        "请判断下面片段的[label]，从{label_set}中选择。\n{sentences}",
        "{sentences}\n该片段的[label]是什么？可选：{label_set}。",
        "选择片段对应的类别：{label_set}。\n{sentences}",
    ),
)

TYPE_LISTING = _form(
    name="type_listing",
    family="CLS",
    definition="entity type listing",
    labels=types_of,
    make=_list_types,
    needs=("several types", "choices"),
    operator="simplification",
    abilities=("spot types",),
    en=(
        "{sentences}\nWhich of these [labels] does the [text] mention: {label_set}?",
        "Name the [labels] that occur in the [text]. Candidates: {label_set}.\n{sentences}",
        "{sentences}\nSelect all [labels] found in the above [text] from: {label_set}.",
        "From {label_set}, keep those that the following [text] says something about.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这条[text]提到了哪些[label]？候选：{label_set}。",
        "从{label_set}中选出[text]里出现的全部[label]。\n{sentences}",
        "{sentences}\n请列出[text]涉及的[label]，可选：{label_set}。",
        "下面的[text]包含哪几种[label]？从{label_set}里选。\n{sentences}",
    ),
)

COMPOSITION = _form(
    name="composition",
    family="Generate",
    definition="text composition from entities",
    make=_compose,
    needs=("text from annotation",),
    operator="reversal",
    abilities=("write from facts",),
    en=(
        "{sentences}\nWrite a [text] that holds the information above.",
        "Turn these entries into one [text].\n{sentences}",
        "Compose a [text] that mentions all of the following.\n{sentences}",
        "{sentences}\nThe list was taken from a [text]. Write that [text].",
    ),
    zh=(
        "{sentences}\n请用上面的信息写一条[text]。",
        "把下面的内容组合成一条[text]。\n{sentences}",
        "根据给出的条目写出[text]，要包含全部内容。\n{sentences}",
        "{sentences}\n以上信息来自一条[text]，请写出这条[text]。",
    ),
)

CHECK = _form(
    name="claim_check",
    family="CLS",
    definition="entity claim check",
    labels=in_language(YES_NO),
    make=_check,
    operator="recombination",
    abilities=("verify a span",),
    en=(
        "{sentences}\nDoes the [text] support the claim? Candidates: {label_set}.",
        "Check the claim against the [text] and answer with one of {label_set}.\n{sentences}",
        "{sentences}\nIs the claim right for this [text]? {label_set}",
        "Judge whether the claim below holds for the [text]. Choose from: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n[text]是否支持这一说法？候选：{label_set}。",
        "请对照[text]核实下面的说法，回答{label_set}之一。\n{sentences}",
        "{sentences}\n这个说法对该[text]成立吗？可选：{label_set}。",
        "判断说法与[text]是否一致，从{label_set}中选择。\n{sentences}",
    ),
)

WHICH_TEXT = _form(
    name="text_selection",
    family="Extract",
    definition="text selection",
    make=_which_text,
    needs=("distinct texts",),
    operator="recombination",
    abilities=("verify a span", "compare texts"),
    en=(
        "{sentences}\nWhich of the numbered texts mentions the entry in the last line? Copy that text.",
        "Pick the [text] that contains the entry given at the end.\n{sentences}\nOutput the text only.",
        "{sentences}\nCopy the [text] that fits the last line.",
        "One of these texts holds the entry given at the end. Write it out.\n{sentences}",
    ),
    zh=(
        "{sentences}\n哪一条[text]提到了最后一行的内容？请抄写该条。",
        "从下面编号的[text]中选出包含最后一行内容的那一条，只输出原文。\n{sentences}",
        "{sentences}\n抄出与最后一行相符的[text]。",
        "下列[text]中有一条含有末行给出的内容，请写出它。\n{sentences}",
    ),
)
