"""Aspect-opinion tuples given as token positions: triplets after "####", ACOS quadruples in TSV, MEMD-ABSA JSON.

Upstream: ASTE-Data-V2 (Xu et al., EMNLP 2020), DMASTE (Xu et al., ACL 2023), ASTE over Dianping reviews, ACOS (Cai et
al., ACL 2021), MEMD-ABSA (Cai et al., 2023). A position of -1 is an implicit term, here an empty string.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecomgpt_jax.instruct.records import AspectText, AspectTuple, Draft, LabelledText, draft
from ecomgpt_jax.instruct.sources.fields import join_tokens
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source
from ecomgpt_jax.instruct.sources.rows import filled_lines, json_array, literal

POLARITIES = {
    **{"POS": "positive", "NEG": "negative", "NEU": "neutral"},
    **{"Positive": "positive", "Negative": "negative", "Neutral": "neutral"},
    **{"2": "positive", "0": "negative", "1": "neutral"},
}


def pick(tokens: Sequence[str], start: int, end: int, language: str) -> str:
    """Returns the term of tokens `start` to `end` (exclusive), "" when they are -1 or negative (implicit).

    Raises:
        ValueError: The positions are outside the tokens or contain none.
    """
    if start < 0:
        return ""
    if not start < end <= len(tokens):
        raise ValueError(f"tokens {start}:{end} of {len(tokens)}")
    return join_tokens(tokens[start:end], language)


def triplets(
    line: str, file: str, *, language: str = "en", domains: Mapping[str, str] | None = None
) -> Iterator[Draft]:
    """Yields an `AspectText` of a line `sentence####[(aspect, opinion, polarity), …][####sub-domain]`.

    Positions are inclusive: every index, or first and last. A line with a sub-domain also gives a `LabelledText`
    ("domain", "category").

    Args:
        line: The line.
        file: Its file.
        language: Of the sentences.
        domains: Domain by the folder of a file; the default is the folder's name.
    """
    parent = Path(file).parent.name
    domain = (domains or {}).get(parent, parent)
    sentence, mark, rest = line.partition("####")
    if not mark:
        raise ValueError("no #### after the sentence")
    places, *rest = rest.split("####")
    tokens = sentence.split()
    text = join_tokens(tokens, language)
    tuples = tuple(
        AspectTuple(
            aspect=pick(tokens, aspect[0], aspect[-1] + 1, language),
            category="",
            opinion=pick(tokens, opinion[0], opinion[-1] + 1, language),
            polarity=POLARITIES[polarity],
        )
        for aspect, opinion, polarity in literal(places)
    )
    yield draft(AspectText, text=text, tuples=tuples, domain=domain)
    if rest:
        labels = {"domain": (domain,), "category": (rest[0].strip().replace("_", " "),)}
        yield draft(LabelledText, "domain", text=text, labels=labels)


def acos(line: str, file: str, *, domain: str) -> Iterator[Draft]:
    """Yields an `AspectText` of a sentence and `start,end CATEGORY polarity start,end` fields, tab-separated."""
    sentence, *quadruples = line.split("\t")
    tokens = sentence.split(" ")
    tuples = []
    for quadruple in quadruples:
        if quadruple.count(" ") != 3:
            raise ValueError(f"{quadruple!r} is not 'start,end CATEGORY polarity start,end'")
        aspect, category, polarity, opinion = quadruple.split(" ")
        terms = (pick(tokens, *map(int, place.split(",")), "en") for place in (aspect, opinion))
        tuples.append(AspectTuple(next(terms), category, next(terms), POLARITIES[polarity]))
    yield draft(AspectText, text=join_tokens(tokens, "en"), tuples=tuple(tuples), domain=domain)


def memd(row: Mapping[str, Any], file: str) -> Iterator[Draft]:
    """Yields an `AspectText`; positions count the words between any blanks."""
    tokens = row["raw_words"].split()
    tuples = tuple(
        AspectTuple(
            aspect=_memd_term(tokens, each["aspect"]),
            category=each["category"],
            opinion=_memd_term(tokens, each["opinion"]),
            polarity=POLARITIES[each["sentiment"]],
        )
        for each in row["quadruples"]
    )
    yield draft(AspectText, text=join_tokens(tokens, "en"), tuples=tuples, domain=Path(file).parent.name.lower())


def _memd_term(tokens: Sequence[str], place: Mapping[str, Any]) -> str:
    term = pick(tokens, place["from"], place["to"], "en")
    if term and term.split() != place["term"]:
        raise ValueError(f"{place['term']} is not at tokens {place['from']}:{place['to']}")
    return term


_ACOS = "NUSTM/ACOS@45d179a3dcc6a3dedd848d81b16f2552454805fe/data"

SOURCES = (
    Source(
        name="en_aste_v2",
        licence=f"{NO_LICENCE}; SemEval data",
        place="xuuuluuu/SemEval-Triplet-data@d0df6600b259b6114de23cc5047c7e776cd89750/ASTE-Data-V2-EMNLP2020",
        records=3921,
        rows=filled_lines,
        record=partial(triplets, domains={"14lap": "laptop", "15res": "restaurant", "16res": "restaurant"}),
    ),
    Source(
        name="en_dmaste_triplets",
        licence="MIT",
        redistributable=True,
        place="NJUNLP/DMASTE@1be462cd7dd1479b314cc85234a59e8bc7cdf89b/dataset",
        records=7524,
        rows=filled_lines,
        record=triplets,
        note="a row is an aspect text and a text with its domain and sub-domain",
    ),
    Source(
        name="zh_dianping_aste",
        licence="MIT (repo); underlying review text is ASAP/Dianping (Apache-2.0 upstream)",
        redistributable=True,
        place=(
            "yangheng95/ABSADatasets@676bcd3d88a901853c74acf364c9ad5c431b0e23/datasets/aste_datasets/405.Chinese_Zhang"
        ),
        records=27835,
        rows=filled_lines,
        record=partial(triplets, language="zh", domains={"": "餐厅"}),
    ),
    Source(
        name="en_laptop_acos",
        licence=f"{NO_LICENCE}; research release",
        place=f"{_ACOS}/Laptop-ACOS",
        records=4076,
        rows=filled_lines,
        record=partial(acos, domain="laptop"),
    ),
    Source(
        name="en_restaurant_acos",
        licence=f"{NO_LICENCE}; built on SemEval-16",
        place=f"{_ACOS}/Restaurant-ACOS",
        records=2284,
        rows=filled_lines,
        record=partial(acos, domain="restaurant"),
        note="1 row has a quadruple without any token (3,3): malformed upstream",
    ),
    Source(
        name="en_memd_absa",
        licence=f"{NO_LICENCE}; research release",
        place="NUSTM/MEMD-ABSA@34dd1d96d716e076c6b3ac5cea35505a726155ba/MEMD_ABSA_Dataset",
        records=18104,
        rows=json_array,
        record=memd,
    ),
)
