"""SIGTERM: saved within two steps, exit code 75, and the resumed run gives the same result.

Nothing here waits: the signal is raised inside a given step, and where it is seen follows from the order of the loop.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from survivor import losses, run
from toy import toy_config
from xla_flags import fake_devices

from ecomgpt_jax.errors import ConfigError, PreemptedError
from ecomgpt_jax.model import step_files
from ecomgpt_jax.training import loop, saving

PROGRAM = Path(__file__).parent / "survivor.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, jax.tree.leaves(run(workdir, toy_config(save_every=100), devices=2))


def test_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, list[np.ndarray]]) -> None:
    config = toy_config(save_every=100)
    monkeypatch.setenv("ECOMGPT_FAULT", "term@step3")
    with pytest.raises(PreemptedError, match=r"saved at step 3; start the same command again"):
        run(tmp_path / "stopped", config, devices=2)
    assert step_files.list_steps(tmp_path / "stopped") == [3]
    monkeypatch.delenv("ECOMGPT_FAULT")
    params = run(tmp_path / "stopped", config, devices=2)
    assert losses(tmp_path / "stopped") == losses(whole[0])
    assert all(map(np.array_equal, jax.tree.leaves(params), whole[1]))


@pytest.mark.parametrize(
    ("reading", "saved"), [(1, 2), (2, 3), (3, 4)], ids=["as the first ends", "as the second ends", "as the third ends"]
)
def test_while_the_host_waits_for_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: int, saved: int
) -> None:
    """The step after the one that ends runs already; it is the last."""
    read, count = jax.device_get, itertools.count(1)

    def device_get(metrics: object) -> object:
        if next(count) == reading:
            signal.raise_signal(signal.SIGTERM)
        return read(metrics)

    monkeypatch.setattr(loop.jax, "device_get", device_get)
    with pytest.raises(PreemptedError, match=f"saved at step {saved};"):
        run(tmp_path, toy_config(save_every=100), devices=2)
    assert step_files.list_steps(tmp_path) == [saved]


def test_during_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(max_steps=2)
    monkeypatch.setattr(saving.Checkpoints, "wait", lambda self: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(PreemptedError, match="saved at step 2;"):
        run(tmp_path, config, devices=2)


def test_a_full_device_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_FAULT", "oom@step2")
    with pytest.raises(
        ConfigError,
        match=r"a device is out of memory \(this run takes about [\d.e-]+ GiB per device by arithmetic, by stage: "
        r"[^;]+; it asked for 12884901888 bytes more\); try .*model\.remat",
    ):
        run(tmp_path, devices=2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_processes(workdir: Path, fault: str = "") -> list[subprocess.CompletedProcess[str]]:
    """Runs both; the fault is injected into the second alone."""
    port = free_port()
    base = {
        **os.environ, "XLA_FLAGS": fake_devices(1),
        "PYTHONPATH": str(PROGRAM.parents[2]),
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
        ended = [process.communicate(timeout=1800) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(started, ended, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    stopped = two_processes(tmp_path / "stopped", "term@step5")
    assert [process.returncode for process in stopped] == [75, 75], [process.stderr[-2000:] for process in stopped]
    said = {process.stderr.strip().splitlines()[-1] for process in stopped}
    assert len(said) == 1
    assert "saved at step 6;" in said.pop(), "raised in step 5, voted after it, read by both after step 6"
    again = two_processes(tmp_path / "stopped")
    whole = two_processes(tmp_path / "whole")
    assert [process.returncode for process in again + whole] == [0] * 4, [p.stderr[-2000:] for p in again + whole]
    assert [process.stdout for process in again] == [process.stdout for process in whole]
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
