import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Command
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
KEYS = {
    "topology", "chips", "hbm_bytes_per_chip", "hbm_limit_bytes", "fits", "flops_per_step", "parameters",
    "compile_seconds",
}  # fmt: skip


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-m", "ecomgpt_jax.plan", "--config", "configs/bloomz_560m.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command() -> None:
    done = command("--topology", "h200:8", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) >= KEYS
    assert result["parameters"] == 559_214_592
    idle = command("--topology", "h200:8", "--largest")
    assert (idle.returncode, "--largest has no effect on a GPU" in idle.stderr) == (2, True)
    refused = command("--topology", "v5e-3")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: --topology='v5e-3'")
    assert refused.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def plan() -> Iterator[Command]:
    with Command("ecomgpt_jax.plan", os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}) as command:
        yield command


def test_the_shape_is_that_of_the_weights(plan: Command) -> None:
    there, absent, other = (
        plan("--config=configs/own_data.py", "--topology=h200", "--json", *settings)
        for settings in (
            ["--config.model.init_from=configs/nano"],
            ["--config.model.init_from=owner/name@main"],
            ["--config.model.init_from=configs/nano", "--config.model.size=560m"],
        )
    )
    held = sum(math.prod(shape) for shape in tensor_shapes(ROOT / "configs/nano/model.safetensors"))
    assert (there.returncode, there.stderr) == (0, "")
    assert json.loads(there.stdout)["parameters"] == held
    assert absent.returncode == 0
    assert json.loads(absent.stdout)["parameters"] < held / 4
    assert absent.stderr.count("\n") == 1
    assert "model.init_from=owner/name@main: no directory here, so the planned shape is" in absent.stderr
    assert (other.returncode, "model.size=560m means" in other.stderr) == (2, True)


def tensor_shapes(path: Path) -> list[list[int]]:
    with safe_open(path, "numpy") as file:
        return [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no dictionary
