"""Tasks over `TextPair`: two offers of a product, a query and a title, a question and its evidence."""

import dataclasses
import functools
import random
from collections.abc import Sequence

from ecomgpt_jax.instruct.records import TextPair
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
    numbered,
    others,
    show,
)


def labels_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the pair labels of all records as shown, sorted."""
    return tuple(sorted({dataset.display_label(record.label) for record in records} - {""}))


def _relate(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    left, right = data.pair
    for record in records:
        gold = data.display_label(record.label)
        if gold:
            given = f"{left}: {record.left}\n{right}: {record.right}"
            yield Example(record.id, given, gold, show(labels, (gold,), rng), (gold,))


def _select(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    left, right = data.pair
    for index, record in enumerate(records):
        if record.label != data.positive:
            continue
        texts = [o.right for o in others(records, index, 2, rng) if o.right != record.right and o.left != record.left]
        if not texts:
            continue
        texts.append(record.right)
        rng.shuffle(texts)
        given = f"{left}: {record.left}\nCandidate {right}: {', '.join(texts)}"
        yield Example(record.id, given, record.right, spans=answer_span(record.right))


def _check(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    left, right = data.pair
    for index, record in enumerate(records):
        if record.label != data.positive:
            continue
        text, truth = record.right, rng.random() < 0.5
        if not truth:
            drawn = [o.right for o in others(records, index, 1, rng) if o.right != text and o.left != record.left]
            if not drawn:
                continue
            text = drawn[0]
        given = f"{left}: {record.left}\n{right}: {text}"
        yield binary_example(record.id, given, (yes, no), truth, rng)


def _rewrite(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if record.label == data.positive:
            yield Example(record.id, record.right, record.left, spans=answer_span(record.left))


def _words(text: str, attributes: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the words of a text; of a list of fields only the words of the values."""
    return (" ".join(value for _, value in attributes) if len(attributes) > 1 else text).split()


