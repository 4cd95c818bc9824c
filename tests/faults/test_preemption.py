"""SIGTERM: saved within two steps, exit code 75, and the run that goes on is the run that was."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from survivor import losses, run
from toy import toy_config

from ecomgpt_jax.errors import ConfigError, PreemptedError
from ecomgpt_jax.training import checkpoint

PROGRAM = Path(__file__).parent / "survivor.py"


def test_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(save_every=100)
    whole = run(tmp_path / "whole", config, devices=2)
    monkeypatch.setenv("ECOMGPT_FAULT", "term@step3")
    with pytest.raises(PreemptedError, match="start the same command again"):
        run(tmp_path / "stopped", config, devices=2)
    assert checkpoint.list_steps(tmp_path / "stopped") in ([3], [4])
    monkeypatch.delenv("ECOMGPT_FAULT")
    params = run(tmp_path / "stopped", config, devices=2)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(whole)))


def test_a_full_device_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_FAULT", "oom@step2")
    with pytest.raises(
        ConfigError,
        match=r"a device is out of memory \(this run takes about [\d.e-]+ GiB a device by arithmetic; "
        r"it asked for 12884901888 bytes more\); try model\.remat",
    ):
        run(tmp_path, devices=2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_processes(workdir: Path, cache: Path, fault: str = "") -> list[subprocess.CompletedProcess[str]]:
    """Runs both; the fault strikes the second alone."""
    port = free_port()
    base = {
        **os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=1",
        "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0", "PYTHONPATH": str(PROGRAM.parents[2]),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(workdir), "8", str(number), "2", str(port)],
            env={**base, "ECOMGPT_FAULT": fault if number else ""},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(started, ended, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path: Path, cache_folder: Path) -> None:
    stopped = two_processes(tmp_path / "stopped", cache_folder, "term@step5")
    assert [process.returncode for process in stopped] == [75, 75], [process.stderr[-2000:] for process in stopped]
    said = {process.stderr.strip().splitlines()[-1] for process in stopped}
    assert len(said) == 1
    assert re.search("saved at step [56];", said.pop())
    again = two_processes(tmp_path / "stopped", cache_folder)
    whole = two_processes(tmp_path / "whole", cache_folder)
    assert [process.returncode for process in again + whole] == [0] * 4, [p.stderr[-2000:] for p in again + whole]
    assert [process.stdout for process in again] == [process.stdout for process in whole]
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
