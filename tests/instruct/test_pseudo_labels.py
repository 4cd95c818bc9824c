"""The answers of a model that become rows."""

import dataclasses

import pytest

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct import pseudo_labels
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.pseudo_labels import accept, as_folder, pool_of, pseudo_name, unlabelled
from ecomgpt_jax.instruct.records import LabelledText, Span, SpannedText, TextPair
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, gold_answer, load_task, read_rows, write_task
from ecomgpt_jax.instruct.tasks import classification, entities
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

TEMPLATE = "{sentences}\nChoose from {label_set}.\n### Response:"
MOOD = TaskFolder("EN-Shop-CLS-mood", "mood", TEMPLATE, {"default": ("good", "bad", "so so")})
PARTS = TaskFolder("EN-Shop-NER-parts", "parts", TEMPLATE, {"default": ("Brand", "Part")})
WORDS = TaskFolder("EN-Shop-Condition_Extract-words", "words", "{sentences}\n### Response:")
TEXT = "The Acme drill, red, has a chuck"


@pytest.mark.parametrize(
    ("task", "answer", "expected"),
    [
        (MOOD, "good", ("good",)),
        (MOOD, "so so, bad", ("so so", "bad")),
        (MOOD, "great", "no candidate"),
        (MOOD, "good, good", "format"),
        (MOOD, "  ", "empty answer"),
        (PARTS, "Brand: Acme\nPart: chuck", (("Brand", "Acme", 4), ("Part", "chuck", 27))),
        (PARTS, "Part: chuck, drill\nBrand: None", (("Part", "chuck", 27), ("Part", "drill", 9))),
        (PARTS, "Brand: Acme", "format"),
        (PARTS, "Brand: Acme\nBrand: Acme", "format"),
        (PARTS, "Brand: Acme\nColour: red", "no candidate"),
        (PARTS, "Brand Acme", "format"),
        (PARTS, "Brand: Bolt\nPart: None", "not in the text"),
        (PARTS, "Brand: None\nPart: None", "nothing found"),
        (WORDS, "Acme, chuck", (("", "Acme", 4), ("", "chuck", 27))),
        (WORDS, "drill, red", (("", "drill, red", 9),)),
        (WORDS, "Acme, ", "not in the text"),
        (WORDS, "hammer", "not in the text"),
        (WORDS, "None", "nothing found"),
    ],
)
def test_filters(task: TaskFolder, answer: str, expected: object) -> None:
    row = accept(task, TEXT, answer, task.labels)
    if not isinstance(row, TaskRow):
        assert row == expected
        return
    assert row.sentences == TEXT
    assert all(TEXT[span.start : span.end] == span.term for span in row.spans)
    assert (row.labels.get("default") or tuple((s.type, s.term, s.start) for s in row.spans)) == expected


@pytest.mark.parametrize(
    ("name", "separator", "answer", "expected"),
    [
        ("ZH-Shop-Extract-words", "、", "drill、red", ("drill", "red")),
        ("ZH-Shop-Extract-words", "、", "red, drill", "not in the text"),
        ("EN-Shop-NER-parts", "; ", "Brand: Acme; drill\nPart: drill, red", ("Acme", "drill", "drill, red")),
        ("EN-Shop-NER-parts", "; ", "Brand: Acme, chuck\nPart: None", "not in the text"),
        ("EN-Shop-Condition_Extract-words", "; ", "Acme, chuck", ("Acme", "chuck")),  # its answers always have ", "
    ],
)
def test_terms_are_split_at_the_separator_of_the_task(name: str, separator: str, answer: str, expected: object) -> None:
    task = TaskFolder(name, "d", TEMPLATE, {"default": ("Brand", "Part")}, separator=separator)
    row = accept(task, TEXT, answer, task.labels)
    assert (tuple(span.term for span in row.spans) if isinstance(row, TaskRow) else row) == expected


def test_what_is_accepted_reads_back_as_the_same_answer(tmp_path: object) -> None:
    for task, answer in ((MOOD, "so so, bad"), (PARTS, "Brand: Acme\nPart: None"), (WORDS, "Acme, chuck")):
        write_task(tmp_path, task, (), [accept(task, TEXT, answer, task.labels)])
        loaded = load_task(tmp_path / "Shop" / "tasks" / task.name)
        assert gold_answer(loaded, read_rows(loaded, "train")[0]) == answer


