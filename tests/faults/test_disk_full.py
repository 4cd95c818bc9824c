"""A full disk: older steps stay intact, the message says so, and with room again the run ends with the same state."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from survivor import losses, run
from toy import toy_config

from ecomgpt_jax.errors import StorageError
from ecomgpt_jax.model import manifest, step_files
from ecomgpt_jax.training import saving


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB; where none may be mounted, the test says that it did not run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["before writing", "while writing"])
def test_the_run_ends_with_its_steps_intact_and_goes_on(
    seen: str, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(max_steps=6, keep=2)
    whole = run(tmp_path / "whole", config, devices=2)
    if seen == "while writing":
        monkeypatch.setattr(saving, "free_bytes", lambda folder: float("inf"))
    ballast, log = small_disk / "ballast", step_files.list_steps

    def fill(*arguments: object) -> list[int]:  # after the second step has its name, all the room goes
        steps = log(*arguments)
        if steps and steps[-1] >= 2 and not ballast.exists():
            free = os.statvfs(small_disk)
            ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - 100_000)))
        return steps

    monkeypatch.setattr(saving, "list_steps", fill)
    words = r"no space: 0\.\d MiB needed" if seen == "before writing" else "(?i)no space left|enospc"
    with pytest.raises(StorageError, match=words):
        run(small_disk / "run", config, devices=2)
    monkeypatch.setattr(saving, "list_steps", log)
    steps = step_files.list_steps(small_disk / "run")
    assert steps == [1, 2]
    for step in steps:
        assert manifest.find_damage(epath.Path(small_disk / "run" / "checkpoints" / str(step))) == ""
    ballast.unlink()
    params = run(small_disk / "run", config, devices=2)
    assert losses(small_disk / "run") == losses(tmp_path / "whole")
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(whole)))
    assert sorted(path.name for path in (small_disk / "run" / "checkpoints").iterdir()) == ["5", "6"]
