"""Listings and category trees: PriceRunner offers, Chinese shop listings, Google's product taxonomy."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.instruct.records import AttributedItem, Record
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    csv_rows,
    json_array,
    text_group,
    text_lines,
)

PRICERUNNER_COLUMNS = ("id", "title", "vendor", "cluster", "name", "category id", "category")


def read_pricerunner(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AttributedItem` per offer, with the product's canonical name as its attribute "name"; a cluster of
    offers is a group.
    """
    for file in files:
        for number, row in csv_rows(folder, file, log, columns=PRICERUNNER_COLUMNS):
            yield AttributedItem(
                id=f"{file}:{number}",
                group=f"pricerunner:{row['cluster']}",
                language="en",
                title=" ".join(row["title"].split()),
                category=(row["category"],),
                attributes=(("name", " ".join(row["name"].split())),),
            )


def read_listings(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AttributedItem` per listing, its category split at "--"; header lines repeat inside the files."""
    for file in files:
        for number, row in csv_rows(folder, file, log):
            if row["title"] == "title" and row["type"] == "type":
                log.skipped["repeated header line"] += 1
                continue
            id_, title = f"{file}:{number}", " ".join(row["title"].split())
            price = row["price"].strip()
            yield AttributedItem(
                id=id_,
                group=text_group(title, id_),
                language="zh",
                title=title,
                category=tuple("".join(step.split()) for step in row["type"].split("--")),
                attributes=(("价格", price),) if price not in {"", "0"} else (),
            )


def read_taxonomy(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AttributedItem` per node of the tree: its title, and its path from the root as the category.

    The `.txt` file lists the same nodes again. Ids are those of the tree.
    """
    for file in files:
        if file.endswith(".txt"):
            printed = sum(1 for _, line in text_lines(folder, file, log) if line.strip() and not line.startswith("#"))
            log.rows += printed
            log.skipped["node of the tree printed once more"] += printed
            continue
        rows = dict(json_array(folder, file, log))
        nodes = {row["id"]: row for row in rows.values()}
        for number, row in rows.items():
            try:
                path = _path(nodes, row)
            except (KeyError, ValueError) as error:
                log.reject(file, number, "parent_id", f"no path to the root: {error}", row)
                continue
            yield AttributedItem(
                id=f"{file}:{row['id']}", group=f"{file}:{row['id']}", language="en", title=path[-1], category=path
            )


def _path(nodes: Mapping[int, Mapping], node: Mapping) -> tuple[str, ...]:
    path = [node["title"]]
    while node["parent_id"] is not None:
        node = nodes[node["parent_id"]]
        path.insert(0, node["title"])
        if len(path) > len(nodes):
            raise ValueError("the parents form a circle")
    return tuple(path)


SOURCES = (
    Source(
        name="en_pricerunner",
        language="en",
        licence="unclear (repo has no licence file); UCI Product Classification and Clustering (CC BY 4.0 at UCI)",
        redistributable=False,
        upstream=Upstream("KelvinLam05/product_classification", "af948551b9d73185a67a25e788c3f6d3479e83f2"),
        files=FILES["en_pricerunner"],
        records=35311,
        read=read_pricerunner,
    ),
    Source(
        name="zh_product_title_category",
        language="zh",
        licence="unclear (repo has no licence file); scraped Taobao/Suning/JD listings",
        redistributable=False,
        upstream=Upstream(
            "Mcliuyi/Light-Short-text-product-classification",
            "a818b21dc1daf5b7e35074abb3b2b1fb781f1c49",
            renamed={
                "JDdata.csv": "mySpider/JDdata.csv",
                "SuNingData_type1004-1011.csv": "mySpider/SuNingData_type1004-1011.csv",
                "SuNingData_type1013-1020.csv": "mySpider/SuNingData_type1013-1020.csv",
            },
        ),
        files=FILES["zh_product_title_category"],
        records=26755,
        read=read_listings,
        note="43 header lines repeated inside a file are left out",
    ),
    Source(
        name="en_google_taxonomy",
        language="en",
        licence="MIT (repo); taxonomy by Google",
        redistributable=True,
        upstream=Upstream("turahe/google-product-categories", "f2492a44d1ec1ec773cdd541b5713a1c823a87ea"),
        files=FILES["en_google_taxonomy"],
        records=11190,
        read=read_taxonomy,
        note="5,595 nodes, which upstream carries as JSON and as a printed tree",
    ),
)
