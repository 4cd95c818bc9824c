import gzip
from collections.abc import Callable

import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.records import AttributedItem, Question, TextPair
from ecomgpt_jax.instruct.sources import questions, rows


def test_amazonqa_is_gzip_of_python_literals(reading: Callable) -> None:
    lines = [
        "{'questionType': 'yes/no', 'asin': 'B1', 'question': 'Ok?', 'answerType': 'Y', 'answer': \"It's fine.\"}",
        "{'questionType': 'open-ended', 'asin': 'B1', 'question': 'Why?', 'answer': 'So.'}",
        "{'questionType': 'yes/no', 'asin': 'B1', 'question': 'Ok?', 'answerType': 'M', 'answer': 'x'}",
        "__import__('os').abort()",
    ]
    records, log = reading("en_amazonqa_appliances", {"qa.json.gz": gzip.compress("\n".join(lines).encode())})
    assert records[0].answers == ("It's fine.",)
    assert records[0].labels == {"question type": ("yes/no",), "answer type": ("yes",)}
    assert records[1].labels == {"question type": ("open-ended",)}
    assert records[0].group == records[1].group == "asin:B1"
    assert (log.rows, [bad.line for bad in log.bad]) == (4, [3, 4])


def test_amazonqa_broken_or_huge(reading: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="fetch the file again"):
        reading("en_amazonqa_appliances", {"qa.json.gz": b"not gzip"})
    monkeypatch.setattr(rows, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        reading("en_amazonqa_appliances", {"qa.json.gz": gzip.compress(b" " * 101)})


def test_evidence_with_commas_or_tabs(reading: Callable) -> None:
    graded = (
        "question,ASIN,candidate,source,title,label,answer\n"
        "ok?,B1,it  is,cqa,Mug,2,Yes.\n"
        "ok?,B1,no,review,Mug,0,\n"
        "ok?,B1,no,review,Mug,7,\n"
    )
    files = {
        "dev.csv": graded,
        "answer_generation/dev.csv": "ASIN\tquestion\tcandidate\tanswer\tsource\n"
        'B2\thow?\t"9.8"" wide, so"\tso.\tOSP\n',
        "evidence_ranking/dev.csv": "qid\tASIN\tquestion\tcandidate\tlabel\tsource\n1\tB2\thow?\tso\t1\tDesc\n",
    }
    records, log = reading("en_hetpqa", files)
    pairs = [(r.right, r.label) for r in records if isinstance(r, TextPair)]
    asked = [(r.id, r.context, r.answers, r.labels) for r in records if isinstance(r, Question)]
    assert pairs == [("it is", "relevant"), ("no", "irrelevant"), ("so", "relevant")]
    assert asked == [
        ("dev.csv:2#answer", "it is", ("Yes.",), {"evidence": ("community answer",), "product": ("Mug",)}),
        ("answer_generation/dev.csv:2", '9.8" wide, so', ("so.",), {"evidence": ("on-site publishing",)}),
    ]
    assert (log.rows, [bad.line for bad in log.bad]) == (5, [4])


def test_semipqa(reading: Callable) -> None:
    files = {
        "attribute_ranking/dev.csv": "qid\tquestion\tcandidate\tlabel\n"
        '1\tcolour?\t"main_color:  { value:""red"" }"\t1\n'
        "1\tq\tno name\t0\n",
        "data-to-text/dev.csv": 'data\ttext\n"fan_count: { value:6 }"\tIt has 6 fans.\n',
    }
    records, log = reading("en_semipqa", files)
    assert [type(r) for r in records] == [TextPair, AttributedItem]
    assert (records[0].right, records[0].label) == ("main color: red", "relevant")
    assert (records[1].attributes, records[1].description) == ((("fan count", "6"),), "It has 6 fans.")
    assert [bad.line for bad in log.bad] == [3]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('a_b: { value:"x; y" }; { value:"z" }', "x; y; z"),
        ("a_b: { unit:inches, value:6 }", "{ unit:inches, value:6 }"),
    ],
)
def test_semi_structured(text: str, value: str) -> None:
    assert questions.semi_structured(text) == ("a b", value)


def test_subjqa_spans_and_the_marker(reading: Callable) -> None:
    header = "item_id,domain,query_mod,query_asp,question,is_ques_subjective,review,human_ans_spans,human_ans_indices\n"
    common = 'I1,books,great,plot,How is it ?,True,"The plot (a bit) is great. ANSWERNOTFOUND"'
    rows = [
        f'{common},The plot ( a bit ),"(0, 16)"',
        f'{common},ANSWERNOTFOUND,"(27, 41)"',
        f'{common},The plot is great,"(0, 25)"',
        f'{common},The plot,"(0, 999"',
    ]
    records, log = reading("en_subjqa", {"books/splits/dev.csv": header + "\n".join(rows)})
    assert records[0].context == "The plot (a bit) is great."
    assert records[0].answers == ("The plot (a bit)",)
    assert records[1].answers == records[1].spans == ()
    assert records[0].labels["subjective"] == ("yes",)
    assert sum(log.skipped.values()) == 1
    assert [bad.line for bad in log.bad] == [5]
    assert log.rows == 4
