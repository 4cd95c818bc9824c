"""Reviews and other texts with labels of the whole: sentiment, rating, product category, recommendation.

Labels use one spelling everywhere: sentiment "positive" | "negative" | "neutral", rating "1" to "5".
"""

import html
import re
from collections.abc import Iterator, Mapping
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

from ecomgpt_jax.instruct.records import Draft, LabelledText, LeftOut, draft
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.fields import labelled
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source
from ecomgpt_jax.instruct.sources.rows import filled_lines, json_lines, one_line

SENTIMENTS = {"1": "positive", "0": "negative"}
STARS = {star: star for star in "12345"}


def stars(line: str, file: str) -> Iterator[Draft]:
    """Yields a `LabelledText` (rating, domain) of a line `stars #### review`."""
    rating, mark, text = line.partition(" #### ")
    if not mark or rating not in STARS or not text.strip():
        raise ValueError("not 'stars #### review'")
    yield draft(LabelledText, text=text.strip(), labels={"rating": (rating,), "domain": (Path(file).stem,)})


def pros_or_cons(line: str, file: str) -> Iterator[Draft]:
    """Yields a `LabelledText` ("side": pros or cons) of a line `<Pros>…</Pros>` or `<Cons>…</Cons>`.

    Character references were escaped twice upstream.
    """
    match = re.fullmatch(r"\s*<(Pros|Cons)>(.*)</\1>\s*", line)
    if not match:
        raise ValueError("not <Pros>…</Pros> or <Cons>…</Cons>")
    if not (text := one_line(html.unescape(html.unescape(match[2])))):
        raise LeftOut("no text")
    yield draft(LabelledText, text=text, labels={"side": (match[1].lower(),)})


def sentiment_if_labelled(row: Mapping[str, Any], file: str) -> Iterator[Draft]:
    """Yields a `LabelledText`; one of EPRSTMT's files has no labels."""
    sentiment = ("label", {"Positive": "positive", "Negative": "negative"})
    return labelled(row, file, text="sentence", labels={"sentiment": sentiment} if "label" in row else {})


def every_second_line(data: bytes) -> bytes:
    """Returns the first, third, fifth, … line: the half of upstream's reviews that this source uses."""
    return b"".join(data.splitlines(keepends=True)[::2])


_CHINESE_CORPUS = "SophonPlus/ChineseNlpCorpus@a0b781d72158bde242c0626c9e354d2b328865ff/datasets"
_FEWCLUE = "CLUEbenchmark/FewCLUE@62a02c6f31cf32814cfe522f78ef088228840f8d/datasets"
_SENTIMENT = partial(labelled, text="review", labels={"sentiment": ("label", SENTIMENTS)})

SOURCES = (
    Source(
        name="en_amazon_alexa",
        licence=f"{NO_LICENCE}; Kaggle Amazon Alexa reviews",
        place="snizio/progettoTA@61e961bae1beacd31d4f35bb4c804eaaf2d88528",
        records=3150,
        record=partial(
            labelled,
            text="verified_reviews",
            labels={
                "rating": ("rating", STARS),
                "sentiment": ("feedback", SENTIMENTS),
                "variant": ("variation", one_line),
            },
        ),
        note="79 rows without a review text are left out",
    ),
    Source(
        name="en_amazon_review_category",
        licence=f"{NO_LICENCE}; derived from Amazon review data 2018",
        place="fcarichon/TopicDiversifiedVAESumm@8f40c852b9d9d41f79be580b3a7e0b1e2067de49/data",
        records=4361,
        record=partial(
            labelled,
            text="review",
            labels={"category": ("category", methodcaller("replace", "_", " "))},
            group=("asin", "prod_id"),
        ),
    ),
    Source(
        name="en_amazon_star_reviews",
        licence="MIT (repo); Amazon review data",
        redistributable=True,
        place="NJUNLP/DMASTE@1be462cd7dd1479b314cc85234a59e8bc7cdf89b/amazon",
        derive=every_second_line,
        records=35000,
        rows=filled_lines,
        record=stars,
    ),
    Source(
        name="en_pros_cons",
        licence="CC BY 4.0",
        redistributable=True,
        place="nltk/nltk_data@5db857e6f7df11eabb5e5665836db9ec8df07e28",
        renamed={file: f"packages/corpora/pros_cons.zip!{file}" for file in FILES["en_pros_cons"]},
        records=45875,
        rows=partial(filled_lines, fallback="latin-1"),
        record=pros_or_cons,
        note="8 empty phrases are left out",
    ),
    Source(
        name="en_womens_clothing_reviews",
        licence="MIT (repo); Kaggle original is CC0",
        redistributable=True,
        place="irmakozveren01/Womens-clothing-text-analysis@18e084eca89ca3f0fe66ee29933876c2e8b909af",
        renamed={file: f"{file}.zip!{file}" for file in FILES["en_womens_clothing_reviews"]},
        records=23486,
        record=partial(
            labelled,
            text="Review Text",
            labels={
                "rating": ("Rating", STARS),
                "recommended": ("Recommended IND", {"1": "yes", "0": "no"}),
                "title": "Title",
                "division": ("Division Name", methodcaller("replace", "Initmates", "Intimates")),
                "department": "Department Name",
                "class": "Class Name",
                "helpful_votes": "Positive Feedback Count",
            },
            group=("womens", "Clothing ID"),
        ),
        note="845 rows without a review text are left out",
    ),
    Source(
        name="zh_app_category",
        licence=f"{NO_LICENCE}; CLUE IFLYTEK",
        place=f"{_FEWCLUE}/iflytek",
        records=6146,
        rows=json_lines,
        record=partial(labelled, text="sentence", labels={"category": "label_des"}),
    ),
    Source(
        name="zh_eprstmt",
        licence=f"{NO_LICENCE}; FewCLUE benchmark",
        place=f"{_FEWCLUE}/eprstmt",
        records=20495,
        rows=json_lines,
        record=sentiment_if_labelled,
    ),
    Source(
        name="zh_hotel_reviews",
        licence=f"{NO_LICENCE}; Tan Songbo corpus",
        place=f"{_CHINESE_CORPUS}/ChnSentiCorp_htl_all",
        records=7766,
        record=_SENTIMENT,
        note="1 row without a review text is left out",
    ),
    Source(
        name="zh_online_shopping_10_cats",
        licence=f"{NO_LICENCE}; scraped, origin unknown (upstream says so)",
        place=f"{_CHINESE_CORPUS}/online_shopping_10_cats",
        records=62774,
        record=partial(labelled, text="review", labels={"category": "cat", "sentiment": ("label", SENTIMENTS)}),
        note="1 row without a review text is left out",
    ),
    Source(
        name="zh_waimai_10k",
        licence=NO_LICENCE,
        place=f"{_CHINESE_CORPUS}/waimai_10k",
        records=11987,
        record=_SENTIMENT,
    ),
)
