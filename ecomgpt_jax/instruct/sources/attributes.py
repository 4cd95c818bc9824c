"""Products with attribute values: ExtractGPT and WDC-PAVE JSON lines, Flipkart's catalogue, AdvertiseGen, RNNLG.

Upstream: AE-110K and OA-Mine in ExtractGPT's copy; WDC-PAVE (Brinkmann et al., 2024); PromptCloud's Flipkart sample;
AdvertiseGen (Shao et al., EMNLP 2019); RNNLG (Wen et al., NAACL 2016).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecomgpt_jax.instruct.records import AttributedItem, Draft, LeftOut, SpannedText, TextPair, draft
from ecomgpt_jax.instruct.sources.fields import find_spans
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source, text_group
from ecomgpt_jax.instruct.sources.rows import Unreadable, clean_text, csv_rows, json_array, json_lines, one_line

Pairs = list[tuple[str, str]]
Values = Mapping[str, Mapping[str, Any]]  # {attribute: {value: …}}
_RAW = "wdc_with_all_attributes"


def _pairs(values: Values) -> Pairs:
    """Returns (attribute, value), with "" for the value "n/a"."""
    return [(name, "" if value == "n/a" else value.strip()) for name, found in values.items() for value in found]


def target_scores(row: Mapping[str, Any], file: str) -> Iterator[Draft]:
    """Yields an `AttributedItem` of a title and a `SpannedText` of the values in it; "n/a" becomes an empty value."""
    title, pairs = row["input"].strip(), _pairs(row["target_scores"])
    if absent := [value for _, value in pairs if value not in title]:
        raise ValueError(f"target_scores: value {absent[0]!r} is not in the title")
    yield draft(AttributedItem, title=title, category=(row["category"],), attributes=tuple(pairs))
    yield draft(SpannedText, "spans", text=title, spans=find_spans(title, pairs))


def pave_rows(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
    """Yields each offer of the raw variant, then each of the normalised one with its raw values; guidelines as text."""
    written: dict[tuple[str, int], Values] = {}
    for file in sorted(files, key=lambda name: not name.startswith(_RAW)):
        if file == "descriptions.csv":
            yield from ((file, number, str(row)) for number, row in csv_rows(folder / file, delimiter=";"))
            continue
        for number, row in json_lines(folder / file):
            key = Path(file).name, row.get("id") if isinstance(row, dict) else None
            if isinstance(row, dict) and file.startswith(_RAW):
                written[key] = row.get("target_scores", {})
            yield file, number, row if isinstance(row, Unreadable) else (row, written.get(key, {}))


def pave_offer(row: str | tuple[Mapping[str, Any], Values], file: str) -> Iterator[Draft]:
    """Yields an offer of WDC-PAVE with its values as written, or the normalised form of single values.

    The raw variant gives an `AttributedItem` and a `SpannedText` of the values found in its title; the normalised
    variant a `TextPair` (value as written, normalised value, attribute) for each attribute with one value in both.
    """
    if isinstance(row, str):
        raise LeftOut("annotation guideline")
    offer, written = row
    title = re.sub(r"\s+Null$", "", offer["input_title"].strip()).strip('" ')
    common = {"group": f"wdc:{offer['cluster_id']:.0f}"}
    item = {"category": (offer["category"],), "description": offer["input_description"].strip('" ')}
    pairs = _pairs(offer["target_scores"])
    if file.startswith(_RAW):
        yield draft(AttributedItem, title=title, attributes=tuple(pairs), **item, **common)
        yield draft(SpannedText, "spans", text=title, spans=find_spans(title, pairs), **common)
        return
    raw = _pairs(written)
    for name in dict(pairs):
        left, right = ([value for key, value in found if key == name] for found in (raw, pairs))
        if len(left) == len(right) == 1 and left[0] and right[0]:
            yield draft(TextPair, name, left=left[0], right=right[0], label=name, **common)


def flipkart(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields an `AttributedItem`; specifications are a Ruby hash, read as JSON with ":" for "=>"."""
    title = one_line(row["product_name"])
    path = json.loads(row["product_category_tree"])[0].split(" >> ")
    specification = row["product_specifications"].replace("=>", ":").replace(":nil", ":null") or "null"
    entries = (json.loads(specification) or {}).get("product_specification") or []
    entries = [entries] if isinstance(entries, dict) else entries
    pairs = [(each["key"].strip(), each["value"].strip()) for each in entries if "key" in each]
    if row["brand"].strip() and "Brand" not in dict(pairs):
        pairs.insert(0, ("Brand", row["brand"].strip()))
    # the last step of the tree is often the shortened product name
    leaf = one_line(path[-1].rstrip("."))
    if len(path) > 1 and (title.startswith(leaf) or len(leaf) < len(path[-1])):
        path = path[:-1]
    yield draft(
        AttributedItem,
        title=title,
        category=tuple(map(one_line, path)),
        attributes=tuple(dict.fromkeys(pairs)),
        description=one_line(row["description"]),
    )


