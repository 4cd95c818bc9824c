#!/usr/bin/env python3
"""This project against Hugging Face's torch models: `scripts/benchmark.py --suite cpu|gpu|decode|family --json OUT`.

Each side runs in its own process on the same inputs and, where it matters, on the same weights; they take turns, and
medians are compared. On a CPU the cost is CPU seconds (user and system), which a busy machine disturbs little; on a GPU
it is wall seconds. Prints one row per bar and exits with 0 only when every bar is met; rows without a bar are
informative. `--plot OUT.svg` draws the ratios. Needs torch besides: `pip install -e .[torch]`.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Case = dict[str, Any]
Row = dict[str, Any]

# The CPU suites' model and batch; the peer takes the weights and so the shape from the folder that our side writes.
SMALL = {
    "size": "custom", "embed": 256, "layers": 4, "heads": 8, "vocab_size": 32_000, "compute_dtype": "float32",
    "head_chunk": 128,
}  # fmt: skip
BATCH = {"rows": 8, "length": 256}
COUNTER = SMALL | {"embed": 64, "layers": 1, "heads": 4, "vocab_size": 512}


class Side:
    """One side's process on one case; see `benchmarks/work.py` for its output."""

    def __init__(self, script: str, case: Case) -> None:
        command = [sys.executable, str(HERE / "benchmarks" / script), json.dumps(case)]
        self.name = f"{script} {case['kind']}"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self._answer()

    def _answer(self) -> Case:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.name} ended with code {self.process.wait()}; its message is above")
        return json.loads(line)

    def run(self) -> Case:
        """Runs the case once."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process and waits for it, so that its memory is free again."""
        self.process.stdin.close()
        self.process.wait()


def take_turns(case: Case, repeats: int, clock: str, scripts: tuple[str, ...] = ("ours.py", "peer.py")) -> list[Case]:
    """Returns each side's result of a case, with the median `seconds` of `repeats` turns after a warm-up turn."""
    sides = [Side(script, case) for script in scripts]
    turns = [[side.run() for side in sides] for _ in range(1 + repeats)]
    for side in sides:
        side.close()
    return [_summary(side.facts, results, clock) for side, results in zip(sides, zip(*turns, strict=True), strict=True)]


def _summary(facts: Case, results: tuple[Case, ...], clock: str) -> Case:
    seconds = [result[clock] for result in results[1:]]
    return {**facts, **results[-1], "loss": results[0].get("loss"), "seconds": statistics.median(seconds)}


def at_least(name: str, ours: float, peer: float, ratio: float, bar: float | None, unit: str) -> Row:
    """Returns a row whose bar is met by a ratio of at least `bar`; without a bar it is informative."""
    met = None if bar is None else ratio >= bar
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "bar": bar,
        "sense": ">=",
        "met": met,
        "unit": unit,
    }


def at_most(name: str, ours: float, bar: float, unit: str) -> Row:
    """Returns a row whose bar is met by a value of at most `bar`; NaN meets none."""
    return {
        "name": name, "ours": ours, "peer": None, "ratio": None, "bar": bar, "sense": "<=", "met": ours <= bar,
        "unit": unit,
    }  # fmt: skip


def faster(name: str, sides: list[Case], bar: float, unit: str) -> Row:
    """Returns a row of seconds with the ratio of the peer's to ours."""
    ours, peer = (side["seconds"] for side in sides)
    return at_least(name, ours, peer, peer / ours, bar, unit)


def difference(sides: list[Case]) -> float:
    """Returns the relative difference of the two sides' first losses."""
    ours, peer = (side["loss"] for side in sides)
    return abs(ours - peer) / abs(peer)


def _write_weights(model: Case, folder: Path) -> None:
    Side("ours.py", {"kind": "weights", "model": model, "to": str(folder)}).close()


