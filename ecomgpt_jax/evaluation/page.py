"""Sections of a report, rendered as Markdown or as one self-contained HTML file.

All text is escaped; only `Section.figure` is markup, from the charts below. The page's policy allows no script and no
external address.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #e4e7ec; --paper: #ffffff; --back: #f6f7f9;
  --accent: #b4541a; --good: #0b7a4b; --right: #cdefdc; --wrong: #fbd5d0; --missed: #fdebc4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #303846; --paper: #171c25;
  --back: #10141b; --accent: #f0a063; --good: #54c690; --right: #14553a; --wrong: #6d2620; --missed: #5d4410; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "PingFang SC", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.7rem; margin: 0 0 1.5rem; letter-spacing: -0.01em; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem 1.4rem 1.3rem;
  margin: 0 0 1.2rem; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
p { margin: .3rem 0 .7rem; max-width: 78ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: var(--back); }
td.best { color: var(--good); font-weight: 700; }
tr.total td { border-top: 2px solid var(--line); font-weight: 600; }
.plain td, .plain th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
figure { margin: .5rem 0 0; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--line); }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
svg .dashed { stroke-dasharray: 6 4; }
svg .bar { fill: var(--accent); opacity: .55; } svg .whisker { stroke: var(--ink); stroke-width: 1.5; }
svg .mark { stroke-width: 2.5; } svg .mark0 { stroke: var(--good); } svg .mark1 { stroke: var(--soft); }
mark { color: inherit; border-radius: 3px; padding: 0 .1em; } mark.right { background: var(--right); }
mark.wrong { background: var(--wrong); text-decoration: line-through; }
mark.missed { background: var(--missed); text-decoration: underline dashed; }
details { border-top: 1px solid var(--line); padding: .5rem 0; } summary { cursor: pointer; }
dt { color: var(--soft); font-size: .8rem; margin-top: .5rem; } dd { margin: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--back); border-radius: 6px; padding: .6rem .8rem;
  margin: .2rem 0; font-size: .82rem; max-height: 22rem; overflow-y: auto; }
"""