def test_what_a_model_is_asked() -> None:
    for task in (MOOD, PARTS, WORDS):
        (asked,) = pseudo_labels.instructions(task, ["a {label_set} cup"])
        prompt = render(asked)[0]
        assert "a {label_set} cup" in prompt
        assert all(label in prompt for label in task.labels)


def test_pools() -> None:
    common = {"group": "g", "language": "zh"}
    records = [
        LabelledText(id="1", **common, text="甲", labels={}, supervision="none"),
        LabelledText(id="2", **common, text="乙", labels={}),
        LabelledText(id="3", group="g", language="en", text="c", labels={}, supervision="none"),
        TextPair(id="4", **common, left="a", right="b", label="", supervision="none"),
    ]
    assert unlabelled(records, "zh") == ["甲"]
    assert pool_of([" a cup", "A cup!", "", "  ", "a mug", "!!"]) == ["a cup", "a mug", "!!"]


def spanned(number: int, text: str = "a red cup", term: str = "red") -> SpannedText:
    at = text.index(term)
    spans = (Span(at, at + len(term), "colour", term),)
    return SpannedText(id=str(number), group=str(number), language="en", text=text, spans=spans)


def test_a_task_of_a_mixture_becomes_a_folder_without_rows() -> None:
    data = Dataset(name="Cups", source="s", language="en")
    folder = as_folder(bind(entities.RECOGNITION, data), [spanned(i) for i in range(3)])
    assert (folder.name, folder.labels) == ("EN-Cups_Pseudo-NER-recognition", ("colour",))
    assert pseudo_name(folder.name) == folder.name
    with pytest.raises(ConfigError, match="more than a text"):
        as_folder(bind(entities.ONE_TYPE, data), [spanned(i) for i in range(3)])
    with pytest.raises(ConfigError, match="family Generate cannot be checked"):
        as_folder(bind(entities.COMPOSITION, data), [spanned(i) for i in range(3)])


def test_a_task_whose_gold_answers_fail_is_refused() -> None:
    data = Dataset(name="Cups", source="s", language="en")
    moved = [dataclasses.replace(spanned(i), text=f"a blue cup {i}") for i in range(4)]  # "red" is not in the text
    with pytest.raises(ConfigError, match="1 of 5 of its own gold answers"):
        as_folder(bind(entities.RECOGNITION, data), [*moved, spanned(9)])


def test_labels_that_hold_their_separator_pass() -> None:
    data = Dataset(name="Cups", source="s", language="en", kind="mood")
    common = {"language": "en", "labels": {"mood": ("a, b",)}}
    records = [LabelledText(id=str(i), group=str(i), text=f"text {i}", **common) for i in range(4)]
    records += [LabelledText(id="9", group="9", language="en", text="x", labels={"mood": ("c",)})]
    assert as_folder(bind(classification.CLASSIFICATION, data), records).labels == ("a, b", "c")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Shoes, Bags", ("Shoes, Bags",)),
        ("yes, Shoes, Bags", ("yes ", "Shoes, Bags")),
        ("Shoes, Bags, Shoes", ("Shoes, Bags", "Shoes")),
        ("Bags", "no candidate"),
        ("Shoes, Bags, ", "no candidate"),
        ("Shoes, Shoes, Bags, Shoes", "format"),
    ],
)
def test_known_labels_are_matched_whole(answer: str, expected: object) -> None:
    task = TaskFolder("EN-Shop-CLS-group", "group", TEMPLATE, {"default": ("Shoes", "Shoes, Bags", "yes ")})
    row = accept(task, TEXT, answer, task.labels)
    assert (row.labels["default"] if isinstance(row, TaskRow) else row) == expected


def test_types_may_hold_colons() -> None:
    task = TaskFolder("EN-Shop-NER-size", "size", TEMPLATE, {"default": ("size: EU", "size", "Part ")})
    row = accept(task, TEXT, "size: EU: red\nsize: drill\nPart : None", task.labels)
    assert [(span.type, span.term) for span in row.spans] == [("size: EU", "red"), ("size", "drill")]
    assert accept(task, TEXT, "size: EU: red\nsize:drill\nPart : None", task.labels) == "format"
