import json
from collections.abc import Callable

from ecomgpt_jax.instruct.records import AttributedItem, SpannedText, TextPair


def lines(*rows: dict) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def test_target_scores(reading: Callable) -> None:
    rows = (
        {"input": "Acme steel mug ", "category": "Mug", "target_scores": {"Brand": {"Acme": 1}, "Size": {"n/a": 1}}},
        {"input": "Acme mug", "category": "Mug", "target_scores": {"Brand": {"Apex": 1}}},
        {"input": "Acme mug", "category": "Mug"},
    )
    records, log = reading("en_ae_110k", {"t.jsonl": lines(*rows)})
    assert [type(r) for r in records] == [AttributedItem, SpannedText]
    assert records[0].attributes == (("Brand", "Acme"), ("Size", ""))
    assert [(s.type, s.term) for s in records[1].spans] == [("Brand", "Acme")]
    assert [bad.line for bad in log.bad] == [2, 3]
    assert log.rows == 3


def offer(values: dict[str, list[str]], title: str = 'Acme mug 2" Null') -> dict:
    return {
        "id": 1,
        "cluster_id": 12.0,
        "category": "Home",
        "input_title": title,
        "input_description": 'A mug"',
        "target_scores": {name: {v: {"pid": [0]} for v in vs} for name, vs in values.items()},
    }


def test_pave_pairs_written_and_normalised_values(reading: Callable) -> None:
    files = {
        "descriptions.csv": 'a;b\n"x\ny";z\n',
        "wdc_normalized/test.jsonl": lines(offer({"Brand": ["ACME Inc."], "Size": ["2 inch"], "New": ["x"]})),
        "wdc_with_all_attributes/test.jsonl": lines(offer({"Brand": ["Acme"], "Size": ["2", "n/a"]})),
    }
    records, log = reading("en_wdc_pave", files)
    item, spanned, pair = records
    assert (item.title, item.description, item.group) == ("Acme mug 2", "A mug", "wdc:12")
    assert item.attributes == (("Brand", "Acme"), ("Size", "2"), ("Size", ""))
    assert [s.term for s in spanned.spans] == ["Acme", "2"]
    assert isinstance(pair, TextPair)
    assert (pair.left, pair.right, pair.label) == ("Acme", "ACME Inc.", "Brand")
    assert log.rows == 3
    assert dict(log.skipped) == {"annotation guideline": 1}


def test_flipkart(reading: Callable) -> None:
    specification = '{"product_specification"=>[{"key"=>"Type", "value"=>"Eyelet"}, {"value"=>"bare"}]}'
    columns = "product_name,product_category_tree,description,brand,product_specifications"

    def row(tree: str, specification: str) -> str:
        cells = ("Acme  Door Curtain", tree, "Nice  one.", "Acme", specification)
        return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)

    text = "\n".join(
        [
            columns,
            row('["Home >> Curtains >> Acme Door Cur..."]', specification),
            row('["Home >> Curtains"]', '{"product_specification"=>nil}'),
            row("no tree", specification),
        ]
    )
    records, log = reading("en_flipkart_catalog", {"f.csv": text})
    assert records[0].category == ("Home", "Curtains")
    assert records[0].attributes == (("Brand", "Acme"), ("Type", "Eyelet"))
    assert (records[0].title, records[0].description) == ("Acme Door Curtain", "Nice one.")
    assert records[1].category == ("Home", "Curtains")
    assert records[1].attributes == (("Brand", "Acme"),)
    assert [bad.line for bad in log.bad] == [4]


def test_advertise(reading: Callable) -> None:
    rows = ({"content": "类型#裙*颜色#红", "summary": "红<UNK>裙"}, {"content": "类型", "summary": "x"})
    (record,), log = reading("zh_advertise_gen", {"dev.json": lines(*rows)})
    assert (record.title, record.category, record.description) == ("", ("裙",), "红裙")
    assert record.attributes == (("类型", "裙"), ("颜色", "红"))
    assert [bad.line for bad in log.bad] == [2]


def test_rnnlg(reading: Callable) -> None:
    rows = [
        ["inform(name=orion 7;type=laptop;memory=4 gb)", "the orion 7 laptop -s have 4 gb .", "x"],
        ["?compare(name=orion 7;name=lyra 2)", "orion 7 or lyra 2 ?", "x"],
        ["?request(family)", "which family ?", "x"],
        ["goodbye", "bye", "x"],
        ["goodbye()", "bye", "x"],
    ]
    records, log = reading("en_rnnlg_tv", {"a.json": "# header\n#\n" + json.dumps(rows)})
    pairs = [r for r in records if isinstance(r, TextPair)]
    (item,) = [r for r in records if isinstance(r, AttributedItem)]
    assert [p.label for p in pairs] == ["inform", "compare", "request"]
    assert pairs[0].left == "name: orion 7; type: laptop; memory: 4 gb"
    assert pairs[0].right == "the orion 7 laptops have 4 gb."
    assert pairs[2].left_attributes == (("family", ""),)
    assert pairs[0].group == pairs[1].group == item.group != pairs[2].group
    assert dict(log.skipped) == {"act without slots": 1}
    assert (item.title, item.category, item.attributes) == ("orion 7", ("laptop",), (("memory", "4 gb"),))
    assert [bad.line for bad in log.bad] == [4]
