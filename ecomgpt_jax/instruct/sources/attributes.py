"""Products with attribute values: ExtractGPT and WDC-PAVE JSON lines, Flipkart's catalogue, AdvertiseGen, RNNLG.

Upstream: AE-110K and OA-Mine in ExtractGPT's copy; WDC-PAVE (Brinkmann et al., 2024); PromptCloud's Flipkart sample;
AdvertiseGen (Shao et al., EMNLP 2019); RNNLG (Wen et al., NAACL 2016).
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.instruct.records import AttributedItem, Record, SpannedText, TextPair
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    clean_text,
    csv_rows,
    find_spans,
    json_array,
    json_lines,
    text_group,
)

Pairs = list[tuple[str, str]]


def _target_scores(row: Mapping) -> Pairs:
    """Returns (attribute, value) of `{attribute: {value: …}}`, with "" for the value "n/a"."""
    return [
        (name, "" if value == "n/a" else value.strip())
        for name, values in row["target_scores"].items()
        for value in values
    ]


def read_target_scores(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AttributedItem` per title and a `SpannedText` of the values in it; "n/a" becomes an empty value."""
    for file in files:
        for number, row in json_lines(folder, file, log):
            id_ = f"{file}:{number}"
            try:
                title, category, pairs = row["input"].strip(), row["category"], _target_scores(row)
            except (KeyError, AttributeError, TypeError) as error:
                log.reject(file, number, "target_scores", f"not an attribute row: {error!r}", row)
                continue
            absent = next((value for _, value in pairs if value not in title), None)
            if absent is not None:
                log.reject(file, number, "target_scores", f"value {absent!r} is not in the title", title)
                continue
            common = {"group": text_group(title, id_), "language": "en"}
            yield AttributedItem(id=id_, title=title, category=(category,), attributes=tuple(pairs), **common)
            yield SpannedText(id=f"{id_}#spans", text=title, spans=find_spans(title, pairs), **common)


