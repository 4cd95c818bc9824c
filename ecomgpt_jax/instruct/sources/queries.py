"""Search queries: graded relevance of titles (Home Depot, QBQTC) and weakly segmented queries."""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from functools import partial

from ecomgpt_jax.instruct.records import Draft, LabelledText, LeftOut, SpannedText, draft
from ecomgpt_jax.instruct.sources.fields import pair, tagged
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source, text_group
from ecomgpt_jax.instruct.sources.rows import json_lines, literal

SEGMENT_TYPES = {"ProductType": "product type", "Attribute": "attribute", "Brand": "brand"}


def mean_relevance(value: str) -> str:
    """Returns a mean of grades in its shortest form: "2.50" is "2.5"."""
    return f"{float(value):g}"


def segments(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields a query with its product type and attributes, labels made by rules ("weak").

    `Queries.csv` gives a `LabelledText` ("product type", "attribute") per row, `bioes_sequences.csv` a `SpannedText`.
    Brands are left out, since upstream matched them inside words; rows with a brand appended to the query are left out.
    """
    common = {"supervision": "weak", "group": text_group(row["query"], "")}
    if row.get("brand_added") == "True":
        raise LeftOut("brand appended to the query")
    if "tokens" not in row:
        labels = {"product type": (row["product_type"],), "attribute": tuple(literal(row["attributes"]))}
        kept = {kind: values for kind, values in labels.items() if all(values) and values}
        yield draft(LabelledText, text=row["query"], labels=kept, **common)
        return
    words = literal(row["tokens"]), literal(row["bioes_tags"])
    for _, _, fields in tagged(words, file, types=SEGMENT_TYPES, joiner=" "):
        spans = tuple(span for span in fields["spans"] if span.type != "brand")
        yield draft(SpannedText, **fields | common | {"spans": spans})


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
        licence=f"{NO_LICENCE}; Kaggle Home Depot competition data (competition use)",
        place="andmck1/home-depot@41fa8373fa0386b99ff159c696da4b7053531723",
        renamed={"train.csv": "data/train.csv.zip!train.csv"},
        derive=four_fifths_of_queries,
        records=59475,
        record=partial(pair, left="search_term", right="product_title", label=("relevance", mean_relevance)),
    ),
    Source(
        name="zh_search_relevance_qbqtc",
        licence=f"{NO_LICENCE}; CLUE/Tencent release",
        place="CLUEbenchmark/QBQTC@37a90b8923ae3b23e55e16ed1e2a6389574d8837/dataset",
        records=25000,
        rows=json_lines,
        record=partial(
            pair,
            left=("query", str.strip),
            right=("title", str.strip),
            label=("label", {grade: grade for grade in "012"}),
        ),
    ),
    Source(
        name="en_query_segmentation",
        licence="MIT",
        redistributable=True,
        place="MTahirSB/The_Externals_QuerySegmentation@834f1488ec978bc952e5d1dbec5ede48560ebba7/data",
        records=20000,
        record=segments,
        note="3,864 rows whose query had a brand appended are left out",
    ),
)
