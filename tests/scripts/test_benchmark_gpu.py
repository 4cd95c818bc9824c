"""The parts of `scripts/benchmark.py --suite gpu` where there is no GPU."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xla_flags import fake_devices

BENCHMARKS = Path(__file__).parents[2] / "scripts" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

gpu, ours, drive = map(importlib.import_module, ("gpu", "ours", "drive"))
H100, H200 = gpu.DEVICES.values()

# The sides run in the process of the driver, which has none of the packages that a bare machine lacks.
ALL_PARTS = """
import importlib, json, sys
for name in ("grain", "tensorflow_datasets", "ml_collections", "array_record", "orbax"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import benchmark, drive, gpu, work

class Side:
    def __init__(self, script, case, limit):
        kinds = importlib.import_module(script.removesuffix(".py")).KINDS
        run, self.facts = kinds[case["kind"]](json.loads(json.dumps(case)))
        self.run = lambda: json.loads(json.dumps(work.measured(run)))

    def close(self):
        pass

drive.Side, every, folder = Side, list(gpu.attention(None)), sys.argv[2]
gpu.PARTS["attention"] = lambda device: every[3:]  # the widest head
for part in gpu.PARTS:
    sys.argv = ["benchmark.py", "--suite", f"gpu:{part}", "--fake_device", "h200", "--repeats", "1"]
    sys.argv += ["--json", f"{folder}/{part}.json"]
    print(part, benchmark.main())
"""


@pytest.mark.slow
def test_every_part_at_toy_size(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-c", ALL_PARTS, str(BENCHMARKS.parent), str(tmp_path)]
    subprocess.run(command, env=os.environ | {"XLA_FLAGS": fake_devices(1)}, check=True)
    parts = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in gpu.PARTS}
    assert all(part["complete"] and part["fake_device"] == "h200" for part in parts.values())
    rows = {part: written["rows"] for part, written in parts.items()}
    assert [row for made in rows.values() for row in made if "note" in row] == []
    assert {part: len(made) for part, made in rows.items()} == {"attention": 6, "train": 10, "peer": 2, "decode": 6}
    errors = [row for row in rows["attention"] if "error" in row["name"]]
    assert len(errors) == 4
    assert all(row["met"] for row in errors)
    assert [row["peer"] for row in rows["train"][:8]] == [175e3, 989, 59e3, 989, 13e3, 989, 13e3, 989]
    assert [row["bar"] for row in rows["peer"]] == [2.5, 5]
    assert [rows["decode"][i]["peer"] for i in (0, 3)] == [4.8, 4.8]
    assert all(row["ours"] > 0 for part in ("train", "peer", "decode") for row in rows[part] if row["sense"] == ">=")


@pytest.mark.parametrize("device", [H100, H200])
def test_each_part_is_planned_to_end_in_six_minutes(device: Any) -> None:
    for part, jobs in gpu.PARTS.items():
        seconds = [gpu.planned_seconds(job, 3) for job in jobs(device) if gpu.fits(job.case, device)]
        assert 60 < sum(seconds) < gpu.BUDGET, part
        assert min(seconds) > 20


def test_a_part_goes_on_after_a_case_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def fail(case: dict, repeats: int, clock: str, scripts: tuple[str, ...], limit: float) -> list[dict]:
        limits.append(limit)
        raise drive.SideError("out of memory")

    monkeypatch.setattr(gpu, "take_turns", fail)
    rows = {device.name: list(gpu.run("train", device, 3)) for device in (H100, H200)}
    assert [row["note"] for row in rows["h200"]] == ["failed: out of memory"] * 6
    assert all(row["met"] is False for row in rows["h200"])
    (left_out,) = (row for row in rows["h100"] if row["met"] is None)
    assert left_out["name"].startswith("7b1, first moment")
    assert left_out["note"] == "left out: needs 119 GiB, 74 of the device's 79 are used"
    assert len(limits) == 11
    assert all(40 < limit < gpu.BUDGET for limit in limits)


def test_a_part_stops_at_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limits = [0.0], []

    def hang(case: dict, repeats: int, of: str, scripts: tuple[str, ...], limit: float) -> list[dict]:
        limits.append(limit)
        clock[0] += limit
        raise drive.SideError("killed")

    monkeypatch.setattr(gpu, "take_turns", hang)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    list(gpu.run("train", H200, 3))
    assert clock[0] <= gpu.BUDGET + len(limits)


@pytest.mark.parametrize(
    ("answer", "message"),
    [("echo NVIDIA A100-SXM4-80GB", "supports NVIDIA H100 80GB HBM3 and NVIDIA H200, and this is NVIDIA A100"),
     ("exit 9", "needs a GPU and its driver"), ("true", "and this is no GPU")],
)  # fmt: skip
def test_another_device(answer: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{answer}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(drive.SideError, match=message):
        gpu.find_device("")
    smi.write_text("#!/bin/sh\necho NVIDIA H200\n")
    for name in ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "")  # is put back afterwards
    assert gpu.find_device("") is H200


def test_toy_cases_differ_in_sizes_alone() -> None:
    for jobs in gpu.PARTS.values():
        for job in jobs(H200):
            toy = gpu.shrunk(job.case)
            assert toy.keys() == job.case.keys()
            changed = {name for name in toy if toy[name] != job.case[name]}
            assert changed <= {
                "rows", "length", "heads", "instances", "peer_rows", "new", "steps", "rank", "calls", "model",
            }  # fmt: skip
            assert toy.get("model", {}).get("remat") == job.case.get("model", {}).get("remat")


def test_exact_attention_is_that_of_the_reference() -> None:
    import jax
    import jax.numpy as jnp

    from ecomgpt_jax.model import attention

    random, segments = np.random.default_rng(0), np.array([1] * 5 + [2] * 7)
    q, k, v = random.standard_normal((3, 12, 2, 8)).astype(np.float32)
    slopes = attention.alibi_slopes(2)

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = (x[None] for x in (q, k, v))
        context = attention.attend(*rows, jnp.asarray(segments)[None], "reference", slopes=slopes)[0]
        return jnp.sum(context**2), context

    gradients, context = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    exact = ours.exact_attention(q, k, v, segments, slopes)
    for made, wanted in zip((context, *gradients), exact, strict=True):
        np.testing.assert_allclose(made, wanted, atol=1e-5)
    without = ours.exact_attention(q, k, v, segments, 0 * slopes)
    assert np.abs(without[0] - context).max() > gpu._OUTPUT_ERROR