def read_pave(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields each offer of WDC-PAVE with its values as written, and the normalised form of single values.

    The raw variant gives an `AttributedItem` and a `SpannedText` of the values found in its title; the normalised
    variant a `TextPair` (value as written, normalised value, attribute) for each attribute with one value in both.
    The annotation guidelines in `descriptions.csv` are no records.
    """
    written: dict[tuple[str, int], dict[str, list[str]]] = {}
    for file in sorted(files, key=lambda name: not name.startswith("wdc_with_all_attributes/")):
        if file == "descriptions.csv":
            guidelines = list(csv_rows(folder, file, log, delimiter=";"))
            log.skipped["annotation guideline"] += len(guidelines)
            continue
        for number, row in json_lines(folder, file, log):
            id_ = f"{file}:{number}"
            try:
                title = re.sub(r"\s+Null$", "", row["input_title"].strip()).strip('" ')
                description = row["input_description"].strip('" ')
                key, pairs, category = (Path(file).name, row["id"]), _target_scores(row), row["category"]
                common = {"group": f"wdc:{row['cluster_id']:.0f}", "language": "en"}
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                log.reject(file, number, "target_scores", f"not an offer: {error!r}", row)
                continue
            values: dict[str, list[str]] = {}
            for name, value in pairs:
                values.setdefault(name, []).append(value)
            if file.startswith("wdc_with_all_attributes/"):
                written[key] = values
                yield AttributedItem(
                    id=id_,
                    title=title,
                    category=(category,),
                    attributes=tuple(pairs),
                    description=description,
                    **common,
                )
                yield SpannedText(id=f"{id_}#spans", text=title, spans=find_spans(title, pairs), **common)
                continue
            for name, normalised in values.items():
                raw = written.get(key, {}).get(name, [])
                if len(raw) == len(normalised) == 1 and raw[0] and normalised[0]:
                    yield TextPair(id=f"{id_}#{name}", left=raw[0], right=normalised[0], label=name, **common)


def read_flipkart(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AttributedItem` per product; specifications are a Ruby hash, read as JSON with ":" for "=>"."""
    for file in files:
        for number, row in csv_rows(folder, file, log):
            id_, title = f"{file}:{number}", " ".join(row["product_name"].split())
            try:
                path = json.loads(row["product_category_tree"])[0].split(" >> ")
                specification = row["product_specifications"].replace("=>", ":").replace(":nil", ":null") or "null"
                entries = (json.loads(specification) or {}).get("product_specification") or []
            except (IndexError, ValueError) as error:
                log.reject(file, number, "product_specifications", str(error), title)
                continue
            entries = [entries] if isinstance(entries, dict) else entries
            pairs = [(each["key"].strip(), each["value"].strip()) for each in entries if "key" in each]
            if row["brand"].strip() and "Brand" not in dict(pairs):
                pairs.insert(0, ("Brand", row["brand"].strip()))
            # the last step of the tree is often the product itself, cut short
            leaf = " ".join(path[-1].rstrip(".").split())
            if len(path) > 1 and (title.startswith(leaf) or len(leaf) < len(path[-1])):
                path = path[:-1]
            yield AttributedItem(
                id=id_,
                group=text_group(title, id_),
                language="en",
                title=title,
                category=tuple(" ".join(step.split()) for step in path),
                attributes=tuple(dict.fromkeys(pairs)),
                description=" ".join(row["description"].split()),
            )


def read_advertise(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AttributedItem` without a title per row: `name#value*…` and the copy written from it."""
    for file in files:
        for number, row in json_lines(folder, file, log):
            id_ = f"{file}:{number}"
            try:
                pairs = [tuple(pair.split("#", 1)) for pair in row["content"].split("*")]
                attributes = tuple((name.strip(), value.strip()) for name, value in pairs)
                copy = clean_text(row["summary"].replace("<UNK>", ""))
            except (KeyError, AttributeError, ValueError) as error:
                log.reject(file, number, "content", f"not name#value*…: {error!r}", row)
                continue
            yield AttributedItem(
                id=id_,
                group=text_group(row["content"], id_),
                language="zh",
                title="",
                category=tuple(value for name, value in attributes if name == "类型")[:1],
                attributes=attributes,
                description=copy,
            )


def read_rnnlg(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields each `act(slot=value;…)` with its sentence; text that describes one product is an `AttributedItem` too.

    A `TextPair` holds the slots (left) and the sentence (right), its label is the act ("?" taken off). A slot without
    a value is asked for. The rows about one product, or one set of slots without a product, share a group.
    """
    for file in files:
        for number, row in json_array(folder, file, log):
            id_ = f"{file}:{number}"
            match = re.fullmatch(r"(\??\w+)\((.*)\)", row[0]) if isinstance(row, list) and len(row) == 3 else None
            if not match:
                log.reject(file, number, "act", "not [act(slot=value;…), sentence, baseline]", row)
                continue
            slots = tuple((s.partition("=")[0], s.partition("=")[2]) for s in match[2].split(";") if s)
            if not slots:
                log.skipped["act without slots"] += 1
                continue
            names = [value for name, value in slots if name == "name"]
            text = re.sub(r" -s\b", "s", re.sub(r" ([,.?!])", r"\1", row[1])).strip()
            common = {"group": text_group(names[0] if names else match[2], id_), "language": "en"}
            yield TextPair(
                id=id_,
                left="; ".join(f"{name}: {value}" if value else name for name, value in slots),
                right=text,
                label=match[1].lstrip("?"),
                left_attributes=slots,
                **common,
            )
            if len(names) == 1 and match[1] in {"inform", "recommend"}:
                yield AttributedItem(
                    id=f"{id_}#item",
                    title=names[0],
                    category=tuple(value for name, value in slots if name == "type")[:1],
                    attributes=tuple(slot for slot in slots if slot[0] not in {"name", "type"}),
                    description=text,
                    **common,
                )


_NO_FILE = "unclear (repo has no licence file)"
_EXTRACT_GPT = functools.partial(Upstream, "wbsg-uni-mannheim/ExtractGPT", "3f96461b28bd3f0c8ac7c479d595969a9b77d0ab")
_RNNLG = functools.partial(Upstream, "shawnwun/RNNLG", "61ac6fd1304c9dcf29ea894452e685652718f6f8")
_TITLES = "a row is an item and, with the values found in the title, a spanned text"
_ACTS = "a row with slots is a pair of slots and sentence and, if it describes one product, an item"

SOURCES = (
    Source(
        name="en_ae_110k",
        language="en",
        licence="Apache-2.0 (repo); AE-110K itself academic research use",
        redistributable=False,
        upstream=_EXTRACT_GPT("data/processed_datasets/ae-110k"),
        files=FILES["en_ae_110k"],
        records=2092,
        read=read_target_scores,
        note=_TITLES,
    ),
    Source(
        name="en_oa_mine",
        language="en",
        licence="Apache-2.0",
        redistributable=True,
        upstream=_EXTRACT_GPT("data/processed_datasets/oa-mine"),
        files=FILES["en_oa_mine"],
        records=1943,
        read=read_target_scores,
        note=_TITLES,
    ),
    Source(
        name="en_wdc_pave",
        language="en",
        licence=f"{_NO_FILE}; Common-Crawl offers, WDC research release",
        redistributable=False,
        upstream=Upstream(
            "wbsg-uni-mannheim/wdc-pave",
            "66a4cfd75087353d05471ae452a1a4a1fc9075af",
            "data/processed_datasets",
            renamed={"descriptions.csv": "data/descriptions/wdc/descriptions.csv"},
        ),
        files=FILES["en_wdc_pave"],
        records=3290,
        read=read_pave,
        note="2,840 offer rows; upstream's 450 counts the lines of 70 annotation guidelines, which are left out",
    ),
    Source(
        name="en_flipkart_catalog",
        language="en",
        licence=f"{_NO_FILE}; PromptCloud Flipkart sample on Kaggle",
        redistributable=False,
        upstream=Upstream("jzpatrao/nlp-analysis", "aae7adee41b30b99865016e0e1521cef3060d9cb"),
        files=FILES["en_flipkart_catalog"],
        records=1050,
        read=read_flipkart,
    ),
    Source(
        name="zh_advertise_gen",
        language="zh",
        licence=f"{_NO_FILE}; AdvertiseGen (Tsinghua CoAI), research use",
        redistributable=False,
        upstream=Upstream("mhsbz/models_ft", "393ca0f88c28f01003fc4af190b21b76fdf62bbf", "data/AdvertiseGen"),
        files=FILES["zh_advertise_gen"],
        records=1070,
        read=read_advertise,
    ),
    Source(
        name="en_rnnlg_laptop",
        language="en",
        licence="Apache-2.0",
        redistributable=True,
        upstream=_RNNLG("data/original/laptop"),
        files=FILES["en_rnnlg_laptop"],
        records=13242,
        read=read_rnnlg,
        note=_ACTS,
    ),
    Source(
        name="en_rnnlg_tv",
        language="en",
        licence="Apache-2.0",
        redistributable=True,
        upstream=_RNNLG("data/original/tv"),
        files=FILES["en_rnnlg_tv"],
        records=7035,
        read=read_rnnlg,
        note=_ACTS,
    ),
)
