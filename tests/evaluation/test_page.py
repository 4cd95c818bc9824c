import html.parser
import re

import pytest

from ecomgpt_jax.evaluation.page import Bar, Section, Table, bar_chart, line_chart, render_html, render_markdown

EVIL = '<script>alert(1)</script> | `x` & "q" </pre>'
VOID = {"meta", "br", "line", "polyline", "rect"}


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


def test_a_dashed_curve_lies_beside_the_other_in_one_frame() -> None:
    svg = line_chart([(1, 2.0), (9, 1.0)], "step", "loss", [(2, 5.0), (20, 3.0)])
    parse(svg)
    solid, dashed = re.findall(r'<polyline class="([^"]+)" points="([^"]+)"', svg)
    assert (solid[0], dashed[0]) == ("curve", "curve dashed")
    (first, last), others = (
        [tuple(map(float, point.split(","))) for point in points.split()] for points in (solid[1], dashed[1])
    )
    assert first[0] < others[0][0] < last[0] < others[1][0]
    assert others[0][1] < others[1][1] < first[1] < last[1], "5, 3, 2, 1 from the top down"


def test_no_curve_without_points() -> None:
    assert line_chart([], "a", "b") == line_chart([(1, float("nan"))], "a", "b") == ""


def test_bars_end_where_their_values_are() -> None:
    bars = [Bar("a", 0.0, (0.0, 0.25), [None, 1.0]), Bar("b", 1.0, (0.5, 1.0), [0.5, None])]
    page = parse(bar_chart(bars, "score", ["one", "two"]))
    left, full = [float(attrs["x"]) for tag, attrs in page.tags if tag == "rect"], 900 - 375 - 56
    assert [float(attrs["width"]) for tag, attrs in page.tags if tag == "rect"] == [0, full]
    lines = [attrs for tag, attrs in page.tags if tag == "line"]
    marks = [(attrs["class"], float(attrs["x1"])) for attrs in lines if "mark" in attrs["class"]][2:]
    assert marks == [("mark mark1", left[0] + full), ("mark mark0", left[0] + full / 2)]
    whiskers = [float(attrs["x2"]) - left[0] for attrs in lines if attrs["class"] == "whisker"]
    assert whiskers == pytest.approx([full / 4, 0, full / 4, full, full / 2, full], abs=0.1)
    assert bar_chart([], "score") == ""


def test_markup_in_any_place_is_text() -> None:
    section = Section(
        EVIL, [EVIL], Table([EVIL, "b"], [[EVIL, "*" + EVIL]], plain=True),
        examples=[(EVIL, [(EVIL, EVIL), ("n", [(EVIL, "right")])])],
        figure=bar_chart([Bar(EVIL, 0.5)], EVIL, [EVIL]),
    )  # fmt: skip
    page = parse(render_html(EVIL, [section]))
    assert page.text.count(EVIL) == 14
    assert ("mark", {"class": "right"}) in page.tags
    row = render_markdown(EVIL, [section]).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "<script" not in row.replace("\\<", "")
