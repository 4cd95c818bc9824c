"""Aspect sentiment of whole sentences: Taobao quadruples, MAMS XML, three-line APC files, Hu-Liu features, ASAP.

Upstream: Zhijiang-Cup 2019; MAMS-ATSA (Jiang et al., EMNLP 2019); ABSADatasets; Hu and Liu (KDD 2004) in NLTK's copy;
ASAP (Bu et al., NAACL 2021).
"""

import collections
import functools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.records import AspectText, AspectTuple, LabelledText, Record
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    csv_rows,
    join_tokens,
    make_span,
    text_group,
    text_lines,
)

POLARITIES = {"正面": "positive", "负面": "negative", "中性": "neutral"}

# The names that the ASAP paper gives its 18 columns.
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


def read_taobao(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AspectText` per training review (three files joined on the id), an unlabelled text per test review.

    `Train_reviews.csv` is GB18030 and its columns past the review are misaligned copies of the labels: not used.
    """
    tuples: dict[str, list[AspectTuple]] = collections.defaultdict(list)
    reviews = {
        row["id"]: (number, row["Reviews"])
        for number, row in csv_rows(folder, "Train_reviews.csv", log, encoding="gb18030")
    }
    rejected = set()
    for number, row in csv_rows(folder, "Train_labels.csv", log):
        try:
            text = reviews[row["id"]][1]
            tuples[row["id"]].append(
                AspectTuple(
                    aspect=_term(text, row["AspectTerms"], row["A_start"], row["A_end"]),
                    category=row["Categories"],
                    opinion=_term(text, row["OpinionTerms"], row["O_start"], row["O_end"]),
                    polarity=POLARITIES[row["Polarities"]],
                )
            )
        except (KeyError, ValueError) as error:
            log.reject("Train_labels.csv", number, "", f"not a quadruple of its review: {error}", row)
            rejected.add(row["id"])
    for key, (number, text) in reviews.items():
        if key in rejected:
            continue
        id_ = f"Train_reviews.csv:{number}"
        group = text_group(text, id_)
        yield AspectText(id=id_, group=group, language="zh", text=text, tuples=tuple(tuples[key]), domain="美妆")
    for number, row in csv_rows(folder, "Test_reviews.csv", log):
        id_ = f"Test_reviews.csv:{number}"
        yield LabelledText(
            id=id_,
            group=text_group(row["Reviews"], id_),
            language="zh",
            supervision="none",
            text=row["Reviews"],
            labels={},
        )


def _term(text: str, term: str, start: str, end: str) -> str:
    if term == "_":
        return ""
    if text[int(start) : int(end)] != term:
        raise ValueError(f"{term!r} is not at {start}:{end}")
    return term


def read_mams(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AspectText` per sentence; ids count the sentences of a file.

    Raises:
        DataError: A file is not XML.
    """
    for file in files:
        try:
            sentences = ElementTree.parse(folder / file).getroot().findall("sentence")
        except ElementTree.ParseError as error:
            raise DataError(f"{folder / file}: invalid XML: {error}") from error
        for number, sentence in enumerate(sentences, 1):
            log.rows += 1
            id_, text = f"{file}:{number}", sentence.findtext("text", "")
            try:
                tuples = []
                for term in sentence.iter("aspectTerm"):
                    span = make_span(text, int(term.attrib["from"]), int(term.attrib["to"]), "")
                    if span.term != term.attrib["term"].strip():
                        raise ValueError(f"{term.attrib['term']!r} is not at {span.start}:{span.end}")
                    tuples.append(AspectTuple(span.term, "", "", term.attrib["polarity"]))
            except (KeyError, ValueError) as error:
                log.reject(file, number, "aspectTerm", f"not a term of the sentence: {error}", text)
                continue
            yield AspectText(
                id=id_, group=text_group(text, id_), language="en", text=text, tuples=tuple(tuples), domain="restaurant"
            )


def read_apc(
    folder: Path,
    files: Sequence[str],
    log: ReadLog,
    *,
    language: str,
    domains: Mapping[str, str],
    spaced: Collection[str] = (),
) -> Iterator[Record]:
    """Yields an `AspectText` per sentence; upstream repeats it once per aspect as three lines.

    The lines are the sentence with `$T$` in the aspect's places, the aspect, the polarity.

    Args:
        folder: Folder of the source.
        files: Three-line files.
        log: Gets counts (one a triple of lines) and malformed triples.
        language: Of the sentences.
        domains: Domain by the folder that a file lies in.
        spaced: Folders in whose files blanks stand between Chinese characters.
    """
    for file in files:
        lines = list(text_lines(folder, file, log))
        parent = Path(file).parent.name
        merged: dict[str, tuple[int, dict[AspectTuple, None]]] = {}
        for (number, pattern), (_, term), (_, polarity) in zip(*[iter(lines)] * 3, strict=False):
            log.rows += 1
            aspect, pattern = term.strip(), pattern.strip()
            sentence = pattern.replace("$T$", aspect)
            if parent in spaced:
                aspect, sentence = (join_tokens(each.split(), language) for each in (aspect, sentence))
            if "$T$" not in pattern or not aspect or polarity.strip().lower() not in POLARITIES.values():
                log.reject(file, number, "", "not a sentence with $T$, an aspect and a polarity", pattern)
                continue
            first = merged.setdefault(sentence, (number, {}))
            first[1][AspectTuple(aspect, "", "", polarity.strip().lower())] = None
        if len(lines) % 3:
            log.reject(file, lines[-1][0], "", f"{len(lines)} lines are not a multiple of three", lines[-1][1])
        for sentence, (number, tuples) in merged.items():
            id_ = f"{file}:{number}"
            yield AspectText(
                id=id_,
                group=text_group(sentence, id_),
                language=language,
                text=sentence,
                tuples=tuple(tuples),
                domain=domains[parent],
            )


def read_hu_liu(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AspectText` per line `feature[+2], …##sentence`; the feature is the category, and the aspect if it is
    in the sentence.

    Strengths and the marks [u] [p] [s] [cc] [cs] are left out, as the corpus's own README advises. A feature whose
    sign is missing has no polarity. Titles and comments are no records.
    """
    for file in files:
        if file == "README.txt":
            continue
        domain = Path(file).stem.replace("_", " ")
        for number, line in text_lines(folder, file, log):
            tags, mark, text = line.partition("##")
            if not mark:
                if line.strip() and not line.startswith(("*", "[t]")):
                    log.skipped["line without the sentence mark ##"] += 1
                continue
            log.rows += 1
            id_, text = f"{file}:{number}", text.strip()
            tuples = []
            for tag in tags.split(","):
                feature = re.split(r"[\[{]|[+-]\d\]", tag)[0].strip()
                if feature:
                    sign = re.search(r"([+-])\d?\s*(?:[\]}]|\[)", tag)
                    start = text.lower().find(feature.lower())
                    aspect = text[start : start + len(feature)] if start >= 0 else ""
                    polarity = {"+": "positive", "-": "negative"}[sign[1]] if sign else ""
                    tuples.append(AspectTuple(aspect, feature, "", polarity))
            yield AspectText(
                id=id_, group=text_group(text, id_), language="en", text=text, tuples=tuple(tuples), domain=domain
            )


def read_asap(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AspectText` (polarity of each category that the review mentions) and a `LabelledText` (rating)."""
    polarities = {"1": "positive", "0": "neutral", "-1": "negative"}
    for file in files:
        for number, row in csv_rows(folder, file, log):
            id_ = f"{file}:{number}"
            text = re.sub(r"(?:\\+n)+", "\n", row["reviewbody"]).strip()
            group = text_group(text, id_)
            try:
                tuples = tuple(
                    AspectTuple("", name, "", polarities[row[column]])
                    for column, name in ASAP_ASPECTS.items()
                    if row[column] != "-2"
                )
                rating = (str(int(float(row["star"]))),)
            except (KeyError, ValueError) as error:
                log.reject(file, number, "", f"unknown value {error}", row)
                continue
            yield AspectText(id=id_, group=group, language="zh", text=text, tuples=tuples, domain="餐厅")
            yield LabelledText(id=f"{id_}#rating", group=group, language="zh", text=text, labels={"rating": rating})


# The files of the first of the two archives.
FIRST_FIVE_PRODUCTS = (
    "Apex_AD2600_Progressive_scan_DVD player.txt",
    "Canon_G3.txt",
    "Creative_Labs_Nomad_Jukebox_Zen_Xtra_40GB.txt",
    "Nikon_coolpix_4300.txt",
    "Nokia_6610.txt",
)

SOURCES = (
    Source(
        name="zh_taobao_review_opinion",
        language="zh",
        licence="unclear (repo has no licence file); Zhijiang-Cup 2019 e-commerce review opinion mining (make-up)",
        redistributable=False,
        upstream=Upstream("williamwei2/data", "181dda0229b206e13ec0030b2f1b46557c71242e"),
        files=FILES["zh_taobao_review_opinion"],
        records=12099,
        read=read_taobao,
        note="6,633 rows of labels are merged into the 3,229 reviews they belong to",
    ),
    Source(
        name="zh_asap_sample",
        language="zh",
        licence="Apache-2.0",
        redistributable=True,
        upstream=Upstream("Meituan-Dianping/asap", "975122a60065240124df62cb4d5dbfd19ed9ef2c", "data"),
        files=FILES["zh_asap_sample"],
        records=300,
        read=read_asap,
        note="a row is a text with 18 judged categories and a text with its rating",
    ),
    Source(
        name="en_mams",
        language="en",
        licence="Apache-2.0",
        redistributable=True,
        upstream=Upstream("siat-nlp/MAMS-for-ABSA", "cddcdb0f423b3fdb2c76b70744737abed3a00d17", "data"),
        files=FILES["en_mams"],
        records=5297,
        read=read_mams,
    ),
    Source(
        name="zh_product_aspect_polarity",
        language="zh",
        licence="MIT (repo); original corpora: Peng et al. 2018 and community-annotated shampoo set",
        redistributable=True,
        upstream=Upstream(
            "yangheng95/ABSADatasets",
            "676bcd3d88a901853c74acf364c9ad5c431b0e23",
            "datasets/apc_datasets/102.Chinese",
        ),
        files=FILES["zh_product_aspect_polarity"],
        records=14154,
        read=functools.partial(
            read_apc,
            language="zh",
            domains={
                "103.camera": "相机",
                "104.car": "汽车",
                "106.notebook": "笔记本电脑",
                "107.phone": "手机",
                "108.shampoo": "洗发水",
            },
            spaced=("103.camera", "104.car", "106.notebook", "107.phone"),
        ),
        note="the rows of one sentence, one per aspect, are merged",
    ),
    Source(
        name="en_tv_tshirt_aspects",
        language="en",
        licence="MIT (repo); community annotated Flipkart/Amazon reviews",
        redistributable=True,
        upstream=Upstream(
            "yangheng95/ABSADatasets", "676bcd3d88a901853c74acf364c9ad5c431b0e23", "datasets/apc_datasets"
        ),
        files=FILES["en_tv_tshirt_aspects"],
        records=7031,
        read=functools.partial(
            read_apc, language="en", domains={"117.Television": "television", "118.TShirt": "t-shirt"}
        ),
        note="the rows of one sentence, one per aspect, are merged",
    ),
    Source(
        name="en_hu_liu_reviews",
        language="en",
        licence="CC BY 4.0",
        redistributable=True,
        upstream=Upstream(
            "nltk/nltk_data",
            "5db857e6f7df11eabb5e5665836db9ec8df07e28",
            renamed={
                file: f"packages/corpora/product_reviews_{1 if file in FIRST_FIVE_PRODUCTS else 2}.zip!{file}"
                for file in FILES["en_hu_liu_reviews"]
            },
        ),
        files=FILES["en_hu_liu_reviews"],
        records=8194,
        read=read_hu_liu,
    ),
)