def run_cpu(repeats: int, folder: Path) -> list[Row]:
    """Training on a CPU against torch, in CPU seconds."""
    _write_weights(SMALL, folder)
    case, rows = {"kind": "train", "model": SMALL, "weights": str(folder / "random"), **BATCH}, []
    for share, chunk, bar in ((1.0, 256, 1.15), (0.15, 128, 1.8)):
        sides = take_turns({**case, "share": share, "model": SMALL | {"head_chunk": chunk}}, repeats, "cpu")
        peaks = [side["peak_mib"] for side in sides]
        rows += [
            faster(f"train step, {share:.0%} targets", sides, bar, "CPU s"),
            at_most("  difference of its loss", difference(sides), 1e-5, "relative"),
            at_least("  peak memory of the process", *peaks, peaks[1] / peaks[0], None, "MiB"),
        ]
    sides = take_turns({**case, "kind": "head", "share": 0.15}, repeats, "cpu")
    memory = [max(side["temporary_mib"], 1e-9) for side in sides]
    rows += [
        faster("loss head alone, 15% targets", sides, 4.5, "CPU s"),
        at_most("  difference of its loss", difference(sides), 1e-6, "relative"),
        at_least("  its temporary memory", *memory, memory[1] / memory[0], 8, "MiB"),
    ]
    sides = take_turns({**case, "instances": 240, "peer_rows": 8, "rows": 4, "length": 768}, repeats, "cpu")
    speeds = [side["useful"] / side["seconds"] for side in sides]
    name = "EcomInstruct lengths, packed against padded"
    return [*rows, at_least(name, *speeds, speeds[0] / speeds[1], 3, "useful tokens / CPU s")]


def run_decode(repeats: int, folder: Path) -> list[Row]:
    """Greedy decoding on a CPU against `generate`, in CPU seconds; every answer must be the same."""
    _write_weights(SMALL, folder)
    case, rows = {"kind": "generate", "model": SMALL, "rows": 16}, []
    equal = {**case, "weights": str(folder / "random"), "length": 64, "new": 64}
    tasks = {**case, "weights": str(folder / "countdown"), "task_rows": 16, "slots": 64}
    for name, one, bar in (("greedy, batch 16, 64 + 64 tokens", equal, 1.9), ("the 12 tasks' lengths", tasks, 5)):
        sides = take_turns(one, repeats, "cpu")
        ours, peer = (side["tokens"] for side in sides)
        wrong = sum(a != b for a, b in zip(ours, peer, strict=True))
        rows += [faster(name, sides, bar, "CPU s"), at_most("  answers that differ", wrong, 0, f"of {len(peer)}")]
    _write_weights(COUNTER, folder / "counter")
    counting = {
        "kind": "generate", "model": COUNTER, "weights": str(folder / "counter" / "countdown"), "task_rows": 500,
        "shrink": 4, "slots": 64, "count_steps": True,
    }  # fmt: skip
    side = Side("ours.py", counting)
    result = side.run()
    side.close()
    return [*rows, at_most(f"decode steps, {result['prompts']:,} prompts, 64 slots", result["steps"], 2000, "steps")]


def run_family(repeats: int, folder: Path) -> list[Row]:
    """A pretrained model of any family, `--base`, on a CPU: adapters on packed rows of 512, and greedy decoding."""
    base = folder / "base"
    vocab = json.loads((base / "config.json").read_text())["vocab_size"]
    case = {
        "model": {"compute_dtype": "float32", "head_chunk": 128, "vocab_size": vocab}, "weights": str(base),
        "peer_rows": 8, "rows": 4, "length": 512,
    }  # fmt: skip
    tuned = {**case, "kind": "train", "rank": 16}
    sides = take_turns({**tuned, "share": 0.15, "rows": 1}, 1, "cpu")
    rows = [at_most("adapters: difference of the first loss", difference(sides), 1e-4, "relative")]
    sides = take_turns({**tuned, "instances": 12}, repeats, "cpu")
    speeds = [side["useful"] / side["seconds"] for side in sides]
    name = "adapters, EcomInstruct lengths, packed against padded"
    rows.append(at_least(name, *speeds, speeds[0] / speeds[1], 1.5, "useful tokens / CPU s"))
    sides = take_turns({**case, "kind": "generate", "rows": 16, "length": 64, "new": 32}, repeats, "cpu")
    ours, peer = (side["tokens"] for side in sides)
    same = sum(a == b for a, b in zip(ours, peer, strict=True))
    rows.append(faster("greedy, batch 16, 64 + 32 tokens", sides, 1.5, "CPU s"))
    return [*rows, at_least("  answers that are equal", same, len(peer), same / len(peer), None, f"of {len(peer)}")]


