"""Customer service: intents with answers (Bitext), helpdesk dialogues (STC-3), booking slots (Restaurant-8k).

Upstream: Bitext's support dataset; NTCIR-14 STC-3 (Zeng et al., 2018); Restaurant-8k (Coope et al., ACL 2020).
"""

import collections
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.records import Dialogue, LabelledText, Record, Span, SpannedText
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    csv_rows,
    json_array,
    make_span,
    text_group,
    zip_member,
)

HELPDESK_PARTS = {
    "data/train_data_cn.json": "zh",
    "data/train_data_en.json": "en",
    "data/test_data_cn.json": "zh",
    "data/test_data_en.json": "en",
}
# What the annotation of STC-3 calls nuggets: trigger (0), regular, goal (*), none (NaN), of customer and helpdesk.
TURN_FUNCTIONS = {
    "CNUG0": "customer states the problem",
    "CNUG": "customer gives information",
    "CNUG*": "customer confirms the solution",
    "CNaN": "customer says nothing to the point",
    "HNUG": "helpdesk gives information",
    "HNUG*": "helpdesk gives the solution",
    "HNaN": "helpdesk says nothing to the point",
}
QUALITIES = {"A": "task accomplishment", "S": "customer satisfaction", "E": "dialogue effectiveness"}


def read_bitext(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `LabelledText` (intent, category), a `Dialogue` (with the answer) and a `SpannedText` of any entity.

    Upstream numbers have lost digits in `entity_value` or in the text: the digits at the start offset count.
    """
    for file in files:
        for number, row in csv_rows(folder, file, log):
            id_, text = f"{file}:{number}", row["instruction"]
            common = {"group": text_group(text, id_), "language": "en"}
            spans: tuple[Span, ...] = ()
            if row["entity_type"]:
                try:
                    spans = (_entity(text, row),)
                except ValueError as error:
                    log.reject(file, number, "entity_value", str(error), text)
                    continue
            labels = {"intent": (row["intent"],), "category": (row["category"],)}
            yield LabelledText(id=id_, text=text, labels=labels, **common)
            turns = (("customer", text), ("agent", row["response"].replace("\r\n", "\n").strip()))
            yield Dialogue(id=f"{id_}#answer", turns=turns, labels=labels, **common)
            if spans:
                yield SpannedText(id=f"{id_}#entity", text=text, spans=spans, **common)


def _entity(text: str, row: Mapping[str, str]) -> Span:
    start, end, value = int(row["start_offset"]), int(row["end_offset"]), row["entity_value"]
    if value.isdecimal():
        end = start + len(text[start:]) - len(text[start:].lstrip("0123456789"))
    span = make_span(text, start, end, row["entity_type"].replace("_", " "))
    if not span.term.casefold().lstrip("0").startswith(value.casefold()):
        raise ValueError(f"entity {value!r} is not at its offsets, which hold {span.term!r}")
    return span


def read_helpdesk(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields each `Dialogue`: turns with their function, and three qualities from "-2" to "2", by majority of 19.

    Test dialogues have no annotation. A dialogue and its translation share a group. Turns without text (a picture)
    are left out with their label.

    Raises:
        DataError: The archive is broken.
    """
    file = "data.zip"
    for part, language in HELPDESK_PARTS.items():
        try:
            rows = json.loads(zip_member(folder / file, part))
        except ValueError as error:
            raise DataError(f"{folder / file}: {part}: {error}") from error
        for number, row in enumerate(rows, 1):
            log.rows += 1
            try:
                yield _dialogue(f"{part}:{number}", language, row)
            except (KeyError, TypeError, ValueError) as error:
                log.reject(file, number, part, f"not a dialogue: {error!r}", row)


def _dialogue(id_: str, language: str, row: Mapping[str, Any]) -> Dialogue:
    annotations = row.get("annotations", ())
    functions = [
        TURN_FUNCTIONS[_majority(each["nugget"][turn] for each in annotations)] if annotations else ""
        for turn in range(len(row["turns"]))
    ]
    kept = []
    for turn, function in zip(row["turns"], functions, strict=True):
        text = "\n".join(filter(None, (each.replace("\u200b", "").strip() for each in turn["utterances"])))
        if text:
            kept.append((turn["sender"], text, function))
    return Dialogue(
        id=id_,
        group=f"helpdesk:{row['id']}",
        language=language,
        supervision="gold" if annotations else "none",
        turns=tuple((speaker, text) for speaker, text, _ in kept),
        labels={
            name: (str(_majority(each["quality"][letter] for each in annotations)),)
            for letter, name in QUALITIES.items()
            if annotations
        },
        turn_labels=tuple(function for *_, function in kept) if annotations else (),
    )


def _majority(votes: Iterable[Any]) -> Any:
    """Returns the most frequent vote, of equally frequent ones the smallest."""
    return min(collections.Counter(votes).items(), key=lambda item: (-item[1], item[0]))[0]


def read_slots(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `SpannedText` per utterance, and a `LabelledText` ("requested") if the system had asked for slots."""
    for file in files:
        for number, row in json_array(folder, file, log):
            id_ = f"{file}:{number}"
            try:
                text = row["userInput"]["text"]
                spans = [
                    make_span(text, each["valueSpan"].get("startIndex", 0), each["valueSpan"]["endIndex"], each["slot"])
                    for each in row.get("labels", ())
                ]
                requested = tuple(dict.fromkeys(row.get("context", {}).get("requestedSlots", ())))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.reject(file, number, "labels", f"not slots of the utterance: {error}", row)
                continue
            named = tuple(
                Span(span.start, span.end, span.type.replace("_", " "), span.term)
                for span in sorted(spans, key=lambda span: span.start)
            )
            common = {"group": text_group(text, id_), "language": "en", "text": text}
            yield SpannedText(id=id_, spans=named, **common)
            if requested:
                labels = {"requested": tuple(slot.replace("_", " ") for slot in requested)}
                yield LabelledText(id=f"{id_}#requested", labels=labels, **common)


SOURCES = (
    Source(
        name="en_bitext_support",
        language="en",
        licence="CDLA-Sharing-1.0",
        redistributable=True,
        upstream=Upstream(
            "bitext/customer-support-llm-chatbot-training-dataset",
            "8b6ca3d9559a4a9abab94f7978fae67019215a82",
            "data/train",
        ),
        files=FILES["en_bitext_support"],
        records=4514,
        read=read_bitext,
        note="a row is an utterance with its intent, a dialogue with the answer and, where it has one, an entity span",
    ),
    Source(
        name="zh_en_helpdesk_dialogues",
        language="zh+en",
        licence="CC BY 4.0 (annotations)",
        redistributable=True,
        upstream=Upstream("SB233/stc3-dataset", "90da527709dab26a4912a70746c09da06518d46b"),
        files=FILES["zh_en_helpdesk_dialogues"],
        records=6152,
        read=read_helpdesk,
    ),
    Source(
        name="en_restaurant_slots",
        language="en",
        licence="CC BY 4.0",
        redistributable=True,
        upstream=Upstream(
            "PolyAI-LDN/task-specific-datasets",
            "57ec275d8078af65b7731c2a98be812d844a6d6b",
            "span_extraction/restaurant8k",
        ),
        files=FILES["en_restaurant_slots"],
        records=11929,
        read=read_slots,
        note="a row is a text with spans and, if slots were requested, a text with their names",
    ),
)
