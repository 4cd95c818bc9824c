"""Reviews and other texts with labels of the whole: sentiment, rating, product category, recommendation.

Labels use one spelling everywhere: sentiment "positive" | "negative" | "neutral", rating "1" to "5".
"""

import functools
import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.instruct.records import LabelledText, Record
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    clean_text,
    csv_rows,
    json_lines,
    text_group,
    text_lines,
    zip_csv_rows,
)

SENTIMENTS = {"1": "positive", "0": "negative"}

# Columns that name a product, and what begins the group of its reviews (an ASIN is one product in every source).
PRODUCTS = {"prod_id": "asin", "Clothing ID": "womens"}

Rows = Iterator[tuple[str, int, Mapping[str, str]]]


def _texts(rows: Rows, log: ReadLog, language: str, text: str, labels: Callable, product: str = "") -> Iterator[Record]:
    """Yields a `LabelledText` per row; one without text is left out.

    Args:
        rows: (file, line, fields).
        log: Gets rows without text and rows whose labels are unknown.
        language: Of the texts.
        text: Field of the text.
        labels: Makes the labels from the fields; a ValueError or KeyError rejects the row.
        product: Field that names the product, whose reviews share a group; the text's own group where it is empty.
    """
    for file, number, row in rows:
        id_, cleaned = f"{file}:{number}", clean_text(row[text])
        if not cleaned:
            log.skipped["no text"] += 1
            continue
        try:
            kinds = {kind: (value,) for kind, value in labels(row).items() if value}
        except (KeyError, ValueError) as error:
            log.reject(file, number, "", f"unknown label {error}", row)
            continue
        yield LabelledText(
            id=id_,
            group=f"{PRODUCTS[product]}:{row[product]}" if product else text_group(cleaned, id_),
            language=language,
            supervision="gold" if kinds else "none",
            text=cleaned,
            labels=kinds,
        )


def _rating(value: str) -> str:
    if value not in {"1", "2", "3", "4", "5"}:
        raise ValueError(repr(value))
    return value


def read_csv(
    folder: Path,
    files: Sequence[str],
    log: ReadLog,
    *,
    language: str,
    text: str,
    labels: Callable[[Mapping[str, str]], Mapping[str, str]],
    product: str = "",
    delimiter: str = ",",
) -> Iterator[Record]:
    """Yields a `LabelledText` per row of delimited files (arguments as in `_texts`)."""
    rows = ((file, *row) for file in files for row in csv_rows(folder, file, log, delimiter=delimiter))
    return _texts(rows, log, language, text, labels, product)


def read_json(
    folder: Path,
    files: Sequence[str],
    log: ReadLog,
    *,
    language: str,
    text: str,
    labels: Callable[[Mapping[str, str]], Mapping[str, str]],
) -> Iterator[Record]:
    """Yields a `LabelledText` per object of JSON-lines files; files that do not end in `.json` are not read."""
    rows = ((file, *row) for file in files if file.endswith(".json") for row in json_lines(folder, file, log))
    return _texts(rows, log, language, text, labels)


