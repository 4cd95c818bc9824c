"""Views of records: what is kept, what is renamed, what becomes of another type."""

import pytest

from ecomgpt_jax.instruct.records import (
    AspectText,
    AspectTuple,
    AttributedItem,
    Dialogue,
    LabelledText,
    Question,
    Record,
    Span,
    SpannedText,
    TextPair,
)
from ecomgpt_jax.instruct.tasks import views

ITEM = AttributedItem(
    id="i",
    group="g",
    language="en",
    title="red pan 30 cm",
    category=("Home", "Kitchen", "Pans"),
    attributes=(("color", "red"), ("size", "30 cm"), ("price", "")),
    description="A red pan.",
)
TEXT = LabelledText(id="t", group="g", language="en", text="oil for men", labels={"product": ("oil",), "for": ("me",)})


def pair(label: str, id_: str = "p", left: str = "a", right: str = "b") -> TextPair:
    return TextPair(id=id_, group="g", language="en", left=left, right=right, label=label)


def aspects(*tuples: AspectTuple, text: str = "## The use is easy because", domain: str = "phone") -> AspectText:
    return AspectText(id="a", group="g", language="en", text=text, tuples=tuples, domain=domain)


def only(view: views.View, record: Record) -> Record:
    (seen,) = view([record])
    assert (seen.id, seen.group, seen.language, seen.supervision) == (
        record.id,
        record.group,
        record.language,
        record.supervision,
    )
    return seen


def test_a_view_passes_over_other_types() -> None:
    assert list(views.rooted(1)([TEXT])) == []
    assert list(views.relabelled({"1": "no"})([ITEM, pair("2")])) == []


def test_labels_and_attributes() -> None:
    assert only(views.relabelled({"1": "irrelevant"}), pair("1")).label == "irrelevant"
    assert only(views.with_attributes({"size": "length"}), ITEM).attributes == (("length", "30 cm"),)
    assert only(views.rooted(2), ITEM).category == ("Home", "Kitchen")
    assert only(views.without_boilerplate("red"), ITEM).description == ""
    assert only(views.without_boilerplate("blue"), ITEM).description == "A red pan."
    assert only(views.chained(views.rooted(2), views.rooted(1)), ITEM).category == ("Home",)


def test_titles_become_labelled_texts() -> None:
    assert only(views.titles(), ITEM).labels == {"category": ("Pans",), "department": ("Home",)}
    assert only(views.titles(level=1), ITEM).labels["category"] == ("Kitchen",)
    assert list(views.titles(level=3)([ITEM])) == list(views.titles(labels=("Pots",))([ITEM])) == []


def test_items_become_spans_and_pairs() -> None:
    spans = only(views.spanned("title"), ITEM).spans
    assert [(s.type, ITEM.title[s.start : s.end]) for s in spans] == [("color", "red"), ("size", "30 cm")]
    assert [s.type for s in only(views.spanned("description", {"color": "colour"}), ITEM).spans] == ["colour"]
    seen = only(views.described({"color": "colour"}, "name"), ITEM)
    assert (seen.left, seen.right) == ("name: red pan 30 cm; colour: red; size: 30 cm", "A red pan.")
    swapped = only(views.swapped(views.described()), ITEM)
    assert (swapped.left, swapped.right) == ("A red pan.", "color: red; size: 30 cm")
    assert only(views.canonical("size"), ITEM).right == "30 cm"
    assert list(views.canonical("price")([ITEM])) == []


def test_values_keep_their_attribute_and_must_change() -> None:
    assert only(views.named_values, pair("Width", left='1/5"', right="0.51")).left == 'Width: 1/5"'
    assert list(views.named_values([pair("Width", left="2", right="2")])) == []


def test_labels_of_texts() -> None:
    assert only(views.labels_paired("product"), TEXT).right == "oil"
    assert [s.term for s in only(views.labels_found(("product", "for")), TEXT).spans] == ["oil"], "'me' is in 'men'"
    assert list(views.without_label("product", "oil")([TEXT])) == []
    escaped = LabelledText(id="t", group="g", language="en", text="a&nbsp;&amp; b", labels={})
    assert only(views.unescaped, escaped).text == "a & b"


def test_neighbours_pair_within_and_across_groups() -> None:
    titles = {"1": ("a", "b", "c", "d"), "2": ("e", "f"), "3": ("g",)}
    items = [
        AttributedItem(id=t, group=group, language="en", title=t) for group, members in titles.items() for t in members
    ]
    seen = [(r.left, r.right, r.label) for r in views.neighbours(items)]
    assert seen == [("a", "b", "same"), ("c", "d", "same"), ("e", "f", "same"), ("e", "a", "different")]


def test_thinning_keeps_a_fixed_share_of_one_label() -> None:
    pairs = [pair("different", str(i)) for i in range(400)] + [pair("same", "x")]
    kept = [r.id for r in views.thinned("different", 0.25)(pairs)]
    assert 60 < len(kept) < 140
    assert kept[-1] == "x"
    assert kept == [r.id for r in views.thinned("different", 0.25)(pairs)]


def test_aspects() -> None:
    full = AspectTuple("use", "interface", "easy", "positive")
    implicit = AspectTuple("", "interface", "", "negative")
    assert only(views.without_categories(), aspects(full, implicit)).tuples == (
        AspectTuple("use", "", "easy", "positive"),
    )
    assert (
        list(views.of_domains("car")([aspects(full)])) == list(views.without_categories("car")([aspects(full)])) == []
    )
    assert only(views.of_domains("phone"), aspects(full)).tuples == (full,)
    judged = only(views.judged_aspects, aspects(full, implicit, AspectTuple("cause", "x", "", "positive")))
    assert (judged.text, [t.aspect for t in judged.tuples]) == ("The use is easy because", ["use"])
    assert only(views.by_domain(10), aspects(full)).labels == {"domain": ("phone",)}
    assert list(views.by_domain(10)([aspects(full, text="short")])) == []


def test_questions() -> None:
    question = Question(
        id="q", group="g", language="en", question="Why?", context="So.", answers=("Yes",), labels={"type": ("open",)}
    )
    assert only(views.answered, question).right == "Yes"
    assert only(views.questions_labelled("context"), question).text == "So."
    seen = only(views.questions_labelled("question", "answer"), question)
    assert (seen.text, seen.labels) == ("Question: Why?\nAnswer: Yes", {"type": ("open",)})


def test_dialogues_lose_one_letter_turns_with_their_labels() -> None:
    talk = Dialogue(
        id="d",
        group="g",
        language="en",
        turns=(("customer", "Help"), ("helpdesk", "H"), ("helpdesk", "How?")),
        turn_labels=("a", "b", "c"),
    )
    seen = only(views.speakers({"customer": "顾客"}), talk)
    assert seen.turns == (("顾客", "Help"), ("helpdesk", "How?"))
    assert seen.turn_labels == ("a", "c")


@pytest.mark.parametrize("text", [" ab cd ", "ab cd", "\u3000ab cd\n"])
def test_trimming_moves_the_spans(text: str) -> None:
    at = text.index("cd")
    record = SpannedText(id="s", group="g", language="en", text=text, spans=(Span(at, at + 2, "x", "cd"),))
    seen = only(views.trimmed, record)
    assert seen.text == "ab cd"
    assert [seen.text[s.start : s.end] for s in seen.spans] == ["cd"]


def test_acts() -> None:
    assert only(views.acts, pair("inform")).labels == {"act": ("inform",)}
