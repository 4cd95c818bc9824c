"""Pairs of offers in the Ditto serialisation (`COL name VAL value …`, tab, the same, tab, 0 or 1).

Upstream: megagonlabs/ditto, which ships ER-Magellan and the WDC product corpus in this form.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ecomgpt_jax.instruct.records import AttributedItem, Draft, TextPair, draft
from ecomgpt_jax.instruct.sources.reading import Source, text_group
from ecomgpt_jax.instruct.sources.rows import Unreadable, filled_lines, one_line

LABELS = {"0": "different", "1": "same"}
_COLUMN = re.compile(r"(?:^|(?<=\s))COL (\S+) VAL(?:\s|$)")

Offer = tuple[tuple[str, str], ...]


class Pair(NamedTuple):
    """A line: two offers as written, their relation, their clusters, and whether each offer occurs here first.

    Positive pairs connect offers to clusters; the group of a pair is the cluster of its left offer.
    """

    offers: tuple[Offer, Offer]
    label: str
    groups: tuple[str, str] = ("", "")
    first: tuple[bool, bool] = (False, False)


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


def pairs_with_clusters(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, int, Pair | Unreadable]]:
    """Yields each line as a `Pair`, once all files are read, since any line may connect two offers."""
    rows = [(file, number, _parsed(line)) for file in files for number, line in filled_lines(folder / file)]
    cluster, met = _clusters([row for *_, row in rows if isinstance(row, Pair)]), set()
    for file, number, row in rows:
        if isinstance(row, Pair):
            groups = cluster(row.offers[0]), cluster(row.offers[1])
            first = tuple(len(offer) > 1 and not (offer in met or met.add(offer)) for offer in row.offers)
            row = row._replace(groups=groups, first=first)
        yield file, number, row


def _parsed(line: str | Unreadable) -> Pair | Unreadable:
    if isinstance(line, Unreadable):
        return line
    try:
        left, right, label = line.split("\t")
        return Pair((parse_offer(left), parse_offer(right)), LABELS[label.strip()])
    except (KeyError, ValueError) as error:
        return Unreadable(f"not an offer pair: {error}", line)


def offers_compared(
    row: Pair, file: str, *, names: Mapping[str, str], category: str = "", clean: Callable[[str], str] = str.strip
) -> Iterator[Draft]:
    """Yields an `AttributedItem` for each offer at its first occurrence, and a `TextPair` ("same" or "different").

    Args:
        row: The offers, see `Pair`.
        file: Not used.
        names: Our name of each upstream column ("title" and "description" become these fields of an item); other
            columns are left out.
        category: Upstream column of the category.
        clean: Applied to every value.
    """
    left, right = (tuple((names[name], clean(value)) for name, value in raw if name in names) for raw in row.offers)
    for part, offer, group, first in zip(("left", "right"), (left, right), row.groups, row.first, strict=True):
        if first:
            yield _item(part, group, offer, names.get(category, ""))
    yield draft(
        TextPair,
        left=offer_text(left),
        right=offer_text(right),
        label=row.label,
        left_attributes=left,
        right_attributes=right,
        group=row.groups[0],
    )


def clean_title(title: str) -> str:
    """Returns a raw web title without its quotes, `@language` marks, line-break tags and "Null"."""
    kept = re.sub(r'"Null"|<br\s*/?>', " ", title)
    kept = re.sub(r'"(?:@[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*)?', " ", kept)
    return one_line(kept)


def strip_quotes(value: str) -> str:
    """Returns a value without enclosing ` and ' and without backslashes before a ' inside."""
    return re.sub(r"\\\s*'", "'", value).strip("`' ")


def _item(part: str, group: str, offer: Offer, category: str) -> Draft:
    fields = dict(offer)
    apart = {"title", "description", category}
    return draft(
        AttributedItem,
        part,
        title=fields["title"],
        category=(fields[category],) if fields.get(category) else (),
        attributes=tuple((name, value) for name, value in offer if name not in apart and value),
        description=fields.get("description", ""),
        group=group,
    )


def _clusters(pairs: Iterable[Pair]) -> Callable[[Offer], str]:
    """Returns the group of an offer: the offers that chains of positive pairs connect share one."""
    parent: dict[str, str] = {}

    def node(offer: Offer) -> str:
        return text_group(offer_text(offer), "")

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for pair in pairs:
        if pair.label == "same":
            first, second = sorted(root(node(offer)) for offer in pair.offers)
            parent[second] = first
    return lambda offer: root(node(offer))


_DITTO = partial(
    Source,
    joined=pairs_with_clusters,
    licence="Apache-2.0 (repo)",
    redistributable=True,
    note="a line is one pair; each distinct offer with fields is also one item",
)
_CORPUS = partial(
    _DITTO,
    licence="Apache-2.0 (repo); WDC v2 corpus, research",
    redistributable=False,
    record=partial(offers_compared, names={"title": "title"}, clean=clean_title),
    note="",
)
_REPO = "megagonlabs/ditto@52985564a93fb11308439516d3e17a033d43ec8f/data"
_MAGELLAN = f"{_REPO}/er_magellan/Structured"

SOURCES = (
    _DITTO(
        name="en_match_abt_buy",
        licence="Apache-2.0 (repo); Magellan/Leipzig data",
        place=f"{_REPO}/er_magellan/Textual/Abt-Buy",
        records=9575,
        record=partial(offers_compared, names={"name": "title", "description": "description", "price": "price"}),
    ),
    _DITTO(
        name="en_match_amazon_google",
        place=f"{_MAGELLAN}/Amazon-Google",
        records=11460,
        record=partial(offers_compared, names={"title": "title", "manufacturer": "manufacturer", "price": "price"}),
    ),
    _DITTO(
        name="en_match_beer",
        place=f"{_MAGELLAN}/Beer",
        records=450,
        record=partial(
            offers_compared,
            names={"Beer_Name": "title", "Brew_Factory_Name": "brewery", "Style": "style", "ABV": "alcohol"},
            category="Style",
        ),
    ),
    _DITTO(
        name="en_match_itunes_amazon",
        place=f"{_MAGELLAN}/iTunes-Amazon",
        records=539,
        record=partial(
            offers_compared,
            names={
                **{"Song_Name": "title", "Artist_Name": "artist", "Album_Name": "album", "Genre": "genre"},
                **{"Price": "price", "CopyRight": "copyright", "Time": "time", "Released": "released"},
            },
            category="Genre",
        ),
    ),
    _DITTO(
        name="en_match_restaurants_fz",
        place=f"{_MAGELLAN}/Fodors-Zagats",
        records=946,
        record=partial(  # the column "class" contains the true cluster: left out
            offers_compared,
            names={"name": "title", "addr": "address", "city": "city", "phone": "phone", "type": "type"},
            category="type",
            clean=strip_quotes,
        ),
    ),
    _DITTO(
        name="en_match_walmart_amazon",
        place=f"{_MAGELLAN}/Walmart-Amazon",
        records=10242,
        record=partial(
            offers_compared,
            names={
                **{"title": "title", "category": "category", "brand": "brand"},
                **{"modelno": "model number", "price": "price"},
            },
            category="category",
        ),
    ),
    _CORPUS(name="en_match_wdc_cameras", place=f"{_REPO}/wdc/cameras", records=6062),
    _CORPUS(name="en_match_wdc_computers", place=f"{_REPO}/wdc/computers", records=8997),
    _CORPUS(name="en_match_wdc_shoes", place=f"{_REPO}/wdc/shoes", records=6770),
    _CORPUS(name="en_match_wdc_watches", place=f"{_REPO}/wdc/watches", records=7181),
)
