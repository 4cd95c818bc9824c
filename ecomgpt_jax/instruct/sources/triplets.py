"""Aspect-opinion tuples given as token positions: triplets after "####", ACOS quadruples in TSV, MEMD-ABSA JSON.

Upstream: ASTE-Data-V2 (Xu et al., EMNLP 2020), DMASTE (Xu et al., ACL 2023), ASTE over Dianping reviews, ACOS (Cai et
al., ACL 2021), MEMD-ABSA (Cai et al., 2023). A position of -1 is an implicit term, here an empty string.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.instruct.records import AspectText, AspectTuple, LabelledText, Record
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    ReadLog,
    Source,
    Upstream,
    join_tokens,
    json_array,
    literal,
    text_group,
    text_lines,
)

POLARITIES = {
    **{"POS": "positive", "NEG": "negative", "NEU": "neutral"},
    **{"Positive": "positive", "Negative": "negative", "Neutral": "neutral"},
    **{"2": "positive", "0": "negative", "1": "neutral"},
}


def pick(tokens: Sequence[str], start: int, end: int, language: str) -> str:
    """Returns the term of tokens `start` to `end` (exclusive), "" when they are -1 or negative (implicit).

    Raises:
        ValueError: The positions are outside the tokens or hold none.
    """
    if start < 0:
        return ""
    if not start < end <= len(tokens):
        raise ValueError(f"tokens {start}:{end} of {len(tokens)}")
    return join_tokens(tokens[start:end], language)


def _aspect_text(
    id_: str, language: str, tokens: Sequence[str], tuples: Sequence[AspectTuple], domain: str
) -> AspectText:
    text = join_tokens(tokens, language)
    return AspectText(
        id=id_, group=text_group(text, id_), language=language, text=text, tuples=tuple(tuples), domain=domain
    )


def read_triplets(
    folder: Path,
    files: Sequence[str],
    log: ReadLog,
    *,
    language: str = "en",
    domains: Mapping[str, str] | None = None,
) -> Iterator[Record]:
    """Yields an `AspectText` per line `sentence####[(aspect, opinion, polarity), …][####sub-domain]`.

    Positions are inclusive: every index, or first and last. A line with a sub-domain also gives a `LabelledText`
    ("domain", "category").

    Args:
        folder: Folder of the source.
        files: Files of triplets; others (`.md`) are not read.
        log: Gets counts and malformed lines.
        language: Of the sentences.
        domains: Domain by the folder that a file lies in; the folder's own name where there is none.
    """
    for file in (file for file in files if file.endswith(".txt")):
        parent = Path(file).parent.name
        domain = (domains or {}).get(parent, parent)
        for number, line in text_lines(folder, file, log):
            log.rows += 1
            id_ = f"{file}:{number}"
            sentence, *rest = line.split("####")
            tokens = sentence.split()
            try:
                tuples = [
                    AspectTuple(
                        aspect=pick(tokens, aspect[0], aspect[-1] + 1, language),
                        category="",
                        opinion=pick(tokens, opinion[0], opinion[-1] + 1, language),
                        polarity=POLARITIES[polarity],
                    )
                    for aspect, opinion, polarity in literal(rest[0])
                ]
            except (IndexError, KeyError, TypeError, ValueError) as error:
                log.reject(file, number, "triplets", f"not triplets of the sentence: {error}", line)
                continue
            record = _aspect_text(id_, language, tokens, tuples, domain)
            yield record
            if len(rest) > 1:
                yield LabelledText(
                    id=f"{id_}#domain",
                    group=record.group,
                    language=language,
                    text=record.text,
                    labels={"domain": (domain,), "category": (rest[1].strip().replace("_", " "),)},
                )


def read_acos(folder: Path, files: Sequence[str], log: ReadLog, *, domain: str) -> Iterator[Record]:
    """Yields an `AspectText` per line: sentence and `start,end CATEGORY polarity start,end` fields, tab-separated."""
    for file in files:
        for number, line in text_lines(folder, file, log):
            log.rows += 1
            sentence, *quadruples = line.split("\t")
            tokens = sentence.split(" ")
            tuples = []
            try:
                for quadruple in quadruples:
                    aspect, category, polarity, opinion = quadruple.split(" ")
                    tuples.append(
                        AspectTuple(
                            aspect=pick(tokens, *map(int, aspect.split(",")), "en"),
                            category=category,
                            opinion=pick(tokens, *map(int, opinion.split(",")), "en"),
                            polarity=POLARITIES[polarity],
                        )
                    )
            except (KeyError, TypeError, ValueError) as error:
                log.reject(file, number, "quadruples", f"not quadruples of the sentence: {error}", line)
                continue
            yield _aspect_text(f"{file}:{number}", "en", tokens, tuples, domain)


def read_memd(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields an `AspectText` per object of each JSON list; positions count the words between any blanks."""
    for file in files:
        domain = Path(file).parent.name.lower()
        for number, row in json_array(folder, file, log):
            try:
                tokens = row["raw_words"].split()
                tuples = [
                    AspectTuple(
                        aspect=_memd_term(tokens, each["aspect"]),
                        category=each["category"],
                        opinion=_memd_term(tokens, each["opinion"]),
                        polarity=POLARITIES[each["sentiment"]],
                    )
                    for each in row["quadruples"]
                ]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.reject(file, number, "quadruples", f"not quadruples of the sentence: {error}", row)
                continue
            yield _aspect_text(f"{file}:{number}", "en", tokens, tuples, domain)