def read_zipped_csv(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `LabelledText` (category, sentiment) per row of the one CSV file in each zip archive."""
    rows = (
        (file, *row) for file in files for row in zip_csv_rows(folder, file, Path(file).with_suffix(".csv").name, log)
    )
    labels = lambda row: {"category": row["cat"], "sentiment": SENTIMENTS[row["label"]]}  # noqa: E731
    return _texts(rows, log, "zh", "review", labels)


def read_stars(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `LabelledText` (rating, domain) per line `stars #### review`."""
    for file in files:
        for number, line in text_lines(folder, file, log):
            log.rows += 1
            id_ = f"{file}:{number}"
            stars, mark, text = line.partition(" #### ")
            if not mark or stars not in {"1", "2", "3", "4", "5"} or not text.strip():
                log.reject(file, number, "", "not 'stars #### review'", line)
                continue
            yield LabelledText(
                id=id_,
                group=text_group(text, id_),
                language="en",
                text=text.strip(),
                labels={"rating": (stars,), "domain": (Path(file).stem,)},
            )


def read_pros_cons(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `LabelledText` ("side": pros or cons) per line `<Pros>…</Pros>` or `<Cons>…</Cons>`.

    Upstream is UTF-8 with some Latin-1 lines and character references that were escaped twice.
    """
    for file in files:
        if file == "README.txt":
            continue
        for number, line in text_lines(folder, file, log, fallback="latin-1"):
            if not line.strip():
                continue
            log.rows += 1
            id_ = f"{file}:{number}"
            match = re.fullmatch(r"\s*<(Pros|Cons)>(.*)</\1>\s*", line)
            if not match:
                log.reject(file, number, "", "not <Pros>…</Pros> or <Cons>…</Cons>", line)
                continue
            text = " ".join(html.unescape(html.unescape(match[2])).split())
            if not text:
                log.skipped["no text"] += 1
                continue
            yield LabelledText(
                id=id_, group=text_group(text, id_), language="en", text=text, labels={"side": (match[1].lower(),)}
            )


def every_second_line(data: bytes) -> bytes:
    """Returns the first, third, fifth, … line: the half of upstream's reviews that this source carries."""
    return b"".join(data.splitlines(keepends=True)[::2])


def _womens_labels(row: Mapping[str, str]) -> dict[str, str]:
    return {
        "rating": _rating(row["Rating"]),
        "recommended": {"1": "yes", "0": "no"}[row["Recommended IND"]],
        "title": row["Title"].strip(),
        "division": row["Division Name"].replace("Initmates", "Intimates"),
        "department": row["Department Name"],
        "class": row["Class Name"],
        "helpful_votes": row["Positive Feedback Count"],
    }


def _alexa_labels(row: Mapping[str, str]) -> dict[str, str]:
    return {
        "rating": _rating(row["rating"]),
        "sentiment": SENTIMENTS[row["feedback"]],
        "variant": " ".join(row["variation"].split()),
    }


def _sentiment_labels(row: Mapping[str, str]) -> dict[str, str]:
    return {"sentiment": SENTIMENTS[row["label"]]}


def _eprstmt_labels(row: Mapping[str, str]) -> dict[str, str]:
    return {"sentiment": {"Positive": "positive", "Negative": "negative"}[row["label"]]} if "label" in row else {}


def _category_labels(row: Mapping[str, str]) -> dict[str, str]:
    return {"category": row["category"].replace("_", " ")}


def _app_labels(row: Mapping[str, str]) -> dict[str, str]:
    return {"category": row["label_des"]}


_NO_FILE = "unclear (repo has no licence file)"
_CHINESE_CORPUS = functools.partial(Upstream, "SophonPlus/ChineseNlpCorpus", "a0b781d72158bde242c0626c9e354d2b328865ff")
_FEWCLUE = functools.partial(Upstream, "CLUEbenchmark/FewCLUE", "62a02c6f31cf32814cfe522f78ef088228840f8d")

SOURCES = (
    Source(
        name="en_amazon_alexa",
        language="en",
        licence=f"{_NO_FILE}; Kaggle Amazon Alexa reviews",
        redistributable=False,
        upstream=Upstream("snizio/progettoTA", "61e961bae1beacd31d4f35bb4c804eaaf2d88528"),
        files=FILES["en_amazon_alexa"],
        records=3150,
        read=functools.partial(read_csv, language="en", text="verified_reviews", labels=_alexa_labels, delimiter="\t"),
        note="79 rows without a review text are left out",
    ),
    Source(
        name="en_amazon_review_category",
        language="en",
        licence=f"{_NO_FILE}; derived from Amazon review data 2018",
        redistributable=False,
        upstream=Upstream("fcarichon/TopicDiversifiedVAESumm", "8f40c852b9d9d41f79be580b3a7e0b1e2067de49", "data"),
        files=FILES["en_amazon_review_category"],
        records=4361,
        read=functools.partial(read_csv, language="en", text="review", labels=_category_labels, product="prod_id"),
    ),
    Source(
        name="en_amazon_star_reviews",
        language="en",
        licence="MIT (repo); Amazon review data",
        redistributable=True,
        upstream=Upstream(
            "NJUNLP/DMASTE", "1be462cd7dd1479b314cc85234a59e8bc7cdf89b", "amazon", derive=every_second_line
        ),
        files=FILES["en_amazon_star_reviews"],
        records=35000,
        read=read_stars,
    ),
    Source(
        name="en_pros_cons",
        language="en",
        licence="CC BY 4.0",
        redistributable=True,
        upstream=Upstream(
            "nltk/nltk_data",
            "5db857e6f7df11eabb5e5665836db9ec8df07e28",
            renamed={file: f"packages/corpora/pros_cons.zip!{file}" for file in FILES["en_pros_cons"]},
        ),
        files=FILES["en_pros_cons"],
        records=45875,
        read=read_pros_cons,
        note="8 empty phrases are left out",
    ),
    Source(
        name="en_womens_clothing_reviews",
        language="en",
        licence="MIT (repo); Kaggle original is CC0",
        redistributable=True,
        upstream=Upstream(
            "irmakozveren01/Womens-clothing-text-analysis",
            "18e084eca89ca3f0fe66ee29933876c2e8b909af",
            renamed={file: f"{file}.zip!{file}" for file in FILES["en_womens_clothing_reviews"]},
        ),
        files=FILES["en_womens_clothing_reviews"],
        records=23486,
        read=functools.partial(
            read_csv, language="en", text="Review Text", labels=_womens_labels, product="Clothing ID"
        ),
        note="845 rows without a review text are left out",
    ),
    Source(
        name="zh_app_category",
        language="zh",
        licence=f"{_NO_FILE}; CLUE IFLYTEK",
        redistributable=False,
        upstream=_FEWCLUE("datasets/iflytek"),
        files=FILES["zh_app_category"],
        records=6146,
        read=functools.partial(read_json, language="zh", text="sentence", labels=_app_labels),
    ),
    Source(
        name="zh_eprstmt",
        language="zh",
        licence=f"{_NO_FILE}; FewCLUE benchmark",
        redistributable=False,
        upstream=_FEWCLUE("datasets/eprstmt"),
        files=FILES["zh_eprstmt"],
        records=20495,
        read=functools.partial(read_json, language="zh", text="sentence", labels=_eprstmt_labels),
    ),
    Source(
        name="zh_hotel_reviews",
        language="zh",
        licence=f"{_NO_FILE}; Tan Songbo corpus",
        redistributable=False,
        upstream=_CHINESE_CORPUS("datasets/ChnSentiCorp_htl_all"),
        files=FILES["zh_hotel_reviews"],
        records=7766,
        read=functools.partial(read_csv, language="zh", text="review", labels=_sentiment_labels),
        note="1 row without a review text is left out",
    ),
    Source(
        name="zh_online_shopping_10_cats",
        language="zh",
        licence=f"{_NO_FILE}; scraped, origin unknown (upstream says so)",
        redistributable=False,
        upstream=_CHINESE_CORPUS("datasets/online_shopping_10_cats"),
        files=FILES["zh_online_shopping_10_cats"],
        records=62774,
        read=read_zipped_csv,
        note="1 row without a review text is left out",
    ),
    Source(
        name="zh_waimai_10k",
        language="zh",
        licence=_NO_FILE,
        redistributable=False,
        upstream=_CHINESE_CORPUS("datasets/waimai_10k"),
        files=FILES["zh_waimai_10k"],
        records=11987,
        read=functools.partial(read_csv, language="zh", text="review", labels=_sentiment_labels),
    ),
)
