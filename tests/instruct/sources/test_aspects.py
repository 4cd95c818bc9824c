from collections.abc import Callable

import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.records import AspectText, AspectTuple, LabelledText
from ecomgpt_jax.instruct.sources import aspects

LABELS = "id,AspectTerms,A_start,A_end,OpinionTerms,O_start,O_end,Categories,Polarities\n"


def taobao(labels: str) -> dict[str, str | bytes]:
    return {
        "Test_reviews.csv": "id,Reviews\r\n1,还行\r\n",
        "Train_labels.csv": LABELS + labels,
        "Train_reviews.csv": "id,Reviews,AspectTerms\r\n1,包装很好，超值,x\r\n2,嗯,_\r\n".encode("gb18030"),
    }


def test_taobao_files_are_joined(reading: Callable) -> None:
    labels = "1,包装,0,2,很好,2,4,包装,正面\n1,_, , ,超值,5,7,价格,负面\n"
    records, log = reading("zh_taobao_review_opinion", taobao(labels))
    assert records[0].tuples == (
        AspectTuple("包装", "包装", "很好", "positive"),
        AspectTuple("", "价格", "超值", "negative"),
    )
    assert [type(r) for r in records] == [AspectText, AspectText, LabelledText]
    assert [r.supervision for r in records] == ["gold", "gold", "none"]
    assert records[2].labels == {}
    assert log.rows == 5


def test_taobao_offsets_are_checked(reading: Callable) -> None:
    records, log = reading(
        "zh_taobao_review_opinion", taobao("1,包装,1,3,很好,2,4,包装,正面\n9,_, , ,_, , ,整体,中性\n")
    )
    assert [(bad.file, bad.line) for bad in log.bad] == [("Train_labels.csv", 3), ("Train_reviews.csv", 2)]
    assert log.rows == 5
    assert [r.text for r in records] == ["嗯", "还行"]  # a review with a broken label is left out as a whole


def test_mams(reading: Callable) -> None:
    term = '<aspectTerm from="{}" polarity="positive" term="food" to="{}"/>'
    sentence = "<sentence><text>The food &amp; wine</text><aspectTerms>{}</aspectTerms></sentence>"
    xml = "<sentences>" + "".join(sentence.format(term.format(*place)) for place in ((4, 8), (3, 7))) + "</sentences>"
    records, log = reading("en_mams", {"raw/a.xml": xml})
    assert records[0].text == "The food & wine"
    assert records[0].tuples == (AspectTuple("food", "", "", "positive"),)
    assert [(bad.file, bad.line) for bad in log.bad] == [("raw/a.xml", 2)]
    with pytest.raises(DataError, match="invalid XML"):
        reading("en_mams", {"b.xml": "<sentences>"})


def test_apc_rows_of_a_sentence_are_merged(reading: Callable) -> None:
    spaced = "屏 $T$ 好 $T$\n幕 布\nPositive\n$T$ 幕 布 好 幕 布\n屏\nNegative\n"
    plain = "好 $T$  滑 \n小样\nNeutral\nno mark\n样\nPositive\n"
    records, log = reading("zh_product_aspect_polarity", {"103.camera/a.txt": spaced, "108.shampoo/a.txt": plain})
    assert [(r.text, r.domain) for r in records] == [("屏幕布好幕布", "相机"), ("好 小样  滑", "洗发水")]
    assert records[0].tuples == (AspectTuple("幕布", "", "", "positive"), AspectTuple("屏", "", "", "negative"))
    assert log.rows == 4
    assert [(bad.file, bad.line) for bad in log.bad] == [("108.shampoo/a.txt", 4)]


def test_apc_incomplete_triple(reading: Callable) -> None:
    text = "good $T$\nsound\nPositive\nbad $T$\n"
    records, log = reading("en_tv_tshirt_aspects", {"118.TShirt/a.seg": text})
    assert len(records) == 1
    assert "multiple of three" in log.bad[0].reason


def test_apc_triple_with_a_line_that_is_no_text(reading: Callable) -> None:
    text = b"good $T$\n\xff\xfe\nPositive\nbad $T$\nsound\nNegative\n"
    records, log = reading("en_tv_tshirt_aspects", {"118.TShirt/a.seg": text})
    assert [r.text for r in records] == ["bad sound"]
    assert (log.rows, [bad.line for bad in log.bad]) == (2, [1])


def test_hu_liu(reading: Callable) -> None:
    text = (
        "* by somebody\n[t] a title\n"
        "battery life[+2], Screen[-1][u],look[2]##The Battery life is fine .\n"
        "##nothing\nzoom{+3], lens[-3[p][u]##Zoom!\nsize[+1] no mark\n"
    )
    records, log = reading("en_hu_liu_reviews", {"Canon_G3.txt": text, "README.txt": "x##y"})
    assert records[0].domain == "Canon G3"
    assert records[0].tuples == (
        AspectTuple("Battery life", "battery life", "", "positive"),
        AspectTuple("", "Screen", "", "negative"),
        AspectTuple("", "look", "", ""),
    )
    assert records[1].tuples == ()
    assert [t.polarity for t in records[2].tuples] == ["positive", "negative"]
    assert log.rows == 3
    assert sum(log.skipped.values()) == 1


def test_asap(reading: Callable) -> None:
    columns = list(aspects.ASAP_ASPECTS)
    header = ",".join(["index", "reviewbody", "star", *columns])
    row = ["7", r"好吃\\n服务差", "4.0", *["-2"] * 18]
    row[3 + columns.index("dish_taste")] = "1"
    row[3 + columns.index("service_waiters_attitude")] = "-1"
    broken = [*row[:-1], "5"]
    records, log = reading("zh_asap_sample", {"a.csv": "\n".join([header, ",".join(row), ",".join(broken)])})
    assert records[0].text == "好吃\n服务差"
    assert records[0].tuples == (
        AspectTuple("", "服务人员态度", "", "negative"),
        AspectTuple("", "菜品口感", "", "positive"),
    )
    assert records[1].labels == {"rating": ("4",)}
    assert [bad.line for bad in log.bad] == [3]
