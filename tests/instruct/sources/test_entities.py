import json
from collections.abc import Callable

from ecomgpt_jax.instruct.records import LabelledText, SpannedText


def terms(record: SpannedText) -> list[tuple[str, str]]:
    return [(span.term, span.type) for span in record.spans]


def test_bio_file_with_a_blank_in_the_title_and_no_last_blank_line(reading: Callable) -> None:
    text = "红 B-HPPX\n米 I-HPPX\n  O\n壳 B-HCCX\n\n\n壳 B-HCCX\n新 I-XH"
    records, log = reading("zh_ecommerce_ner", {"dev.txt": text, "anno/guide.md": "# not read"})
    assert [r.text for r in records] == ["红米 壳", "壳新"]
    assert [terms(r) for r in records] == [[("红米", "brand"), ("壳", "product")], [("壳", "product"), ("新", "model")]]
    assert [r.id for r in records] == ["dev.txt:1", "dev.txt:7"]
    assert (log.rows, log.bad) == (2, [])


def test_bio_unknown_tags_are_rejected(reading: Callable) -> None:
    records, log = reading("zh_ecommerce_ner", {"a.txt": "壳 B-NEW\n\n壳 Q\n\n壳\n\n壳 O\n"})
    assert [r.text for r in records] == ["壳"]
    assert [(bad.line, bad.reason) for bad in log.bad] == [
        (1, "unknown tag type 'NEW'"),
        (3, "unknown tag 'Q'"),
        (5, "unknown tag '壳'"),
    ]


def test_repeated_texts_share_a_group(reading: Callable) -> None:
    records, _ = reading("zh_address_parsing", {"a.txt": "市 B-city\n\n路 B-subRoad\n", "b.txt": "市 B-CITY\n"})
    assert records[0].group == records[2].group != records[1].group
    assert [terms(r)[0][1] for r in records] == ["city", "side road", "city"]


def test_jd_titles_say_who_labelled_them(reading: Callable) -> None:
    tagged = "苹 B-37\n果 I-37\n线 B-99\n"
    files = {
        "dev_split.txt": tagged,
        "fake_train_data_20000.txt": tagged,
        "sample_per_line_preliminary_A.txt": "手机 壳 \n",
    }
    records, log = reading("zh_jd_title_ner", files)
    assert [r.supervision for r in records] == ["gold", "pseudo", "none"]
    assert terms(records[0]) == [("苹果", "compatible brand"), ("线", "other")]
    assert (records[2].text, records[2].labels) == ("手机 壳", {})
    assert log.rows == 3


def test_tagged_comments(reading: Callable) -> None:
    rows = "id,text,BIO_anno,class\n0,交行好,B-BANK I-BANK B-COMMENTS_ADJ,1\n1,交行,B-BANK,0\n2,好,O,9\n"
    records, log = reading("zh_bank_product_reviews", {"t.csv": rows})
    assert [type(r) for r in records] == [SpannedText, LabelledText]
    assert terms(records[0]) == [("交行", "bank"), ("好", "comment")]
    assert records[1].labels == {"sentiment": ("positive",)}
    assert records[0].group == records[1].group
    assert [bad.line for bad in log.bad] == [3, 4]


def test_targets(reading: Callable) -> None:
    rows = [{"s": " 去了骨之味，骨之味好", "ot": "骨之味 "}, {"s": "好", "ot": "店"}, {"s": "好"}]
    records, log = reading("zh_cote_dianping", {"t.txt": "\n".join(json.dumps(row) for row in rows)})
    assert [(s.start, s.term) for s in records[0].spans] == [(2, "骨之味")]
    assert [bad.line for bad in log.bad] == [2, 3]
