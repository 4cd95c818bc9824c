"""Tasks over `Dialogue`: replies, turn functions, labels of a whole conversation."""

import functools
import random
from collections.abc import Sequence

from ecomgpt_jax.instruct.records import Dialogue
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

LATEST = 6  # turns of history shown


def transcript(turns: Sequence[tuple[str, str]]) -> str:
    """Returns the latest turns as lines "speaker: text"."""
    return "\n".join(f"{speaker}: {text}" for speaker, text in turns[-LATEST:])


def labels_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns all labels of the dataset's kind as shown, sorted."""
    found = {dataset.display_label(label) for record in records for label in record.labels.get(dataset.kind, ())}
    return tuple(sorted(found - {""}))


def turn_labels_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns all turn labels as shown, sorted."""
    return tuple(sorted({dataset.display_label(label) for record in records for label in record.turn_labels} - {""}))


def _replies(record: Dialogue) -> list[int]:
    """Returns the turns that follow a turn of another speaker."""
    return [i for i in range(1, len(record.turns)) if record.turns[i][0] != record.turns[i - 1][0]]


def _reply(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        places = _replies(record)
        if places:
            at = rng.choice(places)
            speaker, text = record.turns[at]
            given = f"{transcript(record.turns[:at])}\n{speaker}:"
            yield Example(record.id, given, text, spans=answer_span(text))


def _before(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        places = _replies(record)
        if places:
            at = rng.choice(places)
            speaker, text = record.turns[at]
            asked = record.turns[at - 1][1]
            yield Example(record.id, f"{speaker}: {text}", asked, spans=answer_span(asked))


def _which_reply(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for index, record in enumerate(records):
        places = _replies(record)
        if not places:
            continue
        at = rng.choice(places)
        speaker, text = record.turns[at]
        said = [turn for other in others(records, index, 2, rng) for turn in other.turns]
        rest = distinct(t for who, t in said if who == speaker and t != text)
        if not rest:
            continue
        texts = [text, *rng.sample(rest, min(2, len(rest)))]
        rng.shuffle(texts)
        listed = numbered(texts)
        given = f"{transcript(record.turns[:at])}\n{speaker}:\n{listed}"
        yield Example(record.id, given, text, spans=answer_span(text))


def _classify(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        gold = distinct(label for label in map(data.display_label, record.labels.get(data.kind, ())) if label)
        if gold:
            yield Example(record.id, transcript(record.turns), ", ".join(gold), show(labels, gold, rng), gold)


def _turn(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        places = [at for at, label in enumerate(record.turn_labels) if data.display_label(label)]
        if places:
            at = rng.choice(places)
            gold = (data.display_label(record.turn_labels[at]),)
            yield Example(record.id, transcript(record.turns[: at + 1]), gold[0], show(labels, gold, rng), gold)


def _follows(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    for index, record in enumerate(records):
        places = _replies(record)
        if not places:
            continue
        at, truth = rng.choice(places), rng.random() < 0.5
        speaker, text = record.turns[at]
        if not truth:
            said = [turn for other in others(records, index, 1, rng) for turn in other.turns]
            foreign = [t for who, t in said if who == speaker and t != text]
            if not foreign:
                continue
            text = rng.choice(foreign)
        given = f"{transcript(record.turns[:at])}\nReply: {text}"
        yield binary_example(record.id, given, (yes, no), truth, rng)


_form = functools.partial(Form, record=Dialogue)

REPLY = _form(
    name="reply",
    family="Generate",
    definition="dialogue response",
    make=_reply,
    abilities=("write an answer",),
    en=(
        "{sentences}\nWrite the next turn of the conversation.",
        "Continue this conversation with one turn.\n{sentences}",
        "{sentences}\nWhat should be said next?",
        "Give the reply that comes next.\n{sentences}",
    ),
    zh=(
        "{sentences}\n写出对话的下一句。",
        "请接着这段对话说一句。\n{sentences}",
        "{sentences}\n接下来应该说什么？",
        "给出下一句回复。\n{sentences}",
    ),
)

DIALOGUE_LABEL = _form(
    name="dialogue_label",
    family="CLS",
    definition="dialogue classification",
    labels=labels_of,
    make=_classify,
    abilities=("categorise a text",),
    en=(
        "{sentences}\nWhat is the [label] of this conversation? Candidates: {label_set}.",
        "Classify the conversation by [label]. Choose from {label_set}.\n{sentences}",
        "{sentences}\nSelect the [label] from: {label_set}.",
        "[labels]: {label_set}.\n{sentences}\nWhich of them fits the conversation?",
    ),
    zh=(
        "{sentences}\n这段对话的[label]是什么？候选：{label_set}。",
        "判断对话的[label]，从{label_set}中选择。\n{sentences}",
        "{sentences}\n为对话选择[label]，可选：{label_set}。",
        "[label]：{label_set}。\n{sentences}\n哪一个符合这段对话？",
    ),
)

TURN_FUNCTION = _form(
    name="turn_function",
    family="CLS",
    definition="turn function classification",
    labels=turn_labels_of,
    make=_turn,
    needs=("turn functions",),
    operator="simplification",
    abilities=("categorise a text",),
    en=(
        "{sentences}\nWhat is the function of the last turn? Candidates: {label_set}.",
        "Tell what the last turn of the conversation does. Choose from {label_set}.\n{sentences}",
        "{sentences}\nLabel the final turn with one of {label_set}.",
        "Which of {label_set} describes the last turn?\n{sentences}",
    ),
    zh=(
        "{sentences}\n最后一句的作用是什么？候选：{label_set}。",
        "判断对话最后一句在做什么，从{label_set}中选择。\n{sentences}",
        "{sentences}\n用{label_set}之一标注最后一句。",
        "{label_set}中哪一个说明了最后一句的功能？\n{sentences}",
    ),
)

MESSAGE_WRITING = _form(
    name="message_writing",
    family="Generate",
    definition="message writing from a reply",
    make=_before,
    operator="reversal",
    abilities=("write a question",),
    en=(
        "{sentences}\nWrite the message that was answered so.",
        "What was said before this reply? Write it.\n{sentences}",
        "{sentences}\nGuess the message that this turn replies to.",
        "Generate the turn that came just before.\n{sentences}",
    ),
    zh=(
        "{sentences}\n写出得到这一答复的消息。",
        "这句回复之前说的是什么？请写出来。\n{sentences}",
        "{sentences}\n推测这句话所回应的消息。",
        "生成紧接在它之前的一句。\n{sentences}",
    ),
)

REPLY_SELECTION = _form(
    name="reply_selection",
    family="Extract",
    definition="response selection",
    make=_which_reply,
    operator="recombination",
    abilities=("compare texts",),
    en=(
        "{sentences}\nWhich of the numbered replies comes next? Copy it.",
        "Pick the reply that continues the conversation.\n{sentences}\nOutput the reply only.",
        "{sentences}\nCopy the turn that follows.",
        "One of the numbered turns belongs here. Write it out.\n{sentences}",
    ),
    zh=(
        "{sentences}\n编号的回复中哪一句是下一句？请抄写。",
        "选出能接续对话的回复，只输出原句。\n{sentences}",
        "{sentences}\n抄出接下来的一句。",
        "编号的句子中有一句属于这里，请写出它。\n{sentences}",
    ),
)

REPLY_CHECK = _form(
    name="reply_check",
    family="CLS",
    definition="response check",
    labels=in_language(YES_NO),
    make=_follows,
    operator="recombination",
    abilities=("compare texts",),
    en=(
        "{sentences}\nDoes the reply belong to this conversation? Candidates: {label_set}.",
        "Decide if the reply answers the message. Choose from {label_set}.\n{sentences}",
        "{sentences}\nIs that a fitting reply? {label_set}",
        "Was this the reply? Answer {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n这句回复属于这段对话吗？候选：{label_set}。",
        "判断回复是否对应该消息，从{label_set}中选择。\n{sentences}",
        "{sentences}\n这样回复合适吗？可选：{label_set}。",
        "实际的回复是这句吗？回答{label_set}之一。\n{sentences}",
    ),
)
