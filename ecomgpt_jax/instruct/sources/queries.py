"""Search queries: graded relevance of titles (Home Depot, QBQTC) and weakly segmented queries."""

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from ecomgpt_jax.instruct.records import LabelledText, Record, SpannedText, TextPair
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    bio_spans,
    csv_rows,
    json_lines,
    literal,
    text_group,
)

SEGMENT_TYPES = {"ProductType": "product type", "Attribute": "attribute", "Brand": "brand"}


def read_home_depot(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `TextPair` (query, product title, mean relevance from "1" to "3") per row; a query is a group."""
    for file in files:
        for number, row in csv_rows(folder, file, log):
            id_, query = f"{file}:{number}", " ".join(row["search_term"].split())
            try:
                relevance = f"{float(row['relevance']):g}"
            except ValueError:
                log.reject(file, number, "relevance", "not a number", row["relevance"])
                continue
            yield TextPair(
                id=id_,
                group=text_group(query, id_),
                language="en",
                left=query,
                right=" ".join(row["product_title"].split()),
                label=relevance,
            )


def read_qbqtc(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `TextPair` (query, title, relevance "0" to "2") per row; a query is a group."""
    for file in files:
        for number, row in json_lines(folder, file, log):
            id_ = f"{file}:{number}"
            if row.get("label") not in {"0", "1", "2"} or not row.get("query") or not row.get("title"):
                log.reject(file, number, "label", "no query, no title or a label other than 0, 1, 2", row)
                continue
            yield TextPair(
                id=id_,
                group=text_group(row["query"], id_),
                language="zh",
                left=row["query"].strip(),
                right=row["title"].strip(),
                label=row["label"],
            )


def read_segments(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields queries with their product type and attributes, labels made by rules ("weak").

    `Queries.csv` gives a `LabelledText` ("product type", "attribute") per row, `bioes_sequences.csv` a `SpannedText`.
    Brands are left out: upstream matched them inside words, or appended one to the query; such rows are left out.
    """
    for file in files:
        for number, row in csv_rows(folder, file, log):
            id_, query = f"{file}:{number}", row["query"]
            common = {"group": text_group(query, id_), "language": "en", "supervision": "weak"}
            if row.get("brand_added") == "True":
                log.skipped["brand appended to the query"] += 1
                continue
            try:
                if "tokens" not in row:
                    labels = {"product type": (row["product_type"],), "attribute": tuple(literal(row["attributes"]))}
                    kept = {kind: values for kind, values in labels.items() if all(values) and values}
                    yield LabelledText(id=id_, text=query, labels=kept, **common)
                    continue
                tokens = literal(row["tokens"])
                tags = [tag.replace("S-", "B-").replace("E-", "I-") for tag in literal(row["bioes_tags"])]
                pieces = [token if i == 0 else f" {token}" for i, token in enumerate(tokens)]
                spans = bio_spans(pieces, tags, SEGMENT_TYPES.__getitem__)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.reject(file, number, "tags", f"not tags of the query: {error}", query)
                continue
            spans = tuple(span for span in spans if span.type != "brand")
            yield SpannedText(id=id_, text="".join(pieces), spans=spans, **common)


def four_fifths_of_queries(data: bytes) -> bytes:
    """Returns a Latin-1 CSV file as UTF-8 with the rows of the queries whose sha1 modulo 100 is below 80."""
    rows = csv.DictReader(io.StringIO(data.decode("latin-1"), newline=""))
    kept = io.StringIO(newline="")
    writer = csv.DictWriter(kept, rows.fieldnames or ())
    writer.writeheader()
    for row in rows:
        if int(hashlib.sha1(row["search_term"].encode()).hexdigest(), 16) % 100 < 80:
            writer.writerow(row)
    return kept.getvalue().encode()


SOURCES = (
    Source(
        name="en_home_depot_relevance",
        language="en",
        licence="unclear (repo has no licence file); Kaggle Home Depot competition data (competition use)",
        redistributable=False,
        upstream=Upstream(
            "andmck1/home-depot",
            "41fa8373fa0386b99ff159c696da4b7053531723",
            renamed={"train.csv": "data/train.csv.zip!train.csv"},
            derive=four_fifths_of_queries,
        ),
        files=FILES["en_home_depot_relevance"],
        records=59475,
        read=read_home_depot,
    ),
    Source(
        name="zh_search_relevance_qbqtc",
        language="zh",
        licence="unclear (repo has no licence file); CLUE/Tencent release",
        redistributable=False,
        upstream=Upstream("CLUEbenchmark/QBQTC", "37a90b8923ae3b23e55e16ed1e2a6389574d8837", "dataset"),
        files=FILES["zh_search_relevance_qbqtc"],
        records=25000,
        read=read_qbqtc,
    ),
    Source(
        name="en_query_segmentation",
        language="en",
        licence="MIT",
        redistributable=True,
        upstream=Upstream(
            "MTahirSB/The_Externals_QuerySegmentation", "834f1488ec978bc952e5d1dbec5ede48560ebba7", "data"
        ),
        files=FILES["en_query_segmentation"],
        records=20000,
        read=read_segments,
        note="3,864 rows whose query had a brand appended are left out",
    ),
)
