"""Named entities in character BIO files: one `character tag` per line, a blank line after each text.

Upstream: E-commerce and Youku NER (Jie et al., NAACL 2019), Chinese addresses (Li et al., NAACL 2019), the JD title
data of GAIIC 2022; and tagged comments in a CSV column (CCF BDCI 2021).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ecomgpt_jax.instruct.records import LabelledText, Record, SpannedText
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    bio_spans,
    clean_text,
    csv_rows,
    json_lines,
    make_span,
    text_group,
    text_lines,
)


def bio_blocks(folder: Path, file: str, log: ReadLog) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yields (first line number, tokens, tags) per text; a line that begins with a blank holds a blank as its token."""
    start, lines = 1, []
    for number, line in (*text_lines(folder, file, log), (0, "")):
        if line:
            lines.append(line)
            continue
        if lines:
            log.rows += 1
            parts = [line.rpartition(" ") for line in lines]
            yield start, [token for token, _, _ in parts], [tag for _, _, tag in parts]
            lines = []
        start = number + 1


def read_bio(
    folder: Path, files: Sequence[str], log: ReadLog, *, kind: Callable[[str], str], pseudo: Sequence[str] = ()
) -> Iterator[Record]:
    """Yields a `SpannedText` per text.

    Args:
        folder: Folder of the source.
        files: BIO files; one that ends in `.md` is an annotation guide and is not read.
        log: Gets counts and malformed texts.
        kind: Maps a tag's type to the span's.
        pseudo: Files whose tags a model made.
    """
    for file in files:
        if file.endswith(".md"):
            continue
        for number, tokens, tags in bio_blocks(folder, file, log):
            text = "".join(tokens)
            id_ = f"{file}:{number}"
            try:
                spans = bio_spans(tokens, tags, kind)
            except (KeyError, ValueError) as error:
                log.reject(
                    file, number, "tag", f"unknown type {error}" if isinstance(error, KeyError) else str(error), text
                )
                continue
            yield SpannedText(
                id=id_,
                group=text_group(text, id_),
                language="zh",
                supervision="pseudo" if file in pseudo else "gold",
                text=text,
                spans=spans,
            )


