"""Aspect sentiment of whole sentences: Taobao quadruples, MAMS XML, three-line APC files, Hu-Liu features, ASAP.

Upstream: Zhijiang-Cup 2019; MAMS-ATSA (Jiang et al., EMNLP 2019); ABSADatasets; Hu and Liu (KDD 2004) in NLTK's copy;
ASAP (Bu et al., NAACL 2021).
"""

import collections
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecomgpt_jax.instruct.records import AspectText, AspectTuple, Draft, LabelledText, LeftOut, draft
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.fields import join_tokens, make_span
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source
from ecomgpt_jax.instruct.sources.rows import Counted, Unreadable, csv_rows, text_lines, xml_elements

POLARITIES = {"正面": "positive", "负面": "negative", "中性": "neutral"}

# The names of the 18 columns in the ASAP paper.
ASAP_ASPECTS = {
    "location_traffic": "交通便利",
    "location_distance_from_business_district": "距离商圈远近",
    "location_easy_to_find": "容易寻找",
    "service_wait_time": "排队等候时间",
    "service_waiters_attitude": "服务人员态度",
    "service_parking_convenience": "停车方便",
    "service_serving_speed": "上菜速度",
    "price_level": "价格水平",
    "price_cost_effective": "性价比",
    "price_discount": "折扣力度",
    "environment_decoration": "装修情况",
    "environment_noise": "嘈杂情况",
    "environment_space": "就餐空间",
    "environment_cleaness": "卫生情况",
    "dish_portion": "菜品分量",
    "dish_taste": "菜品口感",
    "dish_look": "菜品外观",
    "dish_recommendation": "推荐程度",
}


