#!/usr/bin/env python3
"""This project against Hugging Face's torch models: `scripts/benchmark.py --suite cpu|gpu|decode|family --json OUT`.

Each side runs in a separate process on the same inputs and, where they matter, the same weights; the sides alternate,
and medians are compared. On a CPU the cost is CPU seconds (user and system), which depend little on other load; on a
GPU it is wall seconds. Prints and writes one row per bar (a target) as it is measured, and exits with 0 only if every
bar is met; rows without a bar are informative. `--suite gpu` has parts, such as `gpu:train` (`benchmarks/gpu.py`).
`--plot OUT.svg` draws the ratios. Needs torch: `pip install -e .[torch]`.
"""

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from drive import Case, Row, Side, SideError, at_least, at_most, difference, faster, machine, plot, record, take_turns

GPU_SUITES = ("gpu", "gpu:attention", "gpu:train", "gpu:peer", "gpu:decode")

# The CPU suites' model and batch; the peer reads weights and shape from the folder that our side writes.
SMALL = {
    "size": "custom", "embed": 256, "layers": 4, "heads": 8, "vocab_size": 32_000, "compute_dtype": "float32",
    "head_chunk": 128,
}  # fmt: skip
BATCH = {"rows": 8, "length": 256}
COUNTER = SMALL | {"embed": 64, "layers": 1, "heads": 4, "vocab_size": 512}


def _write_weights(model: Case, folder: Path) -> None:
    Side("ours.py", {"kind": "weights", "model": model, "to": str(folder)}).close()


def run_cpu(repeats: int, folder: Path) -> Iterator[Row]:
    """Compares training on a CPU with torch, in CPU seconds."""
    _write_weights(SMALL, folder)
    case = {"kind": "train", "model": SMALL, "weights": str(folder / "random"), **BATCH}
    for share, chunk, bar in ((1.0, 256, 1.15), (0.15, 128, 1.8)):
        sides = take_turns({**case, "share": share, "model": SMALL | {"head_chunk": chunk}}, repeats, "cpu")
        peaks = [side["peak_mib"] for side in sides]
        yield faster(f"train step, {share:.0%} targets", sides, bar, "CPU s")
        yield at_most("  difference of its loss", difference(sides), 1e-5, "relative")
        yield at_least("  peak memory of the process", *peaks, peaks[1] / peaks[0], None, "MiB")
    sides = take_turns({**case, "kind": "head", "share": 0.15}, repeats, "cpu")
    memory = [max(side["temporary_mib"], 1e-9) for side in sides]
    yield faster("loss head alone, 15% targets", sides, 4.5, "CPU s")
    yield at_most("  difference of its loss", difference(sides), 1e-6, "relative")
    yield at_least("  its temporary memory", *memory, memory[1] / memory[0], 8, "MiB")
    sides = take_turns({**case, "instances": 240, "peer_rows": 8, "rows": 4, "length": 768}, repeats, "cpu")
    speeds = [side["useful"] / side["seconds"] for side in sides]
    name = "EcomInstruct lengths, packed against padded"
    yield at_least(name, *speeds, speeds[0] / speeds[1], 3, "useful tokens / CPU s")


def run_decode(repeats: int, folder: Path) -> Iterator[Row]:
    """Compares greedy decoding on a CPU with `generate`, in CPU seconds; all answers must be equal."""
    _write_weights(SMALL, folder)
    case = {"kind": "generate", "model": SMALL, "rows": 16}
    equal = {**case, "weights": str(folder / "random"), "length": 64, "new": 64}
    tasks = {**case, "weights": str(folder / "countdown"), "task_rows": 16, "slots": 64}
    for name, one, bar in (("greedy, batch 16, 64 + 64 tokens", equal, 2.1), ("the 12 tasks' lengths", tasks, 5)):
        sides = take_turns(one, repeats, "cpu")
        ours, peer = (side["tokens"] for side in sides)
        wrong = sum(a != b for a, b in zip(ours, peer, strict=True))
        yield faster(name, sides, bar, "CPU s")
        yield at_most("  answers that differ", wrong, 0, f"of {len(peer)}")
    _write_weights(COUNTER, folder / "counter")
    counting = {
        "kind": "generate", "model": COUNTER, "weights": str(folder / "counter" / "countdown"), "task_rows": 500,
        "shrink": 4, "slots": 64, "count_steps": True,
    }  # fmt: skip
    side = Side("ours.py", counting)
    result = side.run()
    side.close()
    yield at_most(f"decode steps, {result['prompts']:,} prompts, 64 slots", result["steps"], 1700, "steps")


