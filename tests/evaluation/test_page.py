import html.parser
import re

import pytest

from ecomgpt_jax.evaluation.page import Section, Table, line_chart, render_html, render_markdown

EVIL = '<script>alert(1)</script> | `x` & "q" </pre>'
VOID = {"meta", "br", "line", "polyline"}


class Page(html.parser.HTMLParser):
    """Collects tags and text, and checks that every tag is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert not [attrs for _, attrs in page.tags if {"src", "href", "onload"} & set(attrs)]
    assert not re.search(r"url\(|@import|https?://", text)
    return page


@pytest.mark.parametrize(
    "points",
    [
        [(1, 2.0)],
        [(1, 2.0), (2, 2.0)],
        [(0, 0.0), (1, 0.0)],
        [(step, 1e-7 * step) for step in range(5000)],
        [(1, 3e9), (2, float("nan")), (3, float("inf")), (4, -1.0)],
    ],
)
def test_curves_stay_inside_their_frame(points: list) -> None:
    svg = line_chart(points, "step", "loss")
    parse(svg)
    assert len(svg) < 30_000
    (path,) = re.findall(r'points="([^"]+)"', svg)
    for x, y in (map(float, point.split(",")) for point in path.split()):
        assert 60 <= x <= 890
        assert 10 <= y <= 265


def test_no_curve_without_points() -> None:
    assert line_chart([], "a", "b") == line_chart([(1, float("nan"))], "a", "b") == ""


def test_markup_in_any_place_is_text() -> None:
    section = Section(
        EVIL, [EVIL], Table([EVIL, "b"], [[EVIL, "*" + EVIL]], plain=True), examples=[(EVIL, [(EVIL, EVIL)])]
    )
    page = parse(render_html(EVIL, [section]))
    assert page.text.count(EVIL) == 10
    row = render_markdown(EVIL, [section]).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "<script" not in row.replace("\\<", "")
