"""Pairs of offers in the Ditto serialisation (`COL name VAL value …`, tab, the same, tab, 0 or 1).

Upstream: megagonlabs/ditto, which ships ER-Magellan and the WDC product corpus in this form.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.instruct.records import AttributedItem, Record, TextPair
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import ReadLog, Source, Upstream, text_group, text_lines

LABELS = {"0": "different", "1": "same"}
_COLUMN = re.compile(r"(?:^|(?<=\s))COL (\S+) VAL(?:\s|$)")

Offer = tuple[tuple[str, str], ...]


def parse_offer(serialised: str) -> Offer:
    """Returns the (column, value) pairs of one side, in order, empty values kept.

    Raises:
        ValueError: The text does not begin with a column.
    """
    marks = list(_COLUMN.finditer(serialised))
    if not marks or serialised[: marks[0].start()].strip():
        raise ValueError("no 'COL name VAL value'")
    ends = [mark.start() for mark in marks[1:]] + [len(serialised)]
    return tuple((mark[1], serialised[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True))


def offer_text(offer: Offer) -> str:
    """Returns an offer as one line: the bare value of a single column, else `name: value; …` of those with a value."""
    if len(offer) == 1:
        return offer[0][1]
    return "; ".join(f"{name}: {value}" for name, value in offer if value)


def read_offer_pairs(
    folder: Path,
    files: Sequence[str],
    log: ReadLog,
    *,
    names: Mapping[str, str],
    category: str = "",
    clean: Callable[[str], str] = str.strip,
) -> Iterator[Record]:
    """Yields a `TextPair` ("same" or "different") per line, and an `AttributedItem` for each offer when first met.

    An offer's cluster is what positive pairs connect; a pair's group is the cluster of its left offer, an item's its
    own.

    Args:
        folder: Folder of the source.
        files: Files of pairs.
        log: Gets counts and malformed lines.
        names: Reader's name of each upstream column ("title" and "description" go to those fields of an item); columns
            that are not named are left out.
        category: Upstream column that holds the category.
        clean: Applied to every value.
    """
    rows: list[tuple[str, Offer, Offer, str]] = []
    for file in files:
        for number, line in text_lines(folder, file, log):
            log.rows += 1
            try:
                left, right, label = line.split("\t")
                offers = parse_offer(left), parse_offer(right)
                rows.append((f"{file}:{number}", *offers, LABELS[label.strip()]))
            except (KeyError, ValueError) as error:
                log.reject(file, number, "", f"not an offer pair: {error}", line)
    cluster = _clusters(rows)
    met: set[Offer] = set()
    for id_, left, right, label in rows:
        sides = []
        for side, raw in (("left", left), ("right", right)):
            offer = tuple((names[name], clean(value)) for name, value in raw if name in names)
            sides.append(offer)
            if raw not in met and len(raw) > 1:
                met.add(raw)
                yield _item(f"{id_}#{side}", cluster(raw), offer, names.get(category, ""))
        yield TextPair(
            id=id_,
            group=cluster(left),
            language="en",
            left=offer_text(sides[0]),
            right=offer_text(sides[1]),
            label=label,
            left_attributes=sides[0],
            right_attributes=sides[1],
        )


def clean_title(title: str) -> str:
    """Returns a raw web title without its quotes, `@language` marks, line-break tags and "Null"."""
    kept = re.sub(r'"Null"|<br\s*/?>', " ", title)
    kept = re.sub(r'"(?:@[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*)?', " ", kept)
    return " ".join(kept.split())


def strip_quotes(value: str) -> str:
    """Returns a value without the ` and ' that enclose it and the backslashes before a ' inside."""
    return re.sub(r"\\\s*'", "'", value).strip("`' ")


