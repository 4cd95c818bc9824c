"""Tasks over `Question`: extractive and free answers, answerability, evidence."""

import functools
import random
import re

from ecomgpt_jax.instruct.records import Question, Span
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
)

_SENTENCE = re.compile(r"[^.!?。！？]*[.!?。！？]+\s*|[^.!?。！？]+$")


def posed(question: str, context: str) -> str:
    """Returns a question and its context in the format of the release."""
    return f"Context: {context}\nQuestion: {question}"


def sentences_of(context: str) -> list[tuple[int, str]]:
    """Returns the sentences of a text with their offsets."""
    return [(match.start(), match[0]) for match in _SENTENCE.finditer(context) if match[0].strip()]


def _extract(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if record.spans and record.context:
            answer = ", ".join(distinct(span.term for span in record.spans))
            given = posed(record.question, record.context)
            spans = tuple(Span(s.start + 9, s.end + 9, s.type, s.term) for s in record.spans)  # past "Context: "
            yield Example(record.id, given, answer, spans=spans)


def _answer(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if record.answers:
            given = posed(record.question, record.context) if record.context else f"Question: {record.question}"
            answer = rng.choice(record.answers)
            yield Example(record.id, given, answer, spans=answer_span(answer))


def _answerable(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    open_ones = sum(not (record.spans or record.answers) for record in records)
    swapped = 0.0 if 3 * open_ones > len(records) else 0.5  # none where enough are unanswerable
    for index, record in enumerate(records):
        if not record.context:
            continue
        context, truth = record.context, bool(record.spans or record.answers)
        if truth and rng.random() < swapped:
            terms = [span.term for span in record.spans] or list(record.answers)
            foreign = [
                o.context
                for o in others(records, index, 2, rng)
                if o.context and o.question != record.question and not any(term in o.context for term in terms)
            ]
            if foreign:
                context, truth = foreign[0], False
        yield binary_example(record.id, posed(record.question, context), (yes, no), truth, rng)


def _evidence(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        parts = sentences_of(record.context)
        if len(parts) < 2 or not record.spans:
            continue
        span = record.spans[0]
        holding = [text.strip() for at, text in parts if at <= span.start and span.end <= at + len(text)]
        if holding:
            yield Example(record.id, posed(record.question, record.context), holding[0], spans=answer_span(holding[0]))


def _ask(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        answers = distinct(span.term for span in record.spans) or record.answers[:1]
        if answers:
            lead = f"Context: {record.context}\n" if record.context else ""
            given = f"{lead}Answer: {', '.join(answers)}"
            yield Example(record.id, given, record.question, spans=answer_span(record.question))


def _which_context(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for index, record in enumerate(records):
        parts = sentences_of(record.context)
        if not record.spans or not parts:
            continue
        span = record.spans[0]
        holding = [text.strip() for at, text in parts if at <= span.start and span.end <= at + len(text)]
        rest = []
        for other in others(records, index, 2, rng):
            drawn = [text.strip() for _, text in sentences_of(other.context) if span.term not in text]
            if drawn and other.question != record.question:
                rest.append(rng.choice(drawn))
        if holding and rest:
            yield selection(record.id, holding[0], rest, f"Question: {record.question}", rng)


_form = functools.partial(Form, record=Question)

EXTRACTIVE_QA = _form(
    name="extractive_qa",
    family="Extract",
    definition="extractive question answering",
    make=_extract,
    abilities=("find evidence", "find the answer"),
    en=(
        "{sentences}\nAnswer the question with words copied from the context.",
        "Find the span of the context that answers the question.\n{sentences}",
        "{sentences}\nExtract the answer to the question from the context.",
        "Read the context and copy out what answers the question.\n{sentences}",
    ),
    zh=(
        "{sentences}\n用上下文中的原词回答问题。",
        "在上下文中找出能回答问题的片段。\n{sentences}",
        "{sentences}\n从上下文中抽取问题的答案。",
        "阅读上下文，抄出回答问题的内容。\n{sentences}",
    ),
)

ANSWERING = _form(
    name="answering",
    family="Generate",
    definition="question answering",
    make=_answer,
    abilities=("find evidence", "write an answer"),
    en=(
        "{sentences}\nAnswer the customer's question.",
        "Write an answer to the following question.\n{sentences}",
        "{sentences}\nWhat would you reply?",
        "Reply to the customer, using the context where there is one.\n{sentences}",
    ),
    zh=(
        "{sentences}\n请回答顾客的问题。",
        "为下面的问题写出回答。\n{sentences}",
        "{sentences}\n你会怎么答复？",
        "答复顾客，有上下文时请依据上下文。\n{sentences}",
    ),
)

ANSWERABLE = _form(
    name="answerable",
    family="CLS",
    definition="answerability",
    labels=in_language(YES_NO),
    make=_answerable,
    needs=("context",),
    operator="simplification",
    abilities=("find evidence",),
    en=(
        "{sentences}\nDoes the context answer the question? Candidates: {label_set}.",
        "Can the question be answered from the context? Choose from {label_set}.\n{sentences}",
        "{sentences}\nIs the answer in the context: {label_set}?",
        "Judge whether the context is enough to answer. Options: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n上下文能回答这个问题吗？候选：{label_set}。",
        "根据上下文能否作答？从{label_set}中选择。\n{sentences}",
        "{sentences}\n答案在上下文里吗：{label_set}？",
        "判断上下文是否足以回答问题，可选：{label_set}。\n{sentences}",
    ),
)

EVIDENCE = _form(
    name="evidence",
    family="Extract",
    definition="evidence sentence extraction",
    make=_evidence,
    needs=("answer spans",),
    operator="simplification",
    abilities=("find evidence",),
    en=(
        "{sentences}\nWhich sentence of the context holds the answer? Copy it.",
        "Copy the sentence that answers the question.\n{sentences}",
        "{sentences}\nFind the sentence needed to answer.",
        "Point out the evidence for the answer by copying its sentence.\n{sentences}",
    ),
    zh=(
        "{sentences}\n上下文中哪一句包含答案？请抄写。",
        "抄出能回答问题的句子。\n{sentences}",
        "{sentences}\n找出作答所需的那句话。",
        "抄写答案所依据的句子。\n{sentences}",
    ),
)

ASKING = _form(
    name="question_writing",
    family="Generate",
    definition="question generation",
    make=_ask,
    operator="reversal",
    abilities=("write a question",),
    en=(
        "{sentences}\nWrite the question that has this answer.",
        "Which question was asked? Write it.\n{sentences}",
        "{sentences}\nAsk a question that the answer replies to.",
        "Generate a customer's question for the answer below.\n{sentences}",
    ),
    zh=(
        "{sentences}\n写出以此为答案的问题。",
        "顾客问的是什么？请写出问题。\n{sentences}",
        "{sentences}\n提出一个能由该答案回答的问题。",
        "根据下面的答案生成顾客的问题。\n{sentences}",
    ),
)

WHICH_EVIDENCE = _form(
    name="evidence_selection",
    family="Extract",
    definition="evidence selection",
    make=_which_context,
    needs=("answer spans",),
    operator="recombination",
    abilities=("find evidence", "compare texts"),
    en=(
        "{sentences}\nWhich of the numbered sentences answers the question? Copy it.",
        "Pick the sentence that answers the question at the end.\n{sentences}\nOutput the sentence only.",
        "{sentences}\nCopy the sentence that replies to the question.",
        "One of these sentences is the evidence. Write it out.\n{sentences}",
    ),
    zh=(
        "{sentences}\n编号的句子中哪一句回答了问题？请抄写。",
        "选出能回答末尾问题的句子，只输出原句。\n{sentences}",
        "{sentences}\n抄出回应该问题的句子。",
        "下列句子中有一句是依据，请写出它。\n{sentences}",
    ),
)
