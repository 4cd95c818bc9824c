import pytest

from ecomgpt_jax.instruct.records import AttributedItem, LabelledText, LeftOut, SpannedText, TextPair
from ecomgpt_jax.instruct.sources import fields

ROW = {
    "text": " so\nso ",
    "stars": 4,
    "note": None,
    "path": "A > B  c",
    "asin": "X1",
    "in": {"ner": "deep"},
    "none": [],
}


def only(drafts: object) -> object:
    (draft,) = drafts
    return draft


def test_columns_are_changed_mapped_and_nested() -> None:
    assert fields.text_of(ROW, "text") == "so\nso"
    assert fields.text_of(ROW, ("stars", {"4": "good"})) == "good"
    assert fields.text_of(ROW, "note") == ""
    assert fields.text_of(ROW, "in.ner") == "deep"


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("gone", "gone: missing"),
        ("in.side", "side: missing"),
        ("none", r"none: \[\] is no text"),
        (("stars", {"5": "best"}), "stars: unknown value '4'"),
        (("text", float), "text: could not convert"),
    ],
)
def test_a_column_that_does_not_fit_is_named(column: fields.Column, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        fields.text_of(ROW, column)


def test_a_label_may_be_a_list() -> None:
    row = {"text": "x", "labels": ["a", "", "b", "a"], "bad": ["a", {}]}
    assert only(fields.labelled(row, "", text="text", labels={"k": "labels"})).fields["labels"] == {"k": ("a", "b")}
    with pytest.raises(ValueError, match=r"bad: {} is no text"):
        only(fields.labelled(row, "", text="text", labels={"k": "bad"}))


def test_labelled() -> None:
    made = only(fields.labelled(ROW, "", text="text", labels={"a": "stars", "b": "note"}, group=("asin", "asin")))
    assert made.kind is LabelledText
    assert made.fields == {"text": "so\nso", "labels": {"a": ("4",)}, "supervision": "gold", "group": "asin:X1"}
    bare = only(fields.labelled(ROW, "", text="text", labels={"b": "note"}, group=("asin", "note")))
    assert bare.fields == {"text": "so\nso", "labels": {}, "supervision": "none"}
    with pytest.raises(LeftOut, match="no text"):
        only(fields.labelled(ROW, "", text="note", labels={}))


def test_item() -> None:
    declared = {
        "category": "path",
        "separator": ">",
        "attributes": {"n": "note", "s": "stars"},
        "description": "in.ner",
    }
    made = only(fields.item(ROW, "", title="text", **declared))
    assert made.kind is AttributedItem
    assert (made.fields["title"], made.fields["category"]) == ("so so", ("A", "B c"))
    assert (made.fields["attributes"], made.fields["description"]) == ((("s", "4"),), "deep")
    assert only(fields.item(ROW, "", title="asin")).fields["category"] == ()
    with pytest.raises(LeftOut, match="no title"):
        only(fields.item(ROW, "", title="note"))


def test_pair() -> None:
    made = only(fields.pair(ROW, "", left="text", right="path", label="stars"))
    assert made == (TextPair, "", {"left": "so so", "right": "A > B c", "label": "4"})
    with pytest.raises(ValueError, match="right: empty"):
        only(fields.pair(ROW, "", left="text", right="note", label="stars"))


@pytest.mark.parametrize("place", [{"start": 6, "end": 9, "label": "B"}, [6, 9, "B"]])
def test_spanned_from_objects_or_lists(place: dict | list) -> None:
    keys = {"start": 0, "end": 1, "kind": 2} if isinstance(place, list) else {}
    first = dict(place, start=0, end=3) if isinstance(place, dict) else [0, 3, "B"]
    row = {"data": {"text": "red cup red"}, "labels": [place, first]}
    made = only(fields.spanned(row, "", text="data.text", spans="labels", types={"B": "brand"}, **keys))
    assert made.kind is SpannedText
    assert [(s.term, s.type) for s in made.fields["spans"]] == [("red", "brand"), ("p r", "brand")]
    with pytest.raises(ValueError, match="outside the text"):
        only(fields.spanned(row | {"data": {"text": "red"}}, "", text="data.text", spans="labels", **keys))


def test_tagged_words_are_joined() -> None:
    row = (["Acme", "steel", "mug"], ["B-X", "O", "S-Y"])
    made = only(fields.tagged(row, "", types={"X": "brand", "Y": "item"}, joiner=" "))
    assert made.fields["text"] == "Acme steel mug"
    assert [(s.start, s.term, s.type) for s in made.fields["spans"]] == [(0, "Acme", "brand"), (11, "mug", "item")]


def test_bio_spans_of_pieces_and_orphans() -> None:
    spans = fields.bio_spans(["红", "米", "12", "x"], ["B-a", "I-a", "B-a", "I-b"], str.upper)
    assert [(s.start, s.end, s.type) for s in spans] == [(0, 2, "A"), (2, 4, "A"), (4, 5, "B")]
    with pytest.raises(ValueError, match="tags"):
        fields.bio_spans("ab", ["O"], str)
    with pytest.raises(ValueError, match="unknown tag"):
        fields.bio_spans("ab", ["O", "X-a"], str)
    with pytest.raises(ValueError, match="unknown tag type 'b'"):
        fields.bio_spans("ab", ["O", "B-b"], {"a": "A"}.__getitem__)


def test_bioes_tags_end_and_stand_alone() -> None:
    spans = fields.bio_spans("abcdef", ["B-x", "E-x", "S-x", "S-x", "O", "I-y"], str)
    assert [(s.start, s.end, s.type) for s in spans] == [(0, 2, "x"), (2, 3, "x"), (3, 4, "x"), (5, 6, "y")]


def test_make_span_trims_blanks_and_refuses_offsets_outside() -> None:
    span = fields.make_span("a red mug", 1, 6, "colour")
    assert (span.start, span.end, span.term) == (2, 5, "red")
    for start, end in ((0, 10), (-1, 2), (3, 3), (1, 2)):
        with pytest.raises(ValueError, match="span"):
            fields.make_span("a red mug", start, end, "colour")


def test_find_spans_prefers_long_terms_and_never_overlaps() -> None:
    text = "steel steel bottle"
    spans = fields.find_spans(text, [("material", "steel"), ("item", "steel bottle"), ("none", ""), ("none", "cup")])
    assert [(s.start, s.end, s.type) for s in spans] == [(0, 5, "material"), (6, 18, "item")]


def test_join_tokens() -> None:
    assert fields.join_tokens(["味", "道", "好", "，", "KFC", "king", "的", "5", "元"], "zh") == "味道好，KFC king的5元"
    assert fields.join_tokens(["so", "good"], "en") == "so good"