def _item(id_: str, group: str, offer: Offer, category: str) -> AttributedItem:
    fields = dict(offer)
    apart = {"title", "description", category}
    return AttributedItem(
        id=id_,
        group=group,
        language="en",
        title=fields["title"],
        category=(fields[category],) if fields.get(category) else (),
        attributes=tuple((name, value) for name, value in offer if name not in apart and value),
        description=fields.get("description", ""),
    )


def _clusters(rows: Sequence[tuple[str, Offer, Offer, str]]) -> Callable[[Offer], str]:
    """Returns the group of an offer: the offers that chains of positive pairs connect share one."""
    parent: dict[str, str] = {}

    def node(offer: Offer) -> str:
        return text_group(offer_text(offer), "")

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for _, left, right, label in rows:
        if label == "same":
            first, second = sorted((root(node(left)), root(node(right))))
            parent[second] = first
    return lambda offer: root(node(offer))


def _source(name: str, licence: str, redistributable: bool, path: str, records: int, **reading: Any) -> Source:
    return Source(
        name=name,
        language="en",
        licence=licence,
        redistributable=redistributable,
        upstream=Upstream("megagonlabs/ditto", "52985564a93fb11308439516d3e17a033d43ec8f", path),
        files=FILES[name],
        records=records,
        read=functools.partial(read_offer_pairs, **reading),
        note="a line is one pair; each distinct offer with fields is also one item"
        if len(reading["names"]) > 1
        else "",
    )


_MAGELLAN = "data/er_magellan/Structured"
_APACHE = "Apache-2.0 (repo)"
_WDC = "Apache-2.0 (repo); WDC v2 corpus, research"
_WDC_READING = {"names": {"title": "title"}, "clean": clean_title}

SOURCES = (
    _source(
        "en_match_abt_buy",
        "Apache-2.0 (repo); Magellan/Leipzig data",
        True,
        "data/er_magellan/Textual/Abt-Buy",
        9575,
        names={"name": "title", "description": "description", "price": "price"},
    ),
    _source(
        "en_match_amazon_google",
        _APACHE,
        True,
        f"{_MAGELLAN}/Amazon-Google",
        11460,
        names={"title": "title", "manufacturer": "manufacturer", "price": "price"},
    ),
    _source(
        "en_match_beer",
        _APACHE,
        True,
        f"{_MAGELLAN}/Beer",
        450,
        names={"Beer_Name": "title", "Brew_Factory_Name": "brewery", "Style": "style", "ABV": "alcohol"},
        category="Style",
    ),
    _source(
        "en_match_itunes_amazon",
        _APACHE,
        True,
        f"{_MAGELLAN}/iTunes-Amazon",
        539,
        names={
            "Song_Name": "title",
            "Artist_Name": "artist",
            "Album_Name": "album",
            "Genre": "genre",
            "Price": "price",
            "CopyRight": "copyright",
            "Time": "time",
            "Released": "released",
        },
        category="Genre",
    ),
    _source(
        "en_match_restaurants_fz",
        _APACHE,
        True,
        f"{_MAGELLAN}/Fodors-Zagats",
        946,
        names={"name": "title", "addr": "address", "city": "city", "phone": "phone", "type": "type"},
        category="type",
        clean=strip_quotes,  # the column "class" names the true cluster: left out
    ),
    _source(
        "en_match_walmart_amazon",
        _APACHE,
        True,
        f"{_MAGELLAN}/Walmart-Amazon",
        10242,
        names={"title": "title", "category": "category", "brand": "brand", "modelno": "model number", "price": "price"},
        category="category",
    ),
    _source("en_match_wdc_cameras", _WDC, False, "data/wdc/cameras", 6062, **_WDC_READING),
    _source("en_match_wdc_computers", _WDC, False, "data/wdc/computers", 8997, **_WDC_READING),
    _source("en_match_wdc_shoes", _WDC, False, "data/wdc/shoes", 6770, **_WDC_READING),
    _source("en_match_wdc_watches", _WDC, False, "data/wdc/watches", 7181, **_WDC_READING),
)
