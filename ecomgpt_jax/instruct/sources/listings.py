"""Listings and category trees: PriceRunner offers, Chinese shop listings, Google's product taxonomy."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ecomgpt_jax.instruct.records import AttributedItem, Draft, LeftOut, draft
from ecomgpt_jax.instruct.sources.fields import item
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source
from ecomgpt_jax.instruct.sources.rows import csv_rows, filled_lines, json_array


def listing(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields an `AttributedItem`, its category split at "--"; header lines repeat inside the files."""
    if row["title"] == "title" and row["type"] == "type":
        raise LeftOut("repeated header line")
    price = ("price", lambda value: "" if value.strip() == "0" else value.strip())
    joined = ("type", lambda value: "".join(value.split()))
    return item(row, file, title="title", category=joined, separator="--", attributes={"价格": price})


def taxonomy_nodes(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (id, (node, all nodes by id)) of the JSON tree, and each line of its print in a `.txt` file."""
    if path.suffix == ".txt":
        yield from ((number, line) for number, line in filled_lines(path) if not str(line).startswith("#"))
        return
    rows = list(json_array(path))
    nodes = {row["id"]: row for _, row in rows if isinstance(row, dict) and isinstance(row.get("id"), int)}
    for number, row in rows:
        yield row["id"] if isinstance(row, dict) and row.get("id") in nodes else number, (row, nodes)


def category(row: str | tuple[Mapping, Mapping[int, Mapping]], file: str) -> Iterator[Draft]:
    """Yields an `AttributedItem` of a node: its title, and its path from the root as the category."""
    if isinstance(row, str):
        raise LeftOut("node of the tree printed once more")
    node, nodes = row
    group, path = f"{file}:{node['id']}", [node["title"]]
    while node["parent_id"] is not None:
        node = nodes[node["parent_id"]]
        path.insert(0, node["title"])
        if len(path) > len(nodes):
            raise ValueError("no path to the root: the parents form a circle")
    yield draft(AttributedItem, title=path[-1], category=tuple(path), group=group)


SOURCES = (
    Source(
        name="en_pricerunner",
        licence=f"{NO_LICENCE}; UCI Product Classification and Clustering (CC BY 4.0 at UCI)",
        place="KelvinLam05/product_classification@af948551b9d73185a67a25e788c3f6d3479e83f2",
        records=35311,
        rows=partial(csv_rows, columns=("id", "title", "vendor", "cluster", "name", "category id", "category")),
        record=partial(
            item, title="title", category="category", attributes={"name": "name"}, group=("pricerunner", "cluster")
        ),
    ),
    Source(
        name="zh_product_title_category",
        licence=f"{NO_LICENCE}; scraped Taobao/Suning/JD listings",
        place="Mcliuyi/Light-Short-text-product-classification@a818b21dc1daf5b7e35074abb3b2b1fb781f1c49",
        renamed={
            file: f"mySpider/{file}"
            for file in ("JDdata.csv", "SuNingData_type1004-1011.csv", "SuNingData_type1013-1020.csv")
        },
        records=26755,
        record=listing,
        note="43 header lines repeated inside a file are left out",
    ),
    Source(
        name="en_google_taxonomy",
        licence="MIT (repo); taxonomy by Google",
        redistributable=True,
        place="turahe/google-product-categories@f2492a44d1ec1ec773cdd541b5713a1c823a87ea",
        records=11190,
        rows=taxonomy_nodes,
        record=category,
        note="5,595 nodes, which upstream carries as JSON and as a printed tree",
    ),
)
