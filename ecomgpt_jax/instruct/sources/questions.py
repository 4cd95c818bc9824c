"""Questions about products: community answers, graded evidence, answers from evidence, spans in reviews.

Upstream: Amazon QA (McAuley and Yang, WWW 2016); ePQA, hetPQA and semiPQA (Shen et al., 2022 and 2023); SubjQA (Bjerva
et al., EMNLP 2020).
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ecomgpt_jax.instruct.records import AttributedItem, Draft, LeftOut, Question, Span, TextPair, draft
from ecomgpt_jax.instruct.sources.fields import make_span
from ecomgpt_jax.instruct.sources.reading import NO_LICENCE, Source, text_group
from ecomgpt_jax.instruct.sources.rows import filled_lines, literal, one_line

RELEVANCE = {"0": "irrelevant", "1": "relevant"}
GRADED_RELEVANCE = {"0": "irrelevant", "1": "partly relevant", "2": "relevant"}
EVIDENCE = {
    "attribute": "attribute",
    "bullet": "bullet point",
    "cqa": "community answer",
    "desc": "description",
    "description": "description",
    "osp": "on-site publishing",
    "review": "review",
}
_NO_ANSWER = "ANSWERNOTFOUND"


def community_question(line: str, file: str) -> Iterator[Draft]:
    """Yields a `Question` ("question type"; "answer type" yes, no or unclear) of a Python dictionary."""
    row: dict[str, Any] = literal(line)
    labels = {"question type": (row["questionType"],)}
    if "answerType" in row:
        labels["answer type"] = ({"Y": "yes", "N": "no", "?": "unclear"}[row["answerType"]],)
    yield draft(
        Question,
        question=row["question"].strip(),
        answers=(row["answer"].strip(),),
        labels=labels,
        group=f"asin:{row['asin']}",
    )


def evidence(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields, of ePQA and hetPQA, a `TextPair` (question, evidence, relevance) if graded, a `Question` if answered."""
    asked, found, group = row["question"].strip(), one_line(row["candidate"]), f"asin:{row['ASIN']}"
    if not found:
        raise LeftOut("no evidence")
    graded = "label" in row
    if graded:
        grades = GRADED_RELEVANCE if file == "dev.csv" else RELEVANCE
        yield draft(TextPair, left=asked, right=found, label=grades[row["label"]], group=group)
    if answer := row.get("answer", "").strip():
        labels = {"evidence": (EVIDENCE[row["source"].lower()],)}
        if row.get("title"):
            labels["product"] = (row["title"].strip(),)
        part = "answer" if graded else ""
        yield draft(Question, part, question=asked, context=found, answers=(answer,), labels=labels, group=group)


def attribute(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields a `TextPair` (question, attribute, relevance), of data-to-text an item with an attribute and its text."""
    name, value = semi_structured(row["candidate" if "label" in row else "data"])
    if "label" in row:
        right = one_line(f"{name}: {value}")
        yield draft(TextPair, left=row["question"].strip(), right=right, label=RELEVANCE[row["label"]])
        return
    if not (text := row["text"].strip()):
        raise LeftOut("no text")
    group = text_group(row["data"], "")
    yield draft(AttributedItem, title="", attributes=((name, value),), description=text, group=group)


def semi_structured(text: str) -> tuple[str, str]:
    """Returns (name, value) of `name: { value:"…" }; …`; a nested value keeps its braces.

    Raises:
        ValueError: There is no name.
    """
    name, mark, value = text.partition(":")
    if not mark:
        raise ValueError(f"no name in {text!r}")
    value = re.sub(r'\{ value:(?:"([^"]*)"|([^{}\[\]",]*)) \}', lambda match: match[1] or match[2] or "", value)
    return one_line(name.replace("_", " ")), one_line(value)


def subjective_question(row: Mapping[str, str], file: str) -> Iterator[Draft]:
    """Yields a `Question` over a review, with one span, or none if the review does not answer.

    Upstream appends a marker word to each review, to which unanswered questions point; it is removed. The text of the
    spans is tokenised, so letters and digits are compared. Some answers were selected in several pieces: their offsets
    include the text between these, and the row is left out.
    """
    context = row["review"].rstrip().removesuffix(_NO_ANSWER).rstrip()
    spans = _answer_spans(context, row)
    yield draft(
        Question,
        question=row["question"].strip(),
        context=context,
        answers=tuple(span.term for span in spans),
        spans=spans,
        labels={
            "domain": (row["domain"],),
            "subjective": ({"True": "yes", "False": "no"}[row["is_ques_subjective"]],),
            "aspect": (row["query_asp"],),
            "opinion": (row["query_mod"],),
        },
        group=f"asin:{row['item_id']}",
    )


def _answer_spans(context: str, row: Mapping[str, str]) -> tuple[Span, ...]:
    answer = row["human_ans_spans"]
    if _NO_ANSWER in answer:
        return ()
    start, end = literal(row["human_ans_indices"])
    span = make_span(context, start, min(end, len(context)), "answer")
    if text_group(span.term, "") != text_group(answer, ""):
        raise LeftOut("answer worded otherwise in the review")
    return (span,)


_PQA = partial(Source, licence="CDLA-Sharing-1.0", redistributable=True)
_PQA_REPO = "amazon-science/contextual-product-qa@cec976cc2f2218aa76e562ecc9c7d79f1f3271bc"

SOURCES = (
    Source(
        name="en_amazonqa_appliances",
        licence=f"{NO_LICENCE}; McAuley Amazon QA",
        place="mitya8128/experiments_notes@b901c720479ed94228292e0553261c6ba56a5e77",
        records=9011,
        rows=filled_lines,
        record=community_question,
    ),
    _PQA(
        name="en_epqa",
        place=f"{_PQA_REPO}/ePQA",
        records=9770,
        record=evidence,
        note="a row with evidence is a graded pair and, where it has one, a question with its answer",
    ),
    _PQA(name="en_hetpqa", place=f"{_PQA_REPO}/hetPQA", records=9111, record=evidence),
    _PQA(
        name="en_semipqa",
        place=f"{_PQA_REPO}/semiPQA",
        records=34714,
        record=attribute,
        note="1 data-to-text row without a text is left out",
    ),
    Source(
        name="en_subjqa",
        licence="per-domain upstream terms (Amazon/Yelp/TripAdvisor), no single licence",
        place="megagonlabs/SubjQA@6ea88c77802798b4a09a8218bd6bbde5b9cf4278/SubjQA",
        records=15416,
        record=subjective_question,
        note="211 rows whose answer was put together from several places of the review are left out",
    ),
)
