import io
import json
import zipfile
from collections.abc import Callable

from ecomgpt_jax.instruct.sources import reviews


def test_csv_reviews_by_product(reading: Callable) -> None:
    text = (
        "x,Clothing ID,Title,Review Text,Rating,Recommended IND,Positive Feedback Count,"
        "Division Name,Department Name,Class Name\n"
        '0,767,,"Soft, and ""warm""",4,1,2,Initmates,Intimate,Layering\n'
        "1,767,T,Fine,5,0,0,,,\n2,9,T, ,5,0,0,,,\n3,9,T,Bad,0,0,0,,,\n"
    )
    records, log = reading("en_womens_clothing_reviews", {"w.csv": text})
    assert records[0].text == 'Soft, and "warm"'
    assert records[0].labels == {
        "rating": ("4",),
        "recommended": ("yes",),
        "division": ("Intimates",),
        "department": ("Intimate",),
        "class": ("Layering",),
        "helpful_votes": ("2",),
    }
    assert records[1].labels["title"] == ("T",)
    assert records[0].group == records[1].group
    assert (log.rows, dict(log.skipped), [bad.line for bad in log.bad]) == (4, {"no text": 1}, [5])


def test_tab_separated_reviews(reading: Callable) -> None:
    text = (
        "\trating\tdate\tvariation\tverified_reviews\tfeedback\n"
        "0\t5\t1-Jul\tBlack  Dot \tLove it\t1\n1\t1\t1-Jul\tx\tno\t7\n"
    )
    (record,), log = reading("en_amazon_alexa", {"a.tsv": text})
    assert record.labels == {"rating": ("5",), "sentiment": ("positive",), "variant": ("Black Dot",)}
    assert [bad.line for bad in log.bad] == [3]


def test_json_reviews_say_which_are_unlabelled(reading: Callable) -> None:
    files = {
        "a.json": json.dumps({"sentence": "好", "label": "Negative"}),
        "b.json": json.dumps({"sentence": "坏"}),
        "labels.py": "exit()",
    }
    records, log = reading("zh_eprstmt", files)
    assert [(r.labels, r.supervision) for r in records] == [({"sentiment": ("negative",)}, "gold"), ({}, "none")]
    assert log.rows == 2


def test_zipped_csv(reading: Callable) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("shop.csv", "cat,label,review\n书籍,1,\ufeff好书\n书籍,0,\n水果,0,坏\n")
    records, log = reading("zh_online_shopping_10_cats", {"shop.zip": stream.getvalue()})
    assert [(r.text, r.labels) for r in records] == [
        ("好书", {"category": ("书籍",), "sentiment": ("positive",)}),
        ("坏", {"category": ("水果",), "sentiment": ("negative",)}),
    ]
    assert (log.rows, dict(log.skipped)) == (3, {"no text": 1})


def test_stars(reading: Callable) -> None:
    records, log = reading("en_amazon_star_reviews", {"toy.txt": "4 #### Nice toy .\n6 #### x\nno\n"})
    assert [(r.text, r.labels) for r in records] == [("Nice toy .", {"rating": ("4",), "domain": ("toy",)})]
    assert [bad.line for bad in log.bad] == [2, 3]


def test_pros_and_cons_in_two_encodings(reading: Callable) -> None:
    pros = b"\n  <Pros>caf\xe9 &amp;amp; tea&amp;#13;&amp;#10;ok</Pros>\n  <Pros></Pros>\n  <Pros>open\n"
    records, log = reading("en_pros_cons", {"IntegratedPros.txt": pros, "README.txt": "<Pros>no</Pros>"})
    assert [(r.id, r.text, r.labels) for r in records] == [
        ("IntegratedPros.txt:2", "café & tea ok", {"side": ("pros",)})
    ]
    assert (log.rows, dict(log.skipped), [bad.line for bad in log.bad]) == (3, {"no text": 1}, [4])


def test_every_second_line() -> None:
    assert reviews.every_second_line(b"1\n2\n3\n4\n5") == b"1\n3\n5"
