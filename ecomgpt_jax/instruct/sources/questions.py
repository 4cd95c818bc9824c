"""Questions about products: community answers, graded evidence, answers from evidence, spans in reviews.

Upstream: Amazon QA (McAuley and Yang, WWW 2016); ePQA, hetPQA and semiPQA (Shen et al., 2022 and 2023); SubjQA (Bjerva
et al., EMNLP 2020).
"""

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.records import AttributedItem, Question, Record, Span, TextPair
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import (
    MAX_MEMBER_BYTES,
    ReadLog,
    Source,
    Upstream,
    csv_rows,
    literal,
    make_span,
    text_group,
)

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


def read_amazonqa(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `Question` ("question type"; "answer type" yes, no or unclear) per line: gzip of Python dictionaries."""
    types = {"Y": "yes", "N": "no", "?": "unclear"}
    for file in files:
        try:
            with gzip.open(folder / file, "rb") as stream:
                text = stream.read(MAX_MEMBER_BYTES + 1)
        except (OSError, EOFError) as error:
            raise DataError(f"{folder / file}: {error}; fetch the file again") from error
        if len(text) > MAX_MEMBER_BYTES:
            raise DataError(f"{folder / file}: unpacks to more than {MAX_MEMBER_BYTES} bytes; not read")
        for number, line in enumerate(text.splitlines(), 1):
            log.rows += 1
            try:
                row = literal(line.decode())
                labels = {"question type": (row["questionType"],)}
                if "answerType" in row:
                    labels["answer type"] = (types[row["answerType"]],)
                yield Question(
                    id=f"{file}:{number}",
                    group=f"asin:{row['asin']}",
                    language="en",
                    question=row["question"].strip(),
                    answers=(row["answer"].strip(),),
                    labels=labels,
                )
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.reject(file, number, "", f"not a question with its answer: {error!r}", line)


def _pair(id_: str, group: str, row: Mapping[str, str], labels: Mapping[str, str]) -> TextPair:
    candidate = " ".join(row["candidate"].split())
    return TextPair(
        id=id_, group=group, language="en", left=row["question"].strip(), right=candidate, label=labels[row["label"]]
    )


def _grounded(id_: str, group: str, row: Mapping[str, str]) -> Question:
    labels = {"evidence": (EVIDENCE[row["source"].lower()],)}
    if row.get("title"):
        labels["product"] = (row["title"].strip(),)
    return Question(
        id=id_,
        group=group,
        language="en",
        question=row["question"].strip(),
        context=" ".join(row["candidate"].split()),
        answers=(row["answer"].strip(),),
        labels=labels,
    )


def read_evidence(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields ePQA and hetPQA rows: a `TextPair` (question, evidence, relevance) if graded, a `Question` if answered."""
    for file in files:
        grades = GRADED_RELEVANCE if file == "dev.csv" else RELEVANCE
        for number, row in csv_rows(folder, file, log, delimiter=_delimiter(folder, file)):
            id_, group = f"{file}:{number}", f"asin:{row['ASIN']}"
            if not row["candidate"].strip():
                log.skipped["no evidence"] += 1
                continue
            try:
                pair = _pair(id_, group, row, grades) if "label" in row else None
                answered = row.get("answer", "").strip()
                question = _grounded(f"{id_}#answer" if pair else id_, group, row) if answered else None
            except KeyError as error:
                log.reject(file, number, "label", f"unknown relevance or source {error}", row)
                continue
            yield from (record for record in (pair, question) if record)


def read_semipqa(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `TextPair` (question, attribute, relevance), of data-to-text an item with an attribute and its text."""
    for file in files:
        for number, row in csv_rows(folder, file, log, delimiter=_delimiter(folder, file)):
            id_ = f"{file}:{number}"
            try:
                if "label" in row:
                    name, value = semi_structured(row["candidate"])
                    row["candidate"] = f"{name}: {value}"
                    yield _pair(id_, text_group(row["question"], id_), row, RELEVANCE)
                    continue
                name, value = semi_structured(row["data"])
            except (KeyError, ValueError) as error:
                log.reject(file, number, "label", f"not a graded attribute: {error}", row)
                continue
            if not row["text"].strip():
                log.skipped["no text"] += 1
                continue
            yield AttributedItem(
                id=id_,
                group=text_group(row["data"], id_),
                language="en",
                title="",
                attributes=((name, value),),
                description=row["text"].strip(),
            )


def semi_structured(text: str) -> tuple[str, str]:
    """Returns (name, value) of `name: { value:"…" }; …`; a nested value keeps its braces.

    Raises:
        ValueError: There is no name.
    """
    name, mark, value = text.partition(":")
    if not mark:
        raise ValueError(f"no name in {text!r}")
    value = re.sub(r'\{ value:(?:"([^"]*)"|([^{}\[\]",]*)) \}', lambda match: match[1] or match[2] or "", value)
    return " ".join(name.replace("_", " ").split()), " ".join(value.split())


def _delimiter(folder: Path, file: str) -> str:
    """Returns tab or comma, whichever the header line has; upstream calls both `.csv`."""
    with (folder / file).open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        return "\t" if "\t" in stream.readline() else ","


def read_subjqa(folder: Path, files: Sequence[str], log: ReadLog) -> Iterator[Record]:
    """Yields a `Question` over a review, with one span, or none if the review does not answer.

    Upstream appends a marker word to each review, to which unanswered questions point; it is taken off. The spans'
    wording is tokenised, so letters and digits are compared. A few answers were selected in several pieces: their
    offsets run over what lies between, and the row is left out.
    """
    for file in files:
        for number, row in csv_rows(folder, file, log):
            id_ = f"{file}:{number}"
            context = row["review"].rstrip().removesuffix(_NO_ANSWER).rstrip()
            try:
                spans = _answer_spans(context, row)
            except ValueError as error:
                log.reject(file, number, "human_ans_indices", str(error), row["human_ans_spans"])
                continue
            if spans is None:
                log.skipped["answer worded otherwise in the review"] += 1
                continue
            yield Question(
                id=id_,
                group=f"asin:{row['item_id']}",
                language="en",
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
            )


def _answer_spans(context: str, row: Mapping[str, str]) -> tuple[Span, ...] | None:
    answer = row["human_ans_spans"]
    if _NO_ANSWER in answer:
        return ()
    start, end = literal(row["human_ans_indices"])
    span = make_span(context, start, min(end, len(context)), "answer")
    if text_group(span.term, "") == text_group(answer, ""):
        return (span,)
    return None


_PQA = "amazon-science/contextual-product-qa"
_PQA_COMMIT = "cec976cc2f2218aa76e562ecc9c7d79f1f3271bc"

SOURCES = (
    Source(
        name="en_amazonqa_appliances",
        language="en",
        licence="unclear (repo has no licence file); McAuley Amazon QA",
        redistributable=False,
        upstream=Upstream("mitya8128/experiments_notes", "b901c720479ed94228292e0553261c6ba56a5e77"),
        files=FILES["en_amazonqa_appliances"],
        records=9011,
        read=read_amazonqa,
    ),
    Source(
        name="en_epqa",
        language="en",
        licence="CDLA-Sharing-1.0",
        redistributable=True,
        upstream=Upstream(_PQA, _PQA_COMMIT, "ePQA"),
        files=FILES["en_epqa"],
        records=9770,
        read=read_evidence,
        note="a row with evidence is a graded pair and, where it has one, a question with its answer",
    ),
    Source(
        name="en_hetpqa",
        language="en",
        licence="CDLA-Sharing-1.0",
        redistributable=True,
        upstream=Upstream(_PQA, _PQA_COMMIT, "hetPQA"),
        files=FILES["en_hetpqa"],
        records=9111,
        read=read_evidence,
    ),
    Source(
        name="en_semipqa",
        language="en",
        licence="CDLA-Sharing-1.0",
        redistributable=True,
        upstream=Upstream(_PQA, _PQA_COMMIT, "semiPQA"),
        files=FILES["en_semipqa"],
        records=34714,
        read=read_semipqa,
        note="1 data-to-text row without a text is left out",
    ),
    Source(
        name="en_subjqa",
        language="en",
        licence="per-domain upstream terms (Amazon/Yelp/TripAdvisor), no single licence",
        redistributable=False,
        upstream=Upstream("megagonlabs/SubjQA", "6ea88c77802798b4a09a8218bd6bbde5b9cf4278", "SubjQA"),
        files=FILES["en_subjqa"],
        records=15416,
        read=read_subjqa,
        note="211 rows whose answer was put together from several places of the review are left out",
    ),
)
