import hashlib
import json
from collections.abc import Callable

from ecomgpt_jax.instruct.records import LabelledText, SpannedText
from ecomgpt_jax.instruct.sources import queries


def test_home_depot(reading: Callable) -> None:
    text = (
        "id,product_uid,product_title,search_term,relevance\n"
        "2,1,Angle  Iron,angle,2.50\n"
        "3,1,Bolt,Angle!,3\n"
        "4,1,x,y,high\n"
    )
    records, log = reading("en_home_depot_relevance", {"train.csv": text})
    assert [(r.left, r.right, r.label) for r in records] == [("angle", "Angle Iron", "2.5"), ("Angle!", "Bolt", "3")]
    assert records[0].group == records[1].group
    assert [(bad.line, bad.reason.split(":")[0]) for bad in log.bad] == [(4, "relevance")]


def test_qbqtc(reading: Callable) -> None:
    rows = [
        {"query": "手机", "title": "手机排行", "label": "2"},
        {"query": "手机", "title": "x", "label": "5"},
        {"label": "1"},
    ]
    records, log = reading("zh_search_relevance_qbqtc", {"dev.json": "\n".join(map(json.dumps, rows))})
    assert [(r.left, r.label, r.language) for r in records] == [("手机", "2", "zh")]
    assert [bad.line for bad in log.bad] == [2, 3]


def test_segments_are_weak_and_without_brands(reading: Callable) -> None:
    plain = (
        '"query","brand","attributes","product_type"\n'
        '"red oil lamp","re","[\'red\']","oil lamp"\n'
        '"lamp",,"[]",""\n'
        '"x",,"[",""\n'
    )
    tagged = (
        "query,brand,attributes,product_type,tokens,bioes_tags,augmented_query,brand_added\n"
        "red oil lamp,Re,['red'],oil lamp,\"['red', 'oil', 'lamp']\","
        "\"['S-Attribute', 'B-ProductType', 'E-ProductType']\",red oil lamp,False\n"
        "Acme lamp,Acme,[],lamp,\"['Acme', 'lamp']\",\"['S-Brand', 'S-ProductType']\",Acme lamp,False\n"
        "lamp,Acme,[],lamp,\"['lamp', 'Acme']\",\"['S-ProductType', 'S-Brand']\",lamp Acme,True\n"
    )
    records, log = reading("en_query_segmentation", {"Queries.csv": plain, "bioes_sequences.csv": tagged})
    assert {r.supervision for r in records} == {"weak"}
    labelled = [r for r in records if isinstance(r, LabelledText)]
    spanned = [r for r in records if isinstance(r, SpannedText)]
    assert [r.labels for r in labelled] == [{"product type": ("oil lamp",), "attribute": ("red",)}, {}]
    assert [[(s.start, s.type, s.term) for s in r.spans] for r in spanned] == [
        [(0, "attribute", "red"), (4, "product type", "oil lamp")],
        [(5, "product type", "lamp")],
    ]
    assert log.rows == 6
    assert dict(log.skipped) == {"brand appended to the query": 1}
    assert [(bad.file, bad.line) for bad in log.bad] == [("Queries.csv", 4)]


def test_four_fifths_of_queries_keeps_whole_queries_and_recodes() -> None:
    terms = [f"é{number}" for number in range(50)]
    upstream = "id,search_term\r\n" + "".join(f"{i},{term}\r\n" for i, term in enumerate(terms * 2))
    kept = queries.four_fifths_of_queries(upstream.encode("latin-1")).decode().splitlines()
    expected = [t for t in terms * 2 if int(hashlib.sha1(t.encode()).hexdigest(), 16) % 100 < 80]
    assert kept[0] == "id,search_term"
    assert [line.split(",")[1] for line in kept[1:]] == expected
    assert 0 < len(expected) < 100