# A text, or its pieces in order, each with its mark: "" (none), "right", "wrong" or "missed".
Marked = str | Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    Attributes:
      header: names of the columns.
      rows: cells; a cell that starts with "*" is shown as the best of its row.
      totals: number of rows at the end that are sums or means.
      plain: whether cells are prose, which is aligned left and wrapped.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    totals: int = 0
    plain: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report: title, paragraphs, and any of a table, a figure (SVG markup) and folded examples.

    Each example is a title and (name, text) pairs; pieces of the text may be marked. Examples are left out of the
    Markdown.
    """

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    figure: str = ""
    examples: Sequence[tuple[str, Sequence[tuple[str, Marked]]]] = ()


def cell(text: str) -> str:
    """Returns a text as a cell of a table; a blank before a leading "*" prevents its interpretation as a mark."""
    return " " + text if text.startswith("*") else text


def render_markdown(title: str, sections: Sequence[Section]) -> str:
    """Returns the report as Markdown, without figures and examples."""
    lines = [f"# {_flat(title)}"]
    for section in sections:
        if not section.table and (section.examples or not section.text):
            continue
        lines += ["", f"## {_flat(section.title)}"]
        for paragraph in section.text:
            lines += ["", _flat(paragraph)]
        if section.table:
            align = "| --- " if section.table.plain else "| ---: "
            lines += ["", _markdown_row(section.table.header), "| --- " + align * (len(section.table.header) - 1) + "|"]
            lines += [_markdown_row(row) for row in section.table.rows]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(f"**{_flat(c[1:])}**" if c.startswith("*") else _flat(c) for c in cells) + " |"


def _flat(text: str) -> str:
    for mark in "\\`|<*[":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def render_html(title: str, sections: Sequence[Section]) -> str:
    """Returns the report as one HTML page without external addresses."""
    body = "\n".join(_html_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{_escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _escape(text: str) -> str:
    return html.escape(text.replace("\0", "\ufffd"))


def _marked(text: Marked) -> str:
    pieces = [(text, "")] if isinstance(text, str) else text
    return "".join(
        f'<mark class="{_escape(kind)}">{_escape(piece)}</mark>' if kind else _escape(piece) for piece, kind in pieces
    )


def _html_section(section: Section) -> str:
    parts = [f"<section>\n<h2>{_escape(section.title)}</h2>"]
    parts += [f"<p>{_escape(paragraph)}</p>" for paragraph in section.text]
    if section.figure:
        parts.append(f"<figure>{section.figure}</figure>")
    if section.table:
        parts.append(_html_table(section.table))
    for summary, fields in section.examples:
        shown = "".join(f"<dt>{_escape(name)}</dt><dd><pre>{_marked(text)}</pre></dd>" for name, text in fields)
        parts.append(f"<details><summary>{_escape(summary)}</summary><dl>{shown}</dl></details>")
    return "\n".join([*parts, "</section>"])


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_escape(name)}</th>" for name in table.header)
    rows = []
    for index, row in enumerate(table.rows):
        total = ' class="total"' if index == len(table.rows) - table.totals else ""
        cells = (
            f'<td class="best">{_escape(c[1:])}</td>' if c.startswith("*") else f"<td>{_escape(c)}</td>" for c in row
        )
        rows.append(f"<tr{total}>{''.join(cells)}</tr>")
    plain = ' class="plain"' if table.plain else ""
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table{plain}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


Points = Sequence[tuple[float, float]]


def line_chart(points: Points, x_name: str, y_name: str, dashed: Points = ()) -> str:
    """Returns lines through `points` and `dashed` as inline SVG; points that are not finite are left out."""
    lines = []
    for line in (points, dashed):
        finite = [(float(x), float(y)) for x, y in line if math.isfinite(x) and math.isfinite(y)]
        lines.append([*finite[: -1 : max(1, len(finite) // 500)], *finite[-1:]])
    points = [*lines[0], *lines[1]]
    if not points:
        return ""
    width, height, left, right, top, bottom = 900, 300, 64, 16, 14, 40
    x_ticks, y_ticks = (_ticks(min(axis), max(axis)) for axis in zip(*points, strict=True))
    x_low, x_high = min(points)[0], max(max(points)[0], min(points)[0] + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        return round(across, 1), round(top + (y_high - y) / (y_high - y_low) * (height - top - bottom), 1)

    marks = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        marks.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>')
        marks.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = place(tick, y_low)
            marks.append(f'<text x="{x}" y="{height - bottom + 18}" text-anchor="middle">{tick:g}</text>')
    drawn = "".join(
        f'<polyline class="{name}" points="{" ".join(f"{x},{y}" for x, y in (place(*point) for point in line))}"/>'
        for name, line in zip(("curve", "curve dashed"), lines, strict=True)
        if line
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_escape(y_name)} by {_escape(x_name)}">'
        f"{''.join(marks)}{drawn}"
        f'<text x="{(left + width - right) / 2}" y="{height - 4}" text-anchor="middle">{_escape(x_name)}</text>'
        f'<text x="14" y="{(top + height - bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(top + height - bottom) / 2})">{_escape(y_name)}</text></svg>'
    )


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar of a chart: name, value in [0, 1], interval, if any, positions of its marks."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    marks: Sequence[float | None] = ()


def bar_chart(bars: Sequence[Bar], x_name: str, mark_names: Sequence[str] = ()) -> str:
    """Returns horizontal bars from 0 to 1 with whiskers and marks as inline SVG; at most two marks per bar."""
    if not bars:
        return ""
    width, left, right, top, pitch = 900, 375, 56, 26, 26
    bottom = top + pitch * len(bars)

    def across(value: float) -> float:
        return round(left + min(max(value, 0.0), 1.0) * (width - left - right), 1)

    shapes = [
        f'<line class="mark mark{index}" x1="{left + 160 * index}" x2="{left + 160 * index}" y1="4" y2="16"/>'
        f'<text x="{left + 160 * index + 7}" y="14">{_escape(name)}</text>'
        for index, name in enumerate(mark_names)
    ]
    for tick in range(0, 11, 2):
        x = across(tick / 10)
        shapes.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        shapes.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{tick / 10:g}</text>')
    for index, bar in enumerate(bars):
        y, end = top + pitch * index + pitch / 2, across(bar.value)
        shapes.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{_escape(bar.name)}</text>')
        shapes.append(f'<rect class="bar" x="{left}" y="{y - 8}" width="{round(end - left, 1)}" height="16"/>')
        shapes.append(f'<text x="{width - right + 8}" y="{y + 4}">{bar.value:.3f}</text>')
        if bar.interval:
            low, high = map(across, bar.interval)
            shapes.append(f'<line class="whisker" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
            shapes += [f'<line class="whisker" x1="{x}" x2="{x}" y1="{y - 4}" y2="{y + 4}"/>' for x in (low, high)]
        shapes += [
            f'<line class="mark mark{number}" x1="{across(at)}" x2="{across(at)}" y1="{y - 10}" y2="{y + 10}"/>'
            for number, at in enumerate(bar.marks)
            if at is not None
        ]
    return (
        f'<svg viewBox="0 0 {width} {bottom + 40}" role="img" aria-label="{_escape(x_name)}">{"".join(shapes)}'
        f'<text x="{(left + width - right) / 2}" y="{bottom + 34}" text-anchor="middle">{_escape(x_name)}</text></svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Returns 4 to 8 round numbers from at or below `low` to at or above `high`."""
    spread = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(spread / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if spread / (size * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