def advertisement(row: Mapping[str, Any], file: str) -> Iterator[Draft]:
    """Yields an `AttributedItem` without a title: `name#value*…` and the copy written from it."""
    pairs = [pair.split("#", 1) for pair in row["content"].split("*")]
    attributes = tuple((name.strip(), value.strip()) for name, value in pairs)
    yield draft(
        AttributedItem,
        title="",
        category=tuple(value for name, value in attributes if name == "类型")[:1],
        attributes=attributes,
        description=clean_text(row["summary"].replace("<UNK>", "")),
        group=text_group(row["content"], ""),
    )


def dialogue_act(row: Sequence[str], file: str) -> Iterator[Draft]:
    """Yields a `TextPair` of an `act(slot=value;…)`, and an `AttributedItem` if the text describes one product.

    The `TextPair` has the slots (left) and the sentence (right); its label is the act without "?". A slot without a
    value is requested. The rows about one product, or one set of slots without a product, share a group.
    """
    match = re.fullmatch(r"(\??\w+)\((.*)\)", row[0]) if isinstance(row, list) and len(row) == 3 else None
    if not match:
        raise ValueError("not [act(slot=value;…), sentence, baseline]")
    slots = tuple((s.partition("=")[0], s.partition("=")[2]) for s in match[2].split(";") if s)
    if not slots:
        raise LeftOut("act without slots")
    names = [value for name, value in slots if name == "name"]
    text = re.sub(r" -s\b", "s", re.sub(r" ([,.?!])", r"\1", row[1])).strip()
    common = {"group": text_group(names[0] if names else match[2], "")}
    left = "; ".join(f"{name}: {value}" if value else name for name, value in slots)
    yield draft(TextPair, left=left, right=text, label=match[1].lstrip("?"), left_attributes=slots, **common)
    if len(names) == 1 and match[1] in {"inform", "recommend"}:
        yield draft(
            AttributedItem,
            "item",
            title=names[0],
            category=tuple(value for name, value in slots if name == "type")[:1],
            attributes=tuple(slot for slot in slots if slot[0] not in {"name", "type"}),
            description=text,
            **common,
        )


_EXTRACT_GPT = "wbsg-uni-mannheim/ExtractGPT@3f96461b28bd3f0c8ac7c479d595969a9b77d0ab/data/processed_datasets"
_RNNLG = partial(
    Source,
    licence="Apache-2.0",
    redistributable=True,
    rows=json_array,
    record=dialogue_act,
    note="a row with slots is a pair of slots and sentence and, if it describes one product, an item",
)
_RNNLG_REPO = "shawnwun/RNNLG@61ac6fd1304c9dcf29ea894452e685652718f6f8/data/original"
_TITLES = "a row is an item and, with the values found in the title, a spanned text"

SOURCES = (
    Source(
        name="en_ae_110k",
        licence="Apache-2.0 (repo); AE-110K itself academic research use",
        place=f"{_EXTRACT_GPT}/ae-110k",
        records=2092,
        rows=json_lines,
        record=target_scores,
        note=_TITLES,
    ),
    Source(
        name="en_oa_mine",
        licence="Apache-2.0",
        redistributable=True,
        place=f"{_EXTRACT_GPT}/oa-mine",
        records=1943,
        rows=json_lines,
        record=target_scores,
        note=_TITLES,
    ),
    Source(
        name="en_wdc_pave",
        licence=f"{NO_LICENCE}; Common-Crawl offers, WDC research release",
        place="wbsg-uni-mannheim/wdc-pave@66a4cfd75087353d05471ae452a1a4a1fc9075af/data/processed_datasets",
        renamed={"descriptions.csv": "data/descriptions/wdc/descriptions.csv"},
        records=3290,
        joined=pave_rows,
        record=pave_offer,
        note="2,840 offer rows; upstream's 450 counts the lines of 70 annotation guidelines, which are left out",
    ),
    Source(
        name="en_flipkart_catalog",
        licence=f"{NO_LICENCE}; PromptCloud Flipkart sample on Kaggle",
        place="jzpatrao/nlp-analysis@aae7adee41b30b99865016e0e1521cef3060d9cb",
        records=1050,
        record=flipkart,
    ),
    Source(
        name="zh_advertise_gen",
        licence=f"{NO_LICENCE}; AdvertiseGen (Tsinghua CoAI), research use",
        place="mhsbz/models_ft@393ca0f88c28f01003fc4af190b21b76fdf62bbf/data/AdvertiseGen",
        records=1070,
        rows=json_lines,
        record=advertisement,
    ),
    _RNNLG(name="en_rnnlg_laptop", place=f"{_RNNLG_REPO}/laptop", records=13242),
    _RNNLG(name="en_rnnlg_tv", place=f"{_RNNLG_REPO}/tv", records=7035),
)
