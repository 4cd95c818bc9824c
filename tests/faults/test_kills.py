"""SIGKILL at random moments: the final state is that of an undisturbed run, and no files are left over."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from survivor import losses, run, saved_state
from toy import toy_config
from xla_flags import fake_devices

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    ("kills", "steps"), [pytest.param(20, 48, marks=pytest.mark.slow), pytest.param(100, 240, marks=pytest.mark.soak)]
)
def test_killed_at_random(kills: int, steps: int, tmp_path: Path) -> None:
    folder = Path(__file__).parent
    environment = {
        **os.environ, "XLA_FLAGS": fake_devices(1),
        "PYTHONPATH": f"{folder.parents[1]}:{folder}",
    }  # fmt: skip
    arguments = [sys.executable, str(folder / "killer.py"), str(tmp_path / "killed"), str(steps), str(kills)]
    killed = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert (killed.returncode, killed.stdout.splitlines()[-1:]) == (0, [f"kills {kills}"]), killed.stderr[-2000:]
    config = toy_config(max_steps=steps)
    run(tmp_path / "whole", config, instances=max(400, 7 * steps), devices=1)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    states = [saved_state(tmp_path / name, steps, config, mesh) for name in ("killed", "whole")]
    assert len(states[0]) > 30
    assert all(map(np.array_equal, *states))
    kept = [str(step) for step in range(steps - config.train.keep + 1, steps + 1)]
    assert sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()) == sorted(kept)
    assert not (tmp_path / "killed" / "quarantine").exists()