def _memd_term(tokens: Sequence[str], place: Mapping[str, object]) -> str:
    term = pick(tokens, place["from"], place["to"], "en")
    if term and term.split() != place["term"]:
        raise ValueError(f"{place['term']} is not at tokens {place['from']}:{place['to']}")
    return term


SOURCES = (
    Source(
        name="en_aste_v2",
        language="en",
        licence="unclear (repo has no licence file); SemEval data",
        redistributable=False,
        upstream=Upstream(
            "xuuuluuu/SemEval-Triplet-data",
            "d0df6600b259b6114de23cc5047c7e776cd89750",
            "ASTE-Data-V2-EMNLP2020",
        ),
        files=FILES["en_aste_v2"],
        records=3921,
        read=functools.partial(
            read_triplets, domains={"14lap": "laptop", "15res": "restaurant", "16res": "restaurant"}
        ),
    ),
    Source(
        name="en_dmaste_triplets",
        language="en",
        licence="MIT",
        redistributable=True,
        upstream=Upstream("NJUNLP/DMASTE", "1be462cd7dd1479b314cc85234a59e8bc7cdf89b", "dataset"),
        files=FILES["en_dmaste_triplets"],
        records=7524,
        read=read_triplets,
        note="a row is an aspect text and a text with its domain and sub-domain",
    ),
    Source(
        name="zh_dianping_aste",
        language="zh",
        licence="MIT (repo); underlying review text is ASAP/Dianping (Apache-2.0 upstream)",
        redistributable=True,
        upstream=Upstream(
            "yangheng95/ABSADatasets",
            "676bcd3d88a901853c74acf364c9ad5c431b0e23",
            "datasets/aste_datasets/405.Chinese_Zhang",
        ),
        files=FILES["zh_dianping_aste"],
        records=27835,
        read=functools.partial(read_triplets, language="zh", domains={"": "餐厅"}),
    ),
    Source(
        name="en_laptop_acos",
        language="en",
        licence="unclear (repo has no licence file); research release",
        redistributable=False,
        upstream=Upstream("NUSTM/ACOS", "45d179a3dcc6a3dedd848d81b16f2552454805fe", "data/Laptop-ACOS"),
        files=FILES["en_laptop_acos"],
        records=4076,
        read=functools.partial(read_acos, domain="laptop"),
    ),
    Source(
        name="en_restaurant_acos",
        language="en",
        licence="unclear (repo has no licence file); built on SemEval-16",
        redistributable=False,
        upstream=Upstream("NUSTM/ACOS", "45d179a3dcc6a3dedd848d81b16f2552454805fe", "data/Restaurant-ACOS"),
        files=FILES["en_restaurant_acos"],
        records=2284,
        read=functools.partial(read_acos, domain="restaurant"),
        note="1 row has a quadruple without any token (3,3): malformed upstream",
    ),
    Source(
        name="en_memd_absa",
        language="en",
        licence="unclear (repo has no licence file); research release",
        redistributable=False,
        upstream=Upstream("NUSTM/MEMD-ABSA", "34dd1d96d716e076c6b3ac5cea35505a726155ba", "MEMD_ABSA_Dataset"),
        files=FILES["en_memd_absa"],
        records=18104,
        read=read_memd,
    ),
)
