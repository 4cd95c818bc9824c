"""The page of a data set's statistics."""

from xml.etree import ElementTree

from ecomgpt_jax.evaluation.data_report import ability_figure, data_sections, difference, unexplained
from ecomgpt_jax.evaluation.page import render_html, render_markdown
from ecomgpt_jax.instruct.abilities import ability_graph

SOURCE = {"records": 10, "train": 8, "test": 2, "upstream": 10, "read": 10, "skipped": {}, "malformed": 0, "note": ""}


def task(
    operator: str = "", held_out: bool = False, language: str = "en", abilities: tuple[str, ...] = ("find <b>",)
) -> dict:
    return {
        "language": language, "family": "NER", "operator": operator, "parent": "", "source": "s", "train": 1000,
        "test": 5, "held_out": held_out, "abilities": abilities,
    }  # fmt: skip


STATS = {
    "tasks": {
        "EN-A-NER-recognition": task(),
        "ZH-A-NER-recognition": task(language="zh"),
        "ZH-B-NER-NER": task(held_out=True, language="zh"),
        "EN-A-Extract-spans": task("simplification"),
    },
    "sources": {
        "whole": SOURCE,
        "merged": {**SOURCE, "records": 7, "note": "rows of one sentence are merged"},
        "short": {**SOURCE, "records": 8, "skipped": {"no text": 2}},
        "broken": {**SOURCE, "records": 9, "malformed": 1},
        "odd": {**SOURCE, "records": 9},
        "embedded": {"records": 3, "train": 3, "test": 0},
    },
    "dropped": {"near duplicate": 4321},
    "totals": {"tasks": 4, "training_tasks": 3, "held_out_tasks": 1, "atomic_tasks": 1, "train": 3000, "test": 15},
}


def test_differences_are_explained_or_named() -> None:
    sources = STATS["sources"]
    assert [difference(entry) for entry in sources.values()] == [
        "", "rows of one sentence are merged", "no text: 2", "malformed: 1", "", "",
    ]  # fmt: skip
    assert unexplained(sources) == ["odd"]


def test_tables() -> None:
    text = render_markdown("Data set", data_sections(STATS))
    assert "4 tasks: 3 to train on, 1 held out, 1 atomic" in text
    assert "| base | NER | English | 1 | 1,000 | 5 |" in text
    assert "| held out | NER | Chinese | 1 | 1,000 | 5 |" in text
    assert "| all |  |  | 4 | 4,000 | 20 |" in text
    assert "| 6 sources | 50 | 50 | 46 | 43 | 10 |  |" in text
    assert "Without an explanation: odd." in text
    assert "| near duplicate | 4,321 |" in text
    assert "| find \\<b> | 1 | 1,000 | 2 | 2,000 | 1 | 3 |" in text


def test_the_figure_is_markup_with_a_line_a_link_and_every_name_escaped() -> None:
    figure = ability_figure(ability_graph(STATS["tasks"]))
    root = ElementTree.fromstring(figure)
    assert len(root.findall("path")) == 2
    assert [text.text for text in root.findall("text")] == ["find <b> (practised by 1)", "recognition (2)", "NER (1)"]
    assert figure in render_html("Data set", data_sections(STATS))


def test_a_data_set_of_ones_own_files_has_no_graph() -> None:
    stats = {**STATS, "tasks": {"EN-Mine-NER-x": task(abilities=())}, "sources": {}}
    assert [section.title for section in data_sections(stats)][-1] == "Left out"
