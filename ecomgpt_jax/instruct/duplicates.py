"""Finds near duplicates: records of different groups with almost the same text, within a source and across sources.

Two texts count as near duplicates when they hold the same digits and at least three quarters of their 96 min-hashes
agree, which estimates the share of character 4-grams (letters and digits only) that they have in common; a record of
two texts (a query and a title, a question and its context) is one only if both are. Records of one group are not
compared: a source may annotate that two offers are of one product, and they are in one split anyway. Texts so short
that independent authors write the same are not compared either.

Each record is compared with the first kept one of each of its 12 buckets, so time is linear in the number of records;
memory is 100 MB for buckets plus 220 bytes per record. The same records in the same order give the same result in any
process.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from ecomgpt_jax.instruct.contamination import long_enough, normalise
from ecomgpt_jax.instruct.records import AttributedItem, Dialogue, Question, Record, TextPair

SHARE = 0.75
_HASHES, _BANDS, _BAND = 96, 12, 4  # the buckets come from the first 12 times 4 hashes
_SLOTS = 2**21
_EACH_BAND = np.arange(_BANDS)
_CHUNK = 2**16  # characters hashed at a time, which fit into a core's cache
_MIXER = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd
_NO_DIGIT = re.compile(r"\D+")


@dataclasses.dataclass(frozen=True)
class Sketch:
    """The features of records that are compared, in the records' order.

    Attributes:
      signatures: [records, 2, 96] uint8, the low bits of the min-hashes of both texts.
      slots: [records, 12] int32, the bucket of each band of min-hashes and the digits.
      groups: [records] uint64, hash of source and group.
      texts: [records] uint64, hash of both texts; 0 if they are too short to be compared.
    """

    signatures: np.ndarray
    slots: np.ndarray
    groups: np.ndarray
    texts: np.ndarray


def sketch(source: str, records: Sequence[Record]) -> Sketch:
    """Returns the sketch of a source's records, independent of other sources."""
    texts = [tuple(map(normalise, compared(record))) for record in records]
    hashes = _min_hashes([text for pair in texts for text in pair]).reshape(len(records), 2, _HASHES)
    bands = hashes[:, :, : _BANDS * _BAND].reshape(len(records), 2, _BANDS, _BAND).astype(np.uint64)
    digits = _digests(_NO_DIGIT.sub(" ", "\n".join(pair)) for pair in texts)
    weights = _constants(2 * _BAND).reshape(2, 1, _BAND)
    mixed = ((bands * weights).sum((1, 3), dtype=np.uint64) ^ digits[:, None]) * np.uint64(_MIXER)
    compared_at_all = np.array([long_enough("".join(pair)) for pair in texts], np.bool_)
    return Sketch(
        signatures=hashes.astype(np.uint8),
        slots=((mixed >> np.uint64(32)) % np.uint64(_SLOTS)).astype(np.int32),
        groups=_digests(f"{source}\n{record.group}" for record in records),
        texts=np.where(compared_at_all, _digests("\n".join(pair) for pair in texts), np.uint64(0)),
    )


def compared(record: Record) -> tuple[str, str]:
    """Returns the two texts that identify a record; the second may be empty."""
    match record:
        case TextPair():
            return record.left, record.right
        case AttributedItem():
            return record.title, "\n".join((record.description, *(value for _, value in record.attributes)))
        case Question():
            return record.question, "\n".join((record.context, *record.answers))
        case Dialogue():
            return "\n".join(text for _, text in record.turns), ""
    return record.text, ""


class NearDuplicates:
    """The records kept so far; results depend on the order of sources."""

    def __init__(self) -> None:
        self._first = np.zeros((_BANDS, _SLOTS), np.int32)  # number of a bucket's first record, from 1; 0 = empty
        self._signatures = np.zeros((1024, 2, _HASHES), np.uint8)
        self._groups, self._texts = (np.zeros(1024, np.uint64) for _ in range(2))
        self._sources: list[str] = [""]

    def add(self, source: str, new: Sketch) -> list[str]:
        """Returns "" for each record of a source to keep, else the reason not to.

        Reasons are "exact duplicate" and "near duplicate", with " of another source" if that has the other record.
        """
        rows = zip(new.signatures, new.slots, new.groups, new.texts.tolist(), strict=True)
        return [self._add(source, *row) if row[3] else "" for row in rows]

    def _add(self, source: str, signature: np.ndarray, slots: np.ndarray, group: np.uint64, text: int) -> str:
        owners = self._first[_EACH_BAND, slots]
        for owner in dict.fromkeys(owners[owners > 0].tolist()):
            if self._groups[owner] == group:
                continue
            if (signature == self._signatures[owner]).mean(axis=1).min() >= SHARE:
                reason = "exact duplicate" if text == self._texts[owner] else "near duplicate"
                return reason if self._sources[owner] == source else f"{reason} of another source"
        place = self._append(source, signature, group, text)
        self._first[_EACH_BAND, slots] = np.where(owners > 0, owners, place)
        return ""

    def _append(self, source: str, signature: np.ndarray, group: np.uint64, text: int) -> int:
        place = len(self._sources)
        if place == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
            self._groups = np.concatenate([self._groups, np.zeros_like(self._groups)])
            self._texts = np.concatenate([self._texts, np.zeros_like(self._texts)])
        self._signatures[place], self._groups[place], self._texts[place] = signature, group, text
        self._sources.append(source)
        return place


def _digests(texts: Iterable[str]) -> np.ndarray:
    """Returns 64 bits of each text's hash."""
    found = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(found, np.uint64)


def _constants(count: int) -> np.ndarray:
    """Returns odd 64-bit multipliers, always the same ones."""
    return _digests(map(str, range(count))) | np.uint64(1)


def _min_hashes(texts: Sequence[str]) -> np.ndarray:
    """Returns [texts, 96] uint32: for each of 96 hash functions the smallest value over a text's character 4-grams."""
    made = [np.zeros((0, _HASHES), np.uint32)]
    start, size = 0, 0
    for stop, text in enumerate(texts, 1):
        size += len(text) + 1
        if size >= _CHUNK or stop == len(texts):
            made.append(_min_hashes_of_chunk(texts[start:stop]))
            start, size = stop, 0
    return np.concatenate(made)


def _min_hashes_of_chunk(texts: Sequence[str]) -> np.ndarray:
    # Three zeros end each text, so that a gram starts at each of its characters.
    texts = [text or "\1" for text in texts]
    codes = np.frombuffer("\0\0\0".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    grams = np.zeros(len(codes), np.uint64)
    for offset, weight in enumerate(_constants(4)):
        grams[: len(codes) - offset] += codes[offset:] * weight
    grams = grams[codes > 0]
    grams = (grams ^ (grams >> np.uint64(29))) * np.uint64(_MIXER)
    starts = np.cumsum([0, *map(len, texts[:-1])])
    smallest = [np.minimum.reduceat((grams * a) >> np.uint64(32), starts) for a in _constants(_HASHES)]
    return np.stack(smallest, axis=1).astype(np.uint32)
