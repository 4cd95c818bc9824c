import json
import os
import subprocess
import sys
from pathlib import Path

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
