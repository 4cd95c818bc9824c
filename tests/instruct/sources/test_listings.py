import json
from collections.abc import Callable


def test_pricerunner_has_no_header(reading: Callable) -> None:
    text = "1,acme  tv 40,3,7,Acme TV 40,12,TVs\n2,acme 40in,4,7,Acme TV 40,12,TVs\n3,short\n"
    records, log = reading("en_pricerunner", {"p.csv": text})
    assert (records[0].title, records[0].category, records[0].attributes) == (
        "acme tv 40",
        ("TVs",),
        (("name", "Acme TV 40"),),
    )
    assert records[0].group == records[1].group
    assert (log.rows, [bad.line for bad in log.bad]) == (3, [3])


def test_listings_with_repeated_header_lines(reading: Callable) -> None:
    text = (
        "title,type,price,num\n"
        "电视 40寸,家用电器--大 家 电--平板电视,0,0\n"
        "title,type,price,num\n"
        "茶,医药--茶,9.50,3人付款\n"
    )
    records, log = reading("zh_product_title_category", {"a.csv": text})
    assert [r.category for r in records] == [("家用电器", "大家电", "平板电视"), ("医药", "茶")]
    assert [r.attributes for r in records] == [(), (("价格", "9.50"),)]
    assert (log.rows, sum(log.skipped.values())) == (3, 1)


def test_taxonomy_paths(reading: Callable) -> None:
    rows = [
        {"id": 1, "parent_id": None, "title": "Pets"},
        {"id": 4, "parent_id": 3, "title": "Cages"},
        {"id": 3, "parent_id": 1, "title": "Birds"},
        {"id": 5, "parent_id": 9, "title": "Lost"},
        {"id": 6, "parent_id": 6, "title": "Loop"},
    ]
    files = {"t.json": json.dumps(rows), "t.txt": "# printed\n\n 1 | Pets\n  3 | Birds\n"}
    records, log = reading("en_google_taxonomy", files)
    assert {r.id: r.category for r in records} == {
        "t.json:1": ("Pets",),
        "t.json:4": ("Pets", "Birds", "Cages"),
        "t.json:3": ("Pets", "Birds"),
    }
    assert [bad.line for bad in log.bad] == [5, 6]  # their ids
    assert (log.rows, sum(log.skipped.values())) == (7, 2)