def run_gpu(repeats: int, folder: Path) -> list[Row]:
    """One H200: cost of attention at each head dimension, training speed by size, and torch on equal shapes.

    The sides do not take turns: each may need most of the device's memory.
    """
    del folder
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.94"
    rows = []
    for head_dim, heads in ((64, 16), (80, 32), (96, 16), (128, 32)):
        case = {"kind": "attention", "heads": heads, "head_dim": head_dim, "rows": 64, "length": 1024}
        times = {}
        for way in ("cudnn without ALiBi", "cudnn", "xla"):
            (side,) = take_turns({**case, "way": way}, repeats, "wall", ("ours.py",))
            times[way] = 1e3 * side["seconds"]
        for way in ("cudnn", "xla"):
            plain, name = times["cudnn without ALiBi"], f"attention {way}, head_dim {head_dim}, forward and backward"
            rows.append(at_least(name, times[way], plain, plain / times[way], None, "ms"))
    speeds = {}
    for size, batch, remat, goal in (("560m", 32, "none", 175e3), ("1b7", 16, "none", 59e3), ("7b1", 8, "full", 13e3)):
        case = {
            "kind": "train", "model": {"size": size, "remat": remat}, "rows": batch, "length": 1024, "share": 0.15,
        }  # fmt: skip
        (side,) = take_turns(case, repeats, "wall", ("ours.py",))
        speeds[size] = side["useful"] / side["seconds"]
        rows.append(
            at_least(
                f"{size}, packed rows of 1024, 15% targets", speeds[size], goal, speeds[size] / goal, 1, "tokens / s"
            )
        )
    shape = {"vocab_size": 250_880, "hidden_size": 1024, "n_layer": 24, "n_head": 16}
    case = {"kind": "train", "model": {"size": "560m"}, "peer_shape": shape, "rows": 16, "length": 1024, "share": 0.15}
    for name, one, bar in (
        ("560m against torch, rows of 1024", case, 2.5),
        ("560m against torch, EcomInstruct's lengths", {**case, "instances": 150, "peer_rows": 16}, 5),
    ):
        sides = [take_turns(one, repeats, "wall", (script,))[0] for script in ("ours.py", "peer.py")]
        ours, peer = (side["useful"] / side["seconds"] for side in sides)
        rows.append(at_least(name, ours, peer, ours / peer, bar, "useful tokens / s"))
    for size in ("560m", "7b1"):
        case = {"kind": "head", "model": {"size": size}, "rows": 64, "length": 1024, "share": 0.15}
        (side,) = take_turns(case, 1, "wall", ("ours.py",))
        rows.append(at_most(f"{size}, temporaries of the loss, 64 rows", side["temporary_mib"], 4096, "MiB"))
    return rows


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


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value == 0 or abs(value) >= 100 else f"{value:.3g}"

    lines = ["| what | ours | peer | unit | ratio | bar | met |", "|---|---:|---:|---|---:|---:|---|"]
    for row in rows:
        bar = "" if row["bar"] is None else f"{row['sense']} {row['bar']:,g}"
        met = {None: "", True: "yes", False: "NO"}[row["met"]]
        figures = (number(row["ours"]), number(row["peer"]), row["unit"], number(row["ratio"]), bar, met)
        lines.append(f"| {row['name'].strip()} | {' | '.join(figures)} |")
    return "\n".join(lines)


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


def main() -> int:
    """Runs a suite; returns the exit code."""
    suites = {"cpu": run_cpu, "gpu": run_gpu, "decode": run_decode, "family": run_family}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=suites, required=True)
    parser.add_argument("--json", type=Path, help="JSON file for the rows, machine and date")
    parser.add_argument("--plot", type=Path, help="SVG file of the ratios")
    parser.add_argument("--base", type=Path, help="Hugging Face directory of --suite family")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each side")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if (options.suite == "family") != bool(options.base):
        parser.error("--base goes with --suite family, and it with --base")
    with tempfile.TemporaryDirectory() as folder:
        if options.base:
            (Path(folder) / "base").symlink_to(options.base.resolve(), target_is_directory=True)
        rows = suites[options.suite](options.repeats, Path(folder))
    print(table(rows))
    if options.json:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        result = {"suite": options.suite, "machine": machine(), "date": date, "repeats": options.repeats, "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot(rows), encoding="utf-8")
    return int(any(row["met"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
