"""Runs both sides of a benchmark as alternating processes, and makes rows, table and file of their results."""

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Case = dict[str, Any]
Row = dict[str, Any]

HEADER = "| what | ours | peer | unit | ratio | bar | met |\n|---|---:|---:|---|---:|---:|---|"


class SideError(Exception):
    """The process of a side failed or exceeded its time limit; the message is one line."""


class Side:
    """The process of one side for one case; `work.py` describes its output. It is killed after `limit` seconds."""

    def __init__(self, script: str, case: Case, limit: float = threading.TIMEOUT_MAX) -> None:
        command = [sys.executable, str(Path(__file__).parent / script), json.dumps(case)]
        self.name, self._limit, self._late = f"{script} {case['kind']}", limit, False
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._timer = threading.Timer(limit, self._kill)
        self._timer.daemon = True
        self._timer.start()
        self.facts = self._answer()

    def _kill(self) -> None:
        self._late = True
        self.process.kill()

    def _answer(self) -> Case:
        line = self.process.stdout.readline()
        answer = json.loads(line) if line.endswith("\n") else {}
        if not answer or "error" in answer:
            self.close()
            why = answer.get("error") or f"ended with code {self.process.returncode}; its message is above"
            raise SideError(f"{self.name}: {f'killed after {self._limit:.0f} s' if self._late else why}")
        return answer

    def run(self) -> Case:
        """Runs the case once."""
        with contextlib.suppress(BrokenPipeError):  # the code below reports why it ended
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process and waits for it, so that its memory is free again."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self._timer.cancel()


def take_turns(
    case: Case, repeats: int, clock: str, scripts: tuple[str, ...] = ("ours.py", "peer.py"),
    limit: float = threading.TIMEOUT_MAX,
) -> list[Case]:  # fmt: skip
    """Returns each side's result of a case, with the median `seconds` of `repeats` turns after a warm-up turn.

    `turns` are the measured turns.

    Raises:
      SideError: a side failed, or exceeded `limit` seconds.
    """
    with contextlib.ExitStack() as closing:
        sides = []
        for script in scripts:
            sides.append(Side(script, case, limit))
            closing.callback(sides[-1].close)
        turns = [[side.run() for side in sides] for _ in range(1 + repeats)]
    return [_summary(side.facts, results, clock) for side, results in zip(sides, zip(*turns, strict=True), strict=True)]


def _summary(facts: Case, results: tuple[Case, ...], clock: str) -> Case:
    seconds = statistics.median(result[clock] for result in results[1:])
    return {**facts, **results[-1], "loss": results[0].get("loss"), "seconds": seconds, "turns": results[1:]}


def at_least(name: str, ours: float, peer: float, ratio: float, bar: float | None, unit: str) -> Row:
    """Returns a row whose bar is met by a ratio of at least `bar`; without a bar it is informative."""
    met = None if bar is None else ratio >= bar
    return {
        "name": name, "ours": ours, "peer": peer, "ratio": ratio, "bar": bar, "sense": ">=", "met": met, "unit": unit,
    }  # fmt: skip


def at_most(name: str, ours: float, bar: float, unit: str) -> Row:
    """Returns a row whose bar is met by a value of at most `bar`; NaN meets none."""
    return {
        "name": name, "ours": ours, "peer": None, "ratio": None, "bar": bar, "sense": "<=", "met": ours <= bar,
        "unit": unit,
    }  # fmt: skip


def faster(name: str, sides: list[Case], bar: float, unit: str) -> Row:
    """Returns a row of seconds with the ratio of the peer's seconds to ours."""
    ours, peer = (side["seconds"] for side in sides)
    return at_least(name, ours, peer, peer / ours, bar, unit)


def without_figure(name: str, note: str, met: bool | None) -> Row:
    """Returns a row without a figure, with the reason in `note`."""
    return {
        "name": name, "ours": None, "peer": None, "ratio": None, "bar": None, "sense": ">=", "met": met, "unit": "",
        "note": note,
    }  # fmt: skip


def difference(sides: list[Case]) -> float:
    """Returns the relative difference of the two sides' first losses."""
    ours, peer = (side["loss"] for side in sides)
    return abs(ours - peer) / abs(peer)


def machine() -> str:
    """Returns the hardware: the processor, its cores, and the GPU if there is one."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    name = f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
    try:
        gpu = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.split("(")[0]
    except (OSError, subprocess.CalledProcessError):
        return name
    return f"{gpu.strip()}, {name}"


def line(row: Row) -> str:
    """Returns a row as a line of the Markdown table under `HEADER`."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value == 0 or abs(value) >= 100 else f"{value:.3g}"

    bar = "" if row["bar"] is None else f"{row['sense']} {row['bar']:,g}"
    met = {None: "", True: "yes", False: "NO"}[row["met"]]
    met = ", ".join(filter(None, (met, row.get("note"))))
    figures = (number(row["ours"]), number(row["peer"]), row["unit"], number(row["ratio"]), bar, met)
    return f"| {row['name'].strip()} | {' | '.join(figures)} |"


def record(rows: Iterable[Row], facts: dict[str, Any], path: Path | None) -> list[Row]:
    """Prints each row as it is measured and writes all so far to a JSON file, so that an interrupted run keeps them.

    Args:
      rows: iterator that measures them.
      facts: of the run, written before the rows.
      path: the file, or None. `complete` in it is false until the last row.

    Returns:
      All rows.
    """
    done: list[Row] = []

    def write(complete: bool) -> None:
        if path:
            part = path.with_name(f"{path.name}.partial")
            text = json.dumps({**facts, "complete": complete, "rows": done}, indent=1)
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(path)

    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    write(complete=False)  # replaces an older run's file
    print(HEADER, flush=True)
    for row in rows:
        done.append(row)
        print(line(row), flush=True)
        write(complete=False)
    write(complete=True)
    return done


def plot(rows: list[Row]) -> str:
    """Returns an SVG of the ratios, peer to ours, with a line at each bar."""
    rows = [row for row in rows if row["ratio"] and row["bar"]]
    scale = 330 / max(max(row["ratio"], row["bar"]) for row in rows)
    parts = []
    for i, row in enumerate(rows):
        y, width, bar = 8 + 30 * i, row["ratio"] * scale, 320 + row["bar"] * scale
        parts.append(
            f'<text x="312" y="{y + 14}" text-anchor="end">{row["name"].strip()}</text>'
            f'<rect x="320" y="{y}" width="{width:.0f}" height="20" fill="{"#2f6f9f" if row["met"] else "#b5482f"}"/>'
            f'<text x="{326 + width:.0f}" y="{y + 14}">{row["ratio"]:.2f}x</text>'
            f'<path d="M{bar:.0f} {y - 4}v28" stroke="#222" stroke-width="2"/>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{30 * len(rows) + 12}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
