"""Named entities in character BIO files: one `character tag` per line, a blank line after each text.

Upstream: E-commerce and Youku NER (Jie et al., NAACL 2019), Chinese addresses (Li et al., NAACL 2019), the JD title
data of GAIIC 2022; and tagged comments in a CSV column (CCF BDCI 2021).
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ecomgpt_jax.instruct.records import Draft, LabelledText, SpannedText, draft
from ecomgpt_jax.instruct.sources.fields import make_span, tagged
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source
from ecomgpt_jax.instruct.sources.rows import clean_text, conll_rows, filled_lines, json_lines

JD_POOL = "sample_per_line_preliminary_A.txt"


def jd_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields the tagged titles of a file, of the pool the titles without tags, one per line."""
    return (filled_lines if path.name == JD_POOL else conll_rows)(path)


def jd_title(row: Any, file: str) -> Iterator[Draft]:
    """Yields a `SpannedText` (of one file with tags of a model), or a `LabelledText` of a title without tags."""
    if file == JD_POOL:
        yield draft(LabelledText, text=row.strip(), labels={}, supervision="none")
    else:
        supervision = "pseudo" if file == "fake_train_data_20000.txt" else "gold"
        yield from tagged(row, file, types=jd_type, supervision=supervision)


def jd_type(name: str) -> str:
    """Returns the type of a JD tag number, "other" for the rare ones without a name."""
    return JD_TYPES.get(name, "other")


def address_type(name: str) -> str:
    """Returns the type of an address tag, whose letter case varies upstream."""
    return ADDRESS_TYPES[name.lower()]


def tagged_comment(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields a `SpannedText` and a `LabelledText` (sentiment) of a comment with one BIO tag per character."""
    yield from tagged((row["text"], row["BIO_anno"].split(" ")), file, types=BANK_TYPES)
    yield draft(LabelledText, "sentiment", text=row["text"], labels={"sentiment": (BANK_SENTIMENTS[row["class"]],)})


def opinion_target(row: Mapping[str, Any], file: str) -> Iterator[Draft]:
    """Yields a `SpannedText` of COTE: sentence `s` and its opinion target `ot`, where it first occurs."""
    text, target = clean_text(row["s"]), clean_text(row["ot"])
    start = text.find(target)
    if not target or start < 0:
        raise ValueError(f"target {target!r} is not in the sentence")
    yield draft(SpannedText, text=text, spans=(make_span(text, start, start + len(target), "target"),))


ECOMMERCE_TYPES = {"HCCX": "product", "HPPX": "brand", "XH": "model", "MISC": "specification"}
YOUKU_TYPES = {"TELEVISION": "television", "PER": "person", "MISC": "other"}
BANK_TYPES = {
    "BANK": "bank",
    "PRODUCT": "product",
    "COMMENTS_N": "commented feature",
    "COMMENTS_ADJ": "comment",
}
BANK_SENTIMENTS = {"0": "negative", "1": "positive", "2": "neutral"}
ADDRESS_TYPES = {
    "country": "country",
    "prov": "province",
    "city": "city",
    "district": "district",
    "devzone": "development zone",
    "town": "town",
    "community": "community",
    "road": "road",
    "roadno": "road number",
    "subroad": "side road",
    "subroadno": "side road number",
    "poi": "point of interest",
    "subpoi": "part of a point of interest",
    "houseno": "building number",
    "cellno": "unit number",
    "floorno": "floor number",
    "roomno": "room number",
    "person": "occupant",
    "assist": "locating word",
    "redundant": "redundant",
    "otherinfo": "other",
}
# The organisers do not publish the names of the numbers; these were derived from the values.
JD_TYPES = {
    "1": "brand",
    "3": "model number",
    "4": "product",
    "5": "purpose",
    "6": "season",
    "7": "place",
    "8": "target group",
    "9": "theme",
    "10": "pattern",
    "11": "function",
    "12": "material",
    "13": "modifier",
    "14": "style",
    "16": "colour",
    "18": "size",
    "22": "component",
    "29": "customisation",
    "36": "capacity",
    "37": "compatible brand",
    "38": "compatible model",
    "39": "model code",
    "40": "compatible device",
    "54": "screen size",
}

_NER_REPO = "allanj/ner_incomplete_annotation@a885c29bba4178885dcf4b674019650775d9512c/data"
_COTE_REPO = "lsvih/chinese-customer-review@c1d68637f5fc1486a2483d58083669baaae7bd9d"

SOURCES = (
    Source(
        name="zh_ecommerce_ner",
        licence=f"{NO_LICENCE}; Alibaba/SUTD release for NAACL-19",
        place=f"{_NER_REPO}/ecommerce",
        records=7998,
        rows=conll_rows,
        record=partial(tagged, types=ECOMMERCE_TYPES),
    ),
    Source(
        name="zh_youku_ner",
        licence=f"{NO_LICENCE}; Alibaba/SUTD release",
        place=f"{_NER_REPO}/youku",
        records=10002,
        rows=conll_rows,
        record=partial(tagged, types=YOUKU_TYPES),
    ),
    Source(
        name="zh_address_parsing",
        licence=f"{NO_LICENCE}; Alibaba DAMO/SUTD release (NAACL-19), annotation guide included",
        place="leodotnet/neural-chinese-address-parsing@54cf6bde941a152cc096f54294254fc4ee288fa7/data",
        records=14927,
        rows=conll_rows,
        record=partial(tagged, types=address_type),
    ),
    Source(
        name="zh_jd_title_ner",
        licence=f"{NO_LICENCE}; GAIIC-2022 JD competition data, redistribution terms unknown",
        place="lylcst/GAIIC_project_NER@2ad84962ce955810744b1b64b6565b4703e6b8b9",
        renamed={
            "dev_split.txt": "GAIIC_track2_baseline/datasets/JDNER/dev_split.txt",
            "fake_train_data_20000.txt": "data/orther/data.zip!fake_train_data_20000.txt",
            JD_POOL: f"data/contest_data/preliminary_test_a/{JD_POOL}",
        },
        records=34000,
        rows=jd_rows,
        record=jd_title,
        note="4,000 gold titles, 20,000 with a model's tags (pseudo), 10,000 without tags (none)",
    ),
    Source(
        name="zh_bank_product_reviews",
        licence=f"{NO_LICENCE}; CCF BDCI 2021 competition data",
        place="linkfqy/Comment-View-Extraction@dc57a47b67c90b293a29cd73aedcca85e4dbbbf9/data",
        records=7528,
        record=tagged_comment,
        note="a row is a text with spans and a text with its sentiment",
    ),
    Source(
        name="zh_cote_dianping",
        licence="MIT",
        redistributable=True,
        place=f"{_COTE_REPO}/dianping",
        records=10825,
        rows=json_lines,
        record=opinion_target,
    ),
    Source(
        name="zh_cote_mafengwo",
        licence="MIT",
        redistributable=True,
        place=f"{_COTE_REPO}/mafengwo",
        records=17681,
        rows=json_lines,
        record=opinion_target,
    ),
)