def _shared(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    left, right = data.pair
    for record in records:
        known = {word.casefold() for word in _words(record.right, record.right_attributes)}
        words = distinct(_words(record.left, record.left_attributes))
        common = tuple(word for word in words if word.casefold() in known and len(word) > 1)
        if common:
            given = f"{left}: {record.left}\n{right}: {record.right}"
            yield Example(record.id, given, ", ".join(common), spans=answer_span(*common))


def _grade(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    left, right = data.pair
    grades = tuple(data.rename.values()) or labels  # in the order of the scale
    for record in records:
        gold = data.display_label(record.label)
        if gold:
            given = f"{left}: {record.left}\n{right}: {record.right}"
            yield Example(record.id, given, gold, distinct(grade for grade in grades if grade), (gold,))


def _best(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    left, right = data.pair
    asked: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for record in records:
        good, bad = asked.setdefault((record.group, record.left), ([], []))
        (good if record.label == data.positive else bad).append(record.right)
    for record in records:
        good, bad = asked[record.group, record.left]
        wrong = [text for text in distinct(bad) if text not in good]
        if record.label != data.positive or not wrong:
            continue
        texts = [record.right, *rng.sample(wrong, min(3, len(wrong)))]
        rng.shuffle(texts)
        listed = numbered(texts)
        given = f"{left}: {record.left}\nCandidate {right}:\n{listed}"
        yield Example(record.id, given, record.right, spans=answer_span(record.right))


def _convert(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if record.label == data.positive:
            yield Example(record.id, record.left, record.right, spans=answer_span(record.right))


_form = functools.partial(Form, record=TextPair)

RELATION = _form(
    name="matching",
    family="CLS",
    definition="text pair matching",
    labels=labels_of,
    make=_relate,
    abilities=("compare texts",),
    en=(
        "{sentences}\nHow do the two relate? Candidate labels: {label_set}.",
        "Compare the two texts and choose one of {label_set}.\n{sentences}",
        "{sentences}\nDetermine whether the two belong together. Candidates: {label_set}.",
        "Labels: {label_set}.\n{sentences}\nWhich label holds for this pair?",
    ),
    zh=(
        "{sentences}\n两者的关系是什么？候选：{label_set}。",
        "比较两段文本，从{label_set}中选择一个。\n{sentences}",
        "{sentences}\n判断两者是否对应，候选：{label_set}。",
        "标签：{label_set}。\n{sentences}\n这一对属于哪个标签？",
    ),
)

SELECTION = _form(
    name="selection",
    family="Extract",
    definition="candidate select",
    make=_select,
    needs=("distinct texts",),
    operator="recombination",
    abilities=("compare texts",),
    en=(
        "{sentences}\nSelect the candidate that best matches. Output its text only.",
        "Which candidate goes with the first text? Copy it.\n{sentences}",
        "{sentences}\nCopy the matching candidate.",
        "Find the best match among the candidates.\n{sentences}\nOutput the content only.",
    ),
    zh=(
        "{sentences}\n选出最匹配的候选，只输出原文。",
        "哪个候选与第一条对应？请抄写。\n{sentences}",
        "{sentences}\n抄出匹配的候选。",
        "在候选中找到最合适的一条。\n{sentences}\n只输出内容。",
    ),
)

PAIR_CHECK = _form(
    name="pair_check",
    family="CLS",
    definition="pair check",
    labels=in_language(YES_NO),
    make=_check,
    needs=("comparable texts",),
    operator="recombination",
    abilities=("compare texts",),
    en=(
        "{sentences}\nDo these two go together? Candidates: {label_set}.",
        "Answer {label_set}: does the second text suit the first?\n{sentences}",
        "{sentences}\nIs this a true pair? Choose from {label_set}.",
        "Tell whether the pair was put together correctly: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这两条相配吗？候选：{label_set}。",
        "回答{label_set}之一：第二条是否适合第一条？\n{sentences}",
        "{sentences}\n这是正确的一对吗？从{label_set}中选择。",
        "判断这一对搭配是否正确：{label_set}。\n{sentences}",
    ),
)

REWRITING = _form(
    name="rewriting",
    family="Generate",
    definition="counterpart writing",
    make=_rewrite,
    needs=("text from annotation",),
    operator="reversal",
    abilities=("rewrite a text",),
    en=(
        "{sentences}\nWrite the [text] that belongs to it.",
        "For the text below, write a matching [text].\n{sentences}",
        "{sentences}\nWhich [text] would go with it? Write one.",
        "Generate a [text] for the following.\n{sentences}",
    ),
    zh=(
        "{sentences}\n写出与之对应的[text]。",
        "请为下面的文本写一条匹配的[text]。\n{sentences}",
        "{sentences}\n什么样的[text]与它相配？请写一条。",
        "根据以下内容生成[text]。\n{sentences}",
    ),
)

SHARED_WORDS = _form(
    name="shared_words",
    family="Extract",
    definition="shared word extraction",
    make=_shared,
    needs=("common words",),
    operator="simplification",
    abilities=("compare texts",),
    en=(
        "{sentences}\nWhich words occur in both?",
        "List the words that the two texts share.\n{sentences}",
        "{sentences}\nCopy every word of the first that the second holds too.",
        "Find what the two have in common, word by word.\n{sentences}",
    ),
    zh=(
        "{sentences}\n哪些词在两者中都出现？",
        "列出两段文本共有的词。\n{sentences}",
        "{sentences}\n抄出第一条中在第二条里也出现的词。",
        "逐词找出两者的相同之处。\n{sentences}",
    ),
)

RELEVANCE = _form(
    name="relevance",
    family="CLS",
    definition="relevance grading",
    labels=labels_of,
    make=_grade,
    abilities=("compare texts",),
    en=(
        "{sentences}\nHow relevant is the second text to the [text]? Grades: {label_set}.",
        "Grade the relevance of the second text. Choose one of {label_set}.\n{sentences}",
        "{sentences}\nWould someone with this [text] be helped by the second text? Answer with one of {label_set}.",
        "Relevance grades: {label_set}.\n{sentences}\nWhich grade does the pair deserve?",
    ),
    zh=(
        "{sentences}\n第二段文本与[text]的相关程度如何？等级：{label_set}。",
        "评定第二段文本的相关性，从{label_set}中选择一个。\n{sentences}",
        "{sentences}\n第二段文本能满足这个[text]吗？用{label_set}之一回答。",
        "相关性等级：{label_set}。\n{sentences}\n这一对应当评为哪一级？",
    ),
)

BEST = _form(
    name="best_candidate",
    family="Extract",
    definition="candidate ranking",
    make=_best,
    operator="recombination",
    abilities=("compare texts",),
    en=(
        "{sentences}\nWhich candidate is the most relevant to the [text]? Copy it.",
        "Pick the candidate that suits the [text] best.\n{sentences}\nOutput its text only.",
        "{sentences}\nRank the candidates in your mind and copy the one at the top.",
        "Only one of the candidates fully fits the [text]. Write it out.\n{sentences}",
    ),
    zh=(
        "{sentences}\n哪个候选与[text]最相关？请抄写。",
        "选出最符合[text]的候选。\n{sentences}\n只输出原文。",
        "{sentences}\n比较各个候选，抄出最好的一个。",
        "候选中只有一个完全符合[text]，请写出它。\n{sentences}",
    ),
)

CONVERSION = _form(
    name="conversion",
    family="Generate",
    definition="text conversion",
    make=_convert,
    abilities=("rewrite a text",),
    en=(
        "{sentences}\nWrite the [label] for this [text].",
        "What is the [label] of the [text] below? Write it.\n{sentences}",
        "{sentences}\nGive a fitting [label].",
        "Read the [text] and produce its [label].\n{sentences}",
    ),
    zh=(
        "{sentences}\n为这条[text]写出[label]。",
        "下面这条[text]的[label]是什么？请写出来。\n{sentences}",
        "{sentences}\n给出合适的[label]。",
        "阅读[text]，写出它的[label]。\n{sentences}",
    ),
)


def conversion(name: str, definition: str) -> Form:
    """Returns `CONVERSION` with its own name and definition; it maps the left text of a pair to the right one."""
    return dataclasses.replace(CONVERSION, name=name, definition=definition)
