"""The suite for one H100 or H200, in parts that end within six minutes each, compilation included.

Every case has a separate process for each side, one after the other, because each may need most of the device's memory.
A case that does not fit into memory is left out; one that fails, or takes twice as long as planned, is ended. Its row
states this, and the part continues.

The planned time of a case is the time to start its processes and to compile its programs (`_START`, `_COMPILE`:
estimates, since no GPU has been measured) and its turns at the speed of its goal; see `planned_seconds`.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from drive import Case, Row, SideError, at_least, at_most, take_turns, without_figure
from jax.sharding import AbstractMesh, AxisType
from ours import config_of

from ecomgpt_jax.config import MODEL_SHAPES
from ecomgpt_jax.model.parameters import flops_per_token
from ecomgpt_jax.parallel.mesh import AXES
from ecomgpt_jax.parallel.topology import CHIPS
from ecomgpt_jax.training import memory

jax.config.update("jax_platforms", "cpu")  # this process does not use the GPU

BUDGET = 360  # seconds of a part
_MEMORY_SHARE = 0.94  # fraction of the device's memory for a side
_PATIENCE = 2  # maximum time of a case relative to its planned seconds
_START = {"ours.py": 15, "peer.py": 20}
_COMPILE = {"attention": 25, "train": 45, "head": 15, "decode": 75}
_LENGTH, _SHARE, _STEPS = 1024, 0.15, 3  # training rows: tokens, share of targets; steps per turn
# Useful tokens/s on one H200; the goal of another device is the same share of its peak.
_GOALS = {"560m": 175e3, "1b7": 59e3, "7b1": 13e3}
_OUTPUT_ERROR = 2**-5  # two roundings to bfloat16 of a value below 8
_TORCH_ROW_BYTES, _TORCH_STATE_BYTES = 8.1e9, 9e9  # 560m at 1024 tokens: logits and scores are whole; weights and Adam


class Device(NamedTuple):
    """Nominal properties of a GPU (data sheets of the SXM modules): bfloat16 FLOP/s, bytes/s of its memory, bytes."""

    name: str
    peak_flops: float
    bandwidth: float
    memory: int


DEVICES = {
    "NVIDIA H100 80GB HBM3": Device("h100", CHIPS["h100"].peak_flops, 3.35e12, CHIPS["h100"].hbm_bytes),
    "NVIDIA H200": Device("h200", CHIPS["h200"].peak_flops, 4.8e12, CHIPS["h200"].hbm_bytes),
}


class Job(NamedTuple):
    """A case, its sides, the planned seconds of a turn of all sides, and a function from their results to rows."""

    name: str
    case: Case
    turn: float
    rows: Callable[[list[Case]], Iterator[Row]]
    scripts: tuple[str, ...] = ("ours.py",)
    clock: str = "wall"


def find_device(fake: str) -> Device:
    """Returns the first GPU of this machine, or the one named `fake`; the sides can then use only that GPU, or none.

    Raises:
      SideError: there is no GPU, or its peaks are not known.
    """
    if fake:
        os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return next(device for device in DEVICES.values() if device.name == fake)
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SideError(f"--suite gpu needs a GPU and its driver: {error}; --fake_device tries it without") from error
    if not names or names[0] not in DEVICES:
        raise SideError(f"--suite gpu supports {' and '.join(DEVICES)}, and this is {(names or ['no GPU'])[0]}")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(_MEMORY_SHARE)
    return DEVICES[names[0]]


def attention(device: Device) -> Iterator[Job]:
    """Measures fused attention at head dimensions of 560m, 3b, 1b1 and 1b7: cost of ALiBi, errors against float64."""
    del device

    def rows(sides: list[Case]) -> Iterator[Row]:
        (side,) = sides
        what = f"head_dim {side['head_dim']}"
        for way, error in side["failed"].items():
            yield without_figure(f"attention {way}, {what}", f"failed: {error}", met=False)
        times = {way: statistics.median(turn[way] for turn in side["turns"]) for way in side["errors"]}
        plain = times.pop("cudnn without ALiBi", None)
        for way, ms in times.items():
            ratio = plain and plain / ms
            yield at_least(f"attention {way}, {what}, forward and backward", ms, plain, ratio, None, "ms")
            output, gradients = side["errors"][way]
            yield at_most(f"  error of its output against float64, {way}, {what}", output, _OUTPUT_ERROR, "absolute")
            yield at_most(f"  error of its gradients, {way}, {what}", gradients, 2e-2, "of the largest")

    for head_dim, heads in ((64, 16), (80, 32), (96, 16), (128, 32)):
        case = {"kind": "attention", "heads": heads, "head_dim": head_dim, "rows": 64, "length": _LENGTH, "calls": 10}
        yield Job(f"attention, head_dim {head_dim}", case, 1, rows)


def train(device: Device) -> Iterator[Job]:
    """Measures training speed by size, and the memory of the loss besides its results."""
    for name, size, settings, more in (
        ("560m", "560m", {"rows": 32}, {}),
        ("1b7", "1b7", {"rows": 16}, {}),
        ("7b1, adapters of rank 16", "7b1", {"rows": 8, "rank": 16}, {}),
        ("7b1, first moment in bfloat16", "7b1", {"rows": 8, "moment_dtype": "bfloat16"}, {"remat": "full"}),
    ):
        case = {"kind": "train", "model": _model(size) | more, **_batch(), **settings}
        goal = _GOALS[size] * device.peak_flops / CHIPS["h200"].peak_flops
        name = f"{name}, rows of {_LENGTH}, {_SHARE:.0%} targets"

        def rows(sides: list[Case], name: str = name, goal: float = goal) -> Iterator[Row]:
            (side,) = sides
            speed = side["useful"] / side["seconds"]
            yield at_least(name, speed, goal, speed / goal, 1, "useful tokens / s")
            # Frozen weights have no gradients of their own: two thirds of the products.
            flops = flops_per_token(config_of(side).model, side["length"], _SHARE) * (2 / 3 if "rank" in side else 1)
            reached, peak = speed * flops / 1e12, device.peak_flops / 1e12
            yield at_least("  its FLOP/s against the peak", reached, peak, reached / peak, None, "TFLOP/s")

        yield Job(name, case, _STEPS * case["rows"] * _LENGTH / goal, rows)
    for size in ("560m", "7b1"):
        case = {"kind": "head", "model": _model(size), "rows": 64, "length": _LENGTH, "share": _SHARE}

        def temporaries(sides: list[Case], size: str = size) -> Iterator[Row]:
            yield at_most(f"{size}, temporaries of the loss, 64 rows", sides[0]["temporary_mib"], 4096, "MiB")

        yield Job(f"{size}, temporaries of the loss", case, 0.5, temporaries)


def peer(device: Device) -> Iterator[Job]:
    """Compares 560m with torch, where BLOOM runs eagerly: equal shapes, and packed rows against padded batches."""
    fits = int((0.7 * device.memory - _TORCH_STATE_BYTES) // _TORCH_ROW_BYTES)
    peer_rows = 2 ** (fits.bit_length() - 1)
    case = {"kind": "train", "model": _model("560m"), **_batch()}
    for name, settings, tokens, bar in (
        (f"560m against torch, {peer_rows} rows of {_LENGTH}", {"rows": peer_rows}, _STEPS * peer_rows * _LENGTH, 2.5),
        (
            f"560m against torch, EcomInstruct's lengths, torch with {peer_rows} per batch",
            {"instances": 150, "rows": 16, "peer_rows": peer_rows, "steps": 1}, 2 * 16 * _LENGTH, 5,
        ),
    ):  # fmt: skip

        def rows(sides: list[Case], name: str = name, bar: float = bar) -> Iterator[Row]:
            ours, peer = (side["useful"] / side["seconds"] for side in sides)
            yield at_least(name, ours, peer, ours / peer, bar, "useful tokens / s")

        goal = _GOALS["560m"]
        yield Job(name, {**case, **settings}, tokens / goal * (1 + 2 * bar), rows, ("ours.py", "peer.py"))


def decode(device: Device) -> Iterator[Job]:
    """Measures greedy decoding in bfloat16: the share of the memory bandwidth that its steps reach."""
    for size in ("560m", "7b1"):
        case = {"kind": "decode", "model": _model(size), "rows": 128, "length": 192, "new": 64}
        name = f"{size}, greedy, 128 rows, 192 + 64 tokens"

        def rows(sides: list[Case], name: str = name) -> Iterator[Row]:
            (side,) = sides
            reached, nominal = side["step_bytes"] * side["steps"] / side["seconds"] / 1e12, device.bandwidth / 1e12
            yield at_least(f"{name}: bytes a step needs", reached, nominal, reached / nominal, 0.45, "TB/s")
            speed = side["rows"] * side["steps"] / side["seconds"]
            yield at_least("  its new tokens against those at the bandwidth", speed, speed * nominal / reached,
                           reached / nominal, None, "tokens / s")  # fmt: skip
            seconds = statistics.median(turn["prefill"] for turn in side["turns"])
            speed, peak = side["prefill_flops"] / seconds / 1e12, device.peak_flops / 1e12
            yield at_least("  FLOP/s of its prefill against the peak", speed, peak, speed / peak, None, "TFLOP/s")

        yield Job(name, case, 4, rows, clock="decode")


PARTS = {"attention": attention, "train": train, "peer": peer, "decode": decode}


def _model(size: str) -> dict[str, Any]:
    return {"size": size, "vocab_size": 250_880, **MODEL_SHAPES[size]}


def _batch() -> Case:
    return {"length": _LENGTH, "share": _SHARE, "steps": _STEPS}


def planned_seconds(job: Job, repeats: int) -> float:
    """Returns the seconds that a job should take."""
    compiling = _COMPILE[job.case["kind"]]  # only our side
    return sum(_START[script] for script in job.scripts) + compiling + (1 + repeats) * job.turn


def needed_bytes(case: Case) -> int:
    """Returns the device memory that a training case needs, by arithmetic; 0 for others, which need little."""
    if case["kind"] != "train":
        return 0
    mesh = AbstractMesh((1,) * len(AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    return memory.estimated_bytes(config_of(case), mesh)


def fits(case: Case, device: Device) -> bool:
    """Returns whether a case fits into the device's memory, by arithmetic."""
    return needed_bytes(case) <= _MEMORY_SHARE * device.memory


