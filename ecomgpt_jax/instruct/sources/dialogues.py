"""Customer service: intents with answers (Bitext), helpdesk dialogues (STC-3), booking slots (Restaurant-8k).

Upstream: Bitext's support dataset; NTCIR-14 STC-3 (Zeng et al., 2018); Restaurant-8k (Coope et al., ACL 2020).
"""

import collections
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.records import Dialogue, Draft, LabelledText, Span, SpannedText, draft
from ecomgpt_jax.instruct.sources.fields import make_span, spanned
from ecomgpt_jax.instruct.sources.reading import Source
from ecomgpt_jax.instruct.sources.rows import json_array, zip_member

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


def support_request(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields a `LabelledText` (intent, category), a `Dialogue` (with the answer) and a `SpannedText` of any entity.

    Numbers upstream lack digits in `entity_value` or in the text: the digits at the start offset are used.
    """
    text, labels = row["instruction"], {"intent": (row["intent"],), "category": (row["category"],)}
    yield draft(LabelledText, text=text, labels=labels)
    turns = (("customer", text), ("agent", row["response"].replace("\r\n", "\n").strip()))
    yield draft(Dialogue, "answer", turns=turns, labels=labels)
    if row["entity_type"]:
        yield draft(SpannedText, "entity", text=text, spans=(_entity(text, row),))


def _entity(text: str, row: Mapping[str, str]) -> Span:
    start, end, value = int(row["start_offset"]), int(row["end_offset"]), row["entity_value"]
    if value.isdecimal():
        end = start + len(text[start:]) - len(text[start:].lstrip("0123456789"))
    span = make_span(text, start, end, row["entity_type"].replace("_", " "))
    if not span.term.casefold().lstrip("0").startswith(value.casefold()):
        raise ValueError(f"entity {value!r} is not at its offsets, which hold {span.term!r}")
    return span


def helpdesk_rows(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
    """Yields (part of the archive, place in it, dialogue).

    Raises:
        DataError: The archive is broken.
    """
    for file in files:
        for part in HELPDESK_PARTS:
            try:
                rows = json.loads(zip_member(folder / file, part))
            except ValueError as error:
                raise DataError(f"{folder / file}: {part}: {error}") from error
            yield from ((part, number, row) for number, row in enumerate(rows, 1))


def helpdesk_dialogue(row: Mapping[str, Any], part: str) -> Iterator[Draft]:
    """Yields a `Dialogue`: turns with their function, and three qualities from "-2" to "2", by majority of 19.

    Test dialogues have no annotation. A dialogue and its translation share a group. Turns without text (a picture)
    are left out with their label.
    """
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
    yield draft(
        Dialogue,
        group=f"helpdesk:{row['id']}",
        language=HELPDESK_PARTS[part],
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


def booking_slots(row: Mapping[str, Any], file: str) -> Iterator[Draft]:
    """Yields a `SpannedText` of an utterance, and a `LabelledText` ("requested") if the system had asked for slots."""
    text = row["userInput"]["text"]
    values = [
        {"startIndex": 0} | each["valueSpan"] | {"slot": each["slot"].replace("_", " ")}
        for each in row.get("labels", ())
    ]
    places = {"text": text, "spans": values}
    yield from spanned(places, file, text="text", spans="spans", start="startIndex", end="endIndex", kind="slot")
    if requested := dict.fromkeys(row.get("context", {}).get("requestedSlots", ())):
        labels = {"requested": tuple(slot.replace("_", " ") for slot in requested)}
        yield draft(LabelledText, "requested", text=text, labels=labels)


SOURCES = (
    Source(
        name="en_bitext_support",
        licence="CDLA-Sharing-1.0",
        redistributable=True,
        place=(
            "bitext/customer-support-llm-chatbot-training-dataset@8b6ca3d9559a4a9abab94f7978fae67019215a82/data/train"
        ),
        records=4514,
        record=support_request,
        note="a row is an utterance with its intent, a dialogue with the answer and, where it has one, an entity span",
    ),
    Source(
        name="zh_en_helpdesk_dialogues",
        licence="CC BY 4.0 (annotations)",
        redistributable=True,
        place="SB233/stc3-dataset@90da527709dab26a4912a70746c09da06518d46b",
        records=6152,
        joined=helpdesk_rows,
        record=helpdesk_dialogue,
    ),
    Source(
        name="en_restaurant_slots",
        licence="CC BY 4.0",
        redistributable=True,
        place="PolyAI-LDN/task-specific-datasets@57ec275d8078af65b7731c2a98be812d844a6d6b/span_extraction/restaurant8k",
        records=11929,
        rows=json_array,
        record=booking_slots,
        note="a row is a text with spans and, if slots were requested, a text with their names",
    ),
)