def run_family(repeats: int, folder: Path) -> Iterator[Row]:
    """Compares a pretrained model, `--base`, on a CPU: adapters on packed rows of 512, and greedy decoding."""
    base = folder / "base"
    vocab = json.loads((base / "config.json").read_text())["vocab_size"]
    case = {
        "model": {"compute_dtype": "float32", "head_chunk": 128, "vocab_size": vocab}, "weights": str(base),
        "peer_rows": 8, "rows": 4, "length": 512,
    }  # fmt: skip
    tuned = {**case, "kind": "train", "rank": 16}
    sides = take_turns({**tuned, "share": 0.15, "rows": 1}, 1, "cpu")
    yield at_most("adapters: difference of the first loss", difference(sides), 1e-4, "relative")
    sides = take_turns({**tuned, "instances": 12}, repeats, "cpu")
    speeds = [side["useful"] / side["seconds"] for side in sides]
    name = "adapters, EcomInstruct lengths, packed against padded"
    yield at_least(name, *speeds, speeds[0] / speeds[1], 1.5, "useful tokens / CPU s")
    sides = take_turns({**case, "kind": "generate", "rows": 16, "length": 64, "new": 32}, repeats, "cpu")
    ours, peer = (side["tokens"] for side in sides)
    same = sum(a == b for a, b in zip(ours, peer, strict=True))
    yield faster("greedy, batch 16, 64 + 32 tokens", sides, 1.5, "CPU s")
    yield at_least("  answers that are equal", same, len(peer), same / len(peer), None, f"of {len(peer)}")


def run_gpu(part: str, fake_device: str, repeats: int) -> Iterator[Row]:
    """Runs a part of the suite for one GPU, or all of them in turn."""
    import gpu  # imports jax, which the other suites do only in their sides

    device = gpu.find_device(fake_device)
    for name in [part] if part else gpu.PARTS:
        yield from gpu.run(name, device, repeats, toy=bool(fake_device))


def main() -> int:
    """Runs a suite; returns the exit code."""
    on_cpu = {"cpu": run_cpu, "decode": run_decode, "family": run_family}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*on_cpu, *GPU_SUITES], required=True)
    parser.add_argument("--json", type=Path, help="JSON file for the rows, machine and date, written row by row")
    parser.add_argument("--plot", type=Path, help="SVG file of the ratios")
    parser.add_argument("--base", type=Path, help="Hugging Face directory of --suite family")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each side")
    parser.add_argument(
        "--fake_device",
        choices=("h100", "h200"),
        default="",
        help="toy sizes on the CPU, with this GPU's peaks",
    )
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if (options.suite == "family") != bool(options.base):
        parser.error("--base goes with --suite family, and it with --base")
    if options.fake_device and options.suite in on_cpu:
        parser.error("--fake_device goes with --suite gpu")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    facts = {"suite": options.suite, "machine": machine(), "date": date, "repeats": options.repeats}
    try:
        with tempfile.TemporaryDirectory() as folder:
            if options.base:
                (Path(folder) / "base").symlink_to(options.base.resolve(), target_is_directory=True)
            if options.suite in on_cpu:
                rows = on_cpu[options.suite](options.repeats, Path(folder))
            else:
                facts |= {"fake_device": options.fake_device} if options.fake_device else {}
                rows = run_gpu(options.suite.partition(":")[2], options.fake_device, options.repeats)
            rows = record(rows, facts, options.json)
    except SideError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.plot:
        options.plot.write_text(plot(rows), encoding="utf-8")
    return int(any(row["met"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