def shrunk(case: Case) -> Case:
    """Returns a case with toy sizes and otherwise unchanged."""
    toy = {
        "rows": 2, "length": 128, "heads": 2, "instances": 6, "peer_rows": 2, "new": 4, "steps": 1, "rank": 2,
        "calls": 1,
    }  # fmt: skip
    small = {name: min(value, toy[name]) if name in toy else value for name, value in case.items()}
    if "model" in case:
        shape = {"size": "custom", "embed": 64, "layers": 2, "heads": 4, "vocab_size": 512, "head_chunk": 16}
        small["model"] = case["model"] | shape
    return small


def run(part: str, device: Device, repeats: int, *, toy: bool = False) -> Iterator[Row]:
    """Runs a part, on request at toy sizes; yields its rows as they are measured."""
    end = time.monotonic() + BUDGET
    for job in PARTS[part](device):
        if not fits(job.case, device):
            needed, all_of_it = needed_bytes(job.case) / 2**30, device.memory / 2**30
            used = f"{_MEMORY_SHARE * all_of_it:.0f} of the device's {all_of_it:.0f} are used"
            yield without_figure(job.name, f"left out: needs {needed:.0f} GiB, {used}", met=None)
            continue
        case = shrunk(job.case) if toy else job.case
        planned, sides = planned_seconds(job, repeats), []
        try:
            for script in job.scripts:
                limit = max(1.0, min(end - time.monotonic(), _PATIENCE * planned))
                sides += take_turns(case, repeats, job.clock, (script,), limit)
        except SideError as error:
            yield without_figure(job.name, f"failed: {error}", met=False)
        else:
            yield from job.rows([case | side for side in sides])