def taobao_rows(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
    """Yields each training review with its rows of labels (joined on the id), and each test review without labels.

    `Train_reviews.csv` is GB18030 and its columns past the review are misaligned copies of the labels: not used.
    """
    reviews = list(csv_rows(folder / "Train_reviews.csv", encoding="gb18030"))
    known = {row["id"] for _, row in reviews if isinstance(row, dict)}
    labels: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    for number, row in csv_rows(folder / "Train_labels.csv"):
        if isinstance(row, dict) and row["id"] in known:
            labels[row["id"]].append(row)
        else:
            wrong = row if isinstance(row, Unreadable) else Unreadable(f"no review {row['id']!r}", row)
            yield "Train_labels.csv", number, wrong
    for number, row in reviews:
        if isinstance(row, dict):
            row = Counted(1 + len(labels[row["id"]]), (row["Reviews"], labels[row["id"]]))
        yield "Train_reviews.csv", number, row
    for number, row in csv_rows(folder / "Test_reviews.csv"):
        yield "Test_reviews.csv", number, (row["Reviews"], None) if isinstance(row, dict) else row


def taobao_review(row: tuple[str, Sequence[Mapping[str, str]] | None], file: str) -> Iterator[Draft]:
    """Yields an `AspectText` of a training review, an unlabelled text of a test review."""
    text, labels = row
    if labels is None:
        yield draft(LabelledText, text=text, labels={}, supervision="none")
        return
    tuples = tuple(
        AspectTuple(
            aspect=_term(text, each["AspectTerms"], each["A_start"], each["A_end"]),
            category=each["Categories"],
            opinion=_term(text, each["OpinionTerms"], each["O_start"], each["O_end"]),
            polarity=POLARITIES[each["Polarities"]],
        )
        for each in labels
    )
    yield draft(AspectText, text=text, tuples=tuples, domain="美妆")


def _term(text: str, term: str, start: str, end: str) -> str:
    if term == "_":
        return ""
    if text[int(start) : int(end)] != term:
        raise ValueError(f"{term!r} is not at {start}:{end}")
    return term


def mams(sentence: ElementTree.Element, file: str) -> Iterator[Draft]:
    """Yields an `AspectText` of a sentence with the positions of its terms."""
    text, tuples = sentence.findtext("text", ""), []
    for term in sentence.iter("aspectTerm"):
        span = make_span(text, int(term.attrib["from"]), int(term.attrib["to"]), "")
        if span.term != term.attrib["term"].strip():
            raise ValueError(f"{term.attrib['term']!r} is not at {span.start}:{span.end}")
        tuples.append(AspectTuple(span.term, "", "", term.attrib["polarity"]))
    yield draft(AspectText, text=text, tuples=tuple(tuples), domain="restaurant")


def apc_rows(path: Path, *, language: str, spaced: Collection[str] = ()) -> Iterator[tuple[int, Any]]:
    """Yields (sentence, its aspects and polarities); upstream repeats a sentence once per aspect as three lines.

    The lines are the sentence with `$T$` in place of the aspect, the aspect, the polarity.

    Args:
        path: A three-line file.
        language: Of the sentences.
        spaced: Folders whose files have blanks between Chinese characters.
    """
    lines = list(text_lines(path))
    merged: dict[str, tuple[int, list[AspectTuple]]] = {}
    for triple in zip(*[iter(lines)] * 3, strict=False):
        number, (pattern, term, polarity) = triple[0][0], (line for _, line in triple)
        if broken := [line for _, line in triple if isinstance(line, Unreadable)]:
            yield number, broken[0]
            continue
        aspect, pattern, polarity = term.strip(), pattern.strip(), polarity.strip().lower()
        sentence = pattern.replace("$T$", aspect)
        if path.parent.name in spaced:
            aspect, sentence = (join_tokens(each.split(), language) for each in (aspect, sentence))
        if "$T$" not in pattern or not aspect or polarity not in POLARITIES.values():
            yield number, Unreadable("not a sentence with $T$, an aspect and a polarity", pattern)
        else:
            merged.setdefault(sentence, (number, []))[1].append(AspectTuple(aspect, "", "", polarity))
    if len(lines) % 3:
        yield lines[-1][0], Unreadable(f"{len(lines)} lines are not a multiple of three", lines[-1][1])
    for sentence, (number, tuples) in merged.items():
        yield number, Counted(len(tuples), (sentence, tuples))


def judged_sentence(
    row: tuple[str, Sequence[AspectTuple]], file: str, *, domains: Mapping[str, str]
) -> Iterator[Draft]:
    """Yields an `AspectText`; `domains` gives the domain of the file's folder."""
    text, tuples = row
    yield draft(AspectText, text=text, tuples=tuple(dict.fromkeys(tuples)), domain=domains[Path(file).parent.name])


def hu_liu_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields all lines except titles and comments; upstream does not count those without the mark `##`."""
    for number, line in text_lines(path):
        if isinstance(line, Unreadable) or "##" in line:
            yield number, line
        elif line.strip() and not line.startswith(("*", "[t]")):
            yield number, Counted(0, line)


def features(line: str, file: str) -> Iterator[Draft]:
    """Yields an `AspectText` of a line `feature[+2], …##sentence`; the feature is the category, and the aspect if it is
    in the sentence.

    Strengths and the marks [u] [p] [s] [cc] [cs] are left out, as the README of the corpus recommends. A feature
    without a sign has no polarity.
    """
    tags, mark, text = line.partition("##")
    if not mark:
        raise LeftOut("line without the sentence mark ##")
    text, tuples = text.strip(), []
    for tag in tags.split(","):
        if feature := re.split(r"[\[{]|[+-]\d\]", tag)[0].strip():
            sign = re.search(r"([+-])\d?\s*(?:[\]}]|\[)", tag)
            start = text.lower().find(feature.lower())
            aspect = text[start : start + len(feature)] if start >= 0 else ""
            tuples.append(AspectTuple(aspect, feature, "", {"+": "positive", "-": "negative"}[sign[1]] if sign else ""))
    yield draft(AspectText, text=text, tuples=tuple(tuples), domain=Path(file).stem.replace("_", " "))


def asap_review(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields an `AspectText` (polarity of each category that the review mentions) and a `LabelledText` (rating)."""
    polarities = {"1": "positive", "0": "neutral", "-1": "negative"}
    text = re.sub(r"(?:\\+n)+", "\n", row["reviewbody"]).strip()
    judged = {name: row[column] for column, name in ASAP_ASPECTS.items() if row[column] != "-2"}
    tuples = tuple(AspectTuple("", name, "", polarities[value]) for name, value in judged.items())
    yield draft(AspectText, text=text, tuples=tuples, domain="餐厅")
    yield draft(LabelledText, "rating", text=text, labels={"rating": (str(int(float(row["star"]))),)})


# The files of the first of the two archives.
FIRST_FIVE_PRODUCTS = (
    "Apex_AD2600_Progressive_scan_DVD player.txt",
    "Canon_G3.txt",
    "Creative_Labs_Nomad_Jukebox_Zen_Xtra_40GB.txt",
    "Nikon_coolpix_4300.txt",
    "Nokia_6610.txt",
)

_ABSA = "yangheng95/ABSADatasets@676bcd3d88a901853c74acf364c9ad5c431b0e23/datasets/apc_datasets"
_MERGED = "the rows of one sentence, one per aspect, are merged"

SOURCES = (
    Source(
        name="zh_taobao_review_opinion",
        licence=f"{NO_LICENCE}; Zhijiang-Cup 2019 e-commerce review opinion mining (make-up)",
        place="williamwei2/data@181dda0229b206e13ec0030b2f1b46557c71242e",
        records=12099,
        joined=taobao_rows,
        record=taobao_review,
        note="6,633 rows of labels are merged into the 3,229 reviews they belong to",
    ),
    Source(
        name="zh_asap_sample",
        licence="Apache-2.0",
        redistributable=True,
        place="Meituan-Dianping/asap@975122a60065240124df62cb4d5dbfd19ed9ef2c/data",
        records=300,
        record=asap_review,
        note="a row is a text with 18 judged categories and a text with its rating",
    ),
    Source(
        name="en_mams",
        licence="Apache-2.0",
        redistributable=True,
        place="siat-nlp/MAMS-for-ABSA@cddcdb0f423b3fdb2c76b70744737abed3a00d17/data",
        records=5297,
        rows=partial(xml_elements, tag="sentence"),
        record=mams,
    ),
    Source(
        name="zh_product_aspect_polarity",
        licence="MIT (repo); original corpora: Peng et al. 2018 and community-annotated shampoo set",
        redistributable=True,
        place=f"{_ABSA}/102.Chinese",
        records=14154,
        rows=partial(apc_rows, language="zh", spaced=("103.camera", "104.car", "106.notebook", "107.phone")),
        record=partial(
            judged_sentence,
            domains={
                **{"103.camera": "相机", "104.car": "汽车", "106.notebook": "笔记本电脑"},
                **{"107.phone": "手机", "108.shampoo": "洗发水"},
            },
        ),
        note=_MERGED,
    ),
    Source(
        name="en_tv_tshirt_aspects",
        licence="MIT (repo); community annotated Flipkart/Amazon reviews",
        redistributable=True,
        place=_ABSA,
        records=7031,
        rows=partial(apc_rows, language="en"),
        record=partial(judged_sentence, domains={"117.Television": "television", "118.TShirt": "t-shirt"}),
        note=_MERGED,
    ),
    Source(
        name="en_hu_liu_reviews",
        licence="CC BY 4.0",
        redistributable=True,
        place="nltk/nltk_data@5db857e6f7df11eabb5e5665836db9ec8df07e28",
        renamed={
            file: f"packages/corpora/product_reviews_{1 if file in FIRST_FIVE_PRODUCTS else 2}.zip!{file}"
            for file in FILES["en_hu_liu_reviews"]
        },
        records=8194,
        rows=hu_liu_lines,
        record=features,
    ),
)