def read_jd_titles(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields the tagged titles (one file of them a model's) and the pool of titles without tags, one per line."""
    pool = "sample_per_line_preliminary_A.txt"
    tagged = [file for file in files if file != pool]
    yield from read_bio(folder, tagged, log, kind=jd_type, pseudo=("fake_train_data_20000.txt",))
    for number, line in text_lines(folder, pool, log):
        log.rows += 1
        id_, text = f"{pool}:{number}", line.strip()
        yield LabelledText(id=id_, group=text_group(text, id_), language="zh", supervision="none", text=text, labels={})


def jd_type(name: str) -> str:
    """Returns the type of a JD tag number, "other" for the rare ones without a name."""
    return JD_TYPES.get(name, "other")


def address_type(name: str) -> str:
    """Returns the type of an address tag, whose letter case varies upstream."""
    return ADDRESS_TYPES[name.lower()]


def read_tagged_comments(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `SpannedText` and a `LabelledText` (sentiment) per row with one BIO tag per character of the comment."""
    for file in files:
        for number, row in csv_rows(folder, file, log):
            id_, text = f"{file}:{number}", row["text"]
            group = text_group(text, id_)
            try:
                spans = bio_spans(text, row["BIO_anno"].split(" "), BANK_TYPES.__getitem__)
                sentiment = BANK_SENTIMENTS[row["class"]]
            except (KeyError, ValueError) as error:
                log.reject(file, number, "BIO_anno", str(error), text)
                continue
            yield SpannedText(id=id_, group=group, language="zh", text=text, spans=spans)
            labels = {"sentiment": (sentiment,)}
            yield LabelledText(id=f"{id_}#sentiment", group=group, language="zh", text=text, labels=labels)


def read_targets(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `SpannedText` per line of COTE: sentence `s` and its opinion target `ot`, where it first occurs."""
    for file in files:
        for number, row in json_lines(folder, file, log):
            id_ = f"{file}:{number}"
            text, target = clean_text(row.get("s", "")), clean_text(row.get("ot", ""))
            start = text.find(target)
            if not target or start < 0:
                log.reject(file, number, "ot", f"target {target!r} is not in the sentence", text)
                continue
            spans = (make_span(text, start, start + len(target), "target"),)
            yield SpannedText(id=id_, group=text_group(text, id_), language="zh", text=text, spans=spans)


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
# The organisers keep the names of the numbers secret; these were read off the values.
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

_NO_FILE = "unclear (repo has no licence file)"
_NER_REPO = functools.partial(Upstream, "allanj/ner_incomplete_annotation", "a885c29bba4178885dcf4b674019650775d9512c")
_COTE_REPO = functools.partial(Upstream, "lsvih/chinese-customer-review", "c1d68637f5fc1486a2483d58083669baaae7bd9d")

SOURCES = (
    Source(
        name="zh_ecommerce_ner",
        language="zh",
        licence=f"{_NO_FILE}; Alibaba/SUTD release for NAACL-19",
        redistributable=False,
        upstream=_NER_REPO("data/ecommerce"),
        files=FILES["zh_ecommerce_ner"],
        records=7998,
        read=functools.partial(read_bio, kind=ECOMMERCE_TYPES.__getitem__),
    ),
    Source(
        name="zh_youku_ner",
        language="zh",
        licence=f"{_NO_FILE}; Alibaba/SUTD release",
        redistributable=False,
        upstream=_NER_REPO("data/youku"),
        files=FILES["zh_youku_ner"],
        records=10002,
        read=functools.partial(read_bio, kind=YOUKU_TYPES.__getitem__),
    ),
    Source(
        name="zh_address_parsing",
        language="zh",
        licence=f"{_NO_FILE}; Alibaba DAMO/SUTD release (NAACL-19), annotation guide included",
        redistributable=False,
        upstream=Upstream(
            "leodotnet/neural-chinese-address-parsing", "54cf6bde941a152cc096f54294254fc4ee288fa7", "data"
        ),
        files=FILES["zh_address_parsing"],
        records=14927,
        read=functools.partial(read_bio, kind=address_type),
    ),
    Source(
        name="zh_jd_title_ner",
        language="zh",
        licence=f"{_NO_FILE}; GAIIC-2022 JD competition data, redistribution terms unknown",
        redistributable=False,
        upstream=Upstream(
            "lylcst/GAIIC_project_NER",
            "2ad84962ce955810744b1b64b6565b4703e6b8b9",
            renamed={
                "dev_split.txt": "GAIIC_track2_baseline/datasets/JDNER/dev_split.txt",
                "fake_train_data_20000.txt": "data/orther/data.zip!fake_train_data_20000.txt",
                "sample_per_line_preliminary_A.txt": (
                    "data/contest_data/preliminary_test_a/sample_per_line_preliminary_A.txt"
                ),
            },
        ),
        files=FILES["zh_jd_title_ner"],
        records=34000,
        read=read_jd_titles,
        note="4,000 gold titles, 20,000 with a model's tags (pseudo), 10,000 without tags (none)",
    ),
    Source(
        name="zh_bank_product_reviews",
        language="zh",
        licence=f"{_NO_FILE}; CCF BDCI 2021 competition data",
        redistributable=False,
        upstream=Upstream("linkfqy/Comment-View-Extraction", "dc57a47b67c90b293a29cd73aedcca85e4dbbbf9", "data"),
        files=FILES["zh_bank_product_reviews"],
        records=7528,
        read=read_tagged_comments,
        note="a row is a text with spans and a text with its sentiment",
    ),
    Source(
        name="zh_cote_dianping",
        language="zh",
        licence="MIT",
        redistributable=True,
        upstream=_COTE_REPO("dianping"),
        files=FILES["zh_cote_dianping"],
        records=10825,
        read=read_targets,
    ),
    Source(
        name="zh_cote_mafengwo",
        language="zh",
        licence="MIT",
        redistributable=True,
        upstream=_COTE_REPO("mafengwo"),
        files=FILES["zh_cote_mafengwo"],
        records=17681,
        read=read_targets,
    ),
)
