"""A data set as sections of a report: kinds of tasks, sources, records left out, abilities."""

import collections
import html
from collections.abc import Mapping
from typing import Any

from ecomgpt_jax.evaluation.page import Section, Table
from ecomgpt_jax.instruct.abilities import Ability, ability_graph, kind_of, links

_LANGUAGES = {"en": "English", "zh": "Chinese"}
_COUNTS = ("tasks", "training rows", "test rows")
_COUNTED = ("upstream", "read", "records", "train", "test")  # of a source; the embedded ones have no upstream


def data_sections(stats: Mapping[str, Any]) -> list[Section]:
    """Returns the sections for the statistics of a built data set (`ecom_instruct.Built.stats`)."""
    tasks, totals = stats["tasks"], stats["totals"]
    summary = (
        f"{totals['tasks']} tasks: {totals['training_tasks']} to train on, {totals['held_out_tasks']} held out, "
        f"{totals['atomic_tasks']} atomic. {totals['train']:,} training and {totals['test']:,} test rows."
    )
    sections = [
        Section("Tasks by family, language and operator", [summary], _tasks_table(tasks)),
        Section("Sources", _explained(stats["sources"]), _sources_table(stats["sources"])),
        Section("Left out", table=Table(("why", "how many"), [(k, f"{v:,}") for k, v in stats["dropped"].items()])),
    ]
    graph = ability_graph(tasks)
    if graph:
        sections.append(Section("Abilities", [_ABILITIES], _abilities_table(graph), ability_figure(graph)))
    return sections


_ABILITIES = (
    "Atomic tasks use one ability or two; base and held-out tasks combine several. Reused: how many tasks "
    "downstream of the atomic ones need the ability. The figure joins each ability with the kinds of task that use it."
)


def _tasks_table(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    cells: dict[tuple[str, str, str], list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for entry in tasks.values():
        operator = "held out" if entry["held_out"] else entry["operator"] or "base"
        for key in ((operator, entry["family"], entry["language"]), ("all", "", "")):
            for place, count in enumerate((1, entry["train"], entry["test"])):
                cells[key][place] += count
    rows = [
        (operator, family, _LANGUAGES.get(language, language), *(f"{count:,}" for count in counts))
        for (operator, family, language), counts in sorted(cells.items(), key=lambda pair: (pair[0][0] == "all", pair))
    ]
    return Table(("operator", "family", "language", *_COUNTS), rows, totals=1)


def _sources_table(sources: Mapping[str, Mapping[str, Any]]) -> Table:
    header = ("source", "upstream records", "read", "made", "train", "test", "difference")
    rows = []
    for name, entry in sources.items():
        known = (f"{entry[key]:,}" if key in entry else "" for key in _COUNTED)
        rows.append((name, *known, difference(entry)))
    sums = (f"{sum(entry.get(key, 0) for entry in sources.values()):,}" for key in _COUNTED)
    return Table(header, [*rows, (f"{len(sources)} sources", *sums, "")], totals=1)


def difference(entry: Mapping[str, Any]) -> str:
    """Returns why the number of a source's records differs from upstream's or from those used; "" if it does not."""
    if "upstream" not in entry:
        left_out = {"refused": entry.get("refused", 0), **entry.get("left_out", {})}
        return "; ".join(f"{reason}: {count:,}" for reason, count in left_out.items() if count)
    reasons = [f"{reason}: {count:,}" for reason, count in entry["skipped"].items()]
    reasons += [f"malformed: {entry['malformed']:,}"] if entry["malformed"] else []
    return "; ".join([*([entry["note"]] if entry["note"] else []), *reasons])


def unexplained(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the sources whose number of records differs from upstream's without an explanation."""
    return [
        name
        for name, entry in sources.items()
        if "upstream" in entry and not entry["upstream"] == entry["read"] == entry["records"] and not difference(entry)
    ]


def _explained(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = [entry for entry in sources.values() if "upstream" in entry]
    if not known:
        return []
    equal = sum(entry["upstream"] == entry["read"] for entry in known)
    text = (
        f"Of {len(known)} sources, {equal} were read with upstream's number of records. Tasks come from the records "
        "made of these: a row with two kinds of annotation gives two, rows of one sentence may be merged into one."
    )
    left = unexplained(sources)
    return [text, f"Without an explanation: {', '.join(left)}." if left else "Every difference is explained."]


def _abilities_table(graph: list[Ability]) -> Table:
    header = ("ability", "atomic tasks", "their rows", "base tasks", "their rows", "held-out tasks", "reused")
    rows = []
    for a in graph:
        counts = (len(a.atomic), a.atomic_rows, len(a.base), a.base_rows, len(a.held_out), a.reused)
        rows.append((a.name, *(f"{count:,}" for count in counts)))
    return Table(header, rows)


def ability_figure(graph: list[Ability]) -> str:
    """Returns the graph as inline SVG: abilities on the left, kinds of base and held-out tasks on the right."""
    edges = links(graph)
    used = [ability for ability in graph if any(name == ability.name for name, _ in edges)]
    users = {task for ability in graph for task in (*ability.base, *ability.held_out)}
    sizes = collections.Counter(map(kind_of, users))
    kinds = [kind for kind, _ in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))]
    step, width, left, right, top = 26, 900, 330, 560, 20
    height = top + step * max(len(used), len(kinds), 1)
    y_left = {ability.name: top + step * (i + 0.5) for i, ability in enumerate(used)}
    y_right = {kind: top + step * (i + 0.5) for i, kind in enumerate(kinds)}
    middle = (left + right) / 2
    marks = []
    for (name, kind), count in edges.items():
        a, b = y_left[name], y_right[kind]
        marks.append(
            f'<path class="curve" d="M {left} {a} C {middle} {a} {middle} {b} {right} {b}" '
            f'style="stroke-width:{min(1 + count / 2, 14):g};opacity:.45"/>'
        )
    for ability in used:
        label = f"{ability.name} (practised by {len(ability.atomic)})"
        marks.append(
            f'<text x="{left - 8}" y="{y_left[ability.name] + 4}" text-anchor="end">{html.escape(label)}</text>'
        )
    for kind in kinds:
        marks.append(f'<text x="{right + 8}" y="{y_right[kind] + 4}">{html.escape(kind)} ({sizes[kind]})</text>')
    title = "abilities and the kinds of task that use them"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{"".join(marks)}</svg>'
