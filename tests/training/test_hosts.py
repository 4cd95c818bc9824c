"""Two processes with up to four devices each, on meshes of which every axis spans both, against one device.

`hosts.py` is what the processes run. A pair does all its jobs in one life, so that it starts and joins once.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import hosts
import jax
import numpy as np
import pytest
from etils import epath
from xla_flags import fake_devices

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.model import step_files
from ecomgpt_jax.model.hf_weights import load_hf
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import checkpoint
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.progress import read_metrics
from ecomgpt_jax.training.train_step import abstract_state

Mesh = tuple[int, int, int]
FOUR = [(1, 1, 4), (1, 4, 1), (4, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)]
EIGHT = [(1, 1, 8), (1, 2, 4), (2, 1, 4), (2, 2, 2)]
REST = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 2, 1), (4, 1, 2), (1, 4, 2)]  # fed, and not trained on
VALIDATED = [(1, 1, 4), (2, 1, 2), (1, 2, 4)]  # of those trained on, where the loss of held-back rows is taken too
# A TPU's mesh does not follow the order of its hosts: here every second device is the other process's, and worse.
MIXED = [((4, 1, 1), (0, 2, 1, 3)), ((2, 1, 2), (0, 2, 3, 1)), ((1, 4, 2), (0, 4, 1, 6, 5, 2, 7, 3))]
LIMIT = 1800  # seconds for a pair; one whose processes wait for each other must not hold up the suite for ever


def start_pair(folder: Path, jobs: list[dict[str, Any]]) -> list[subprocess.Popen]:
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = str(listening.getsockname()[1])
    env = {**os.environ, "XLA_FLAGS": fake_devices(hosts.DEVICES), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, hosts.__file__, port]
    return [
        subprocess.Popen(
            [*command, str(i), str(folder), json.dumps(jobs)], env=env, stdout=(folder / f"log-{i}").open("w"),
            stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]  # fmt: skip


def finish(pair: list[subprocess.Popen]) -> None:
    """Waits for both, or ends them; a job without a result fails its own test."""
    try:
        for process in pair:
            process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in pair:
            process.kill()
            process.wait()


def results(folder: Path, name: str) -> list[dict[str, Any]]:
    """What the job returned in each process."""
    files = [folder / f"{name}-{i}.json" for i in range(2)]
    logs = "".join((folder / f"log-{i}").read_text()[-2000:] for i in range(2))
    assert all(file.exists() for file in files), f"{name} has no result: {logs}"
    found = [json.loads(file.read_text()) for file in files]
    assert not any("error" in result for result in found), found
    return found


def name_of(*parts: object) -> str:
    return "-".join(str(part) for part in parts).replace(" ", "")


# What each process feeds: seconds, nothing is compiled.


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fed")
    jobs = [(mesh, ()) for mesh in FOUR + EIGHT + REST] + MIXED
    finish(
        start_pair(folder, [{"name": name_of(*job), "kind": "feed", "mesh": job[0], "order": job[1]} for job in jobs])
    )
    return folder


@pytest.mark.parametrize(("mesh", "order"), [*((mesh, ()) for mesh in FOUR + EIGHT + REST), *MIXED], ids=str)
def test_each_process_reads_the_rows_its_devices_hold(mesh: Mesh, order: tuple[int, ...], fed: Path) -> None:
    found = results(fed, name_of(mesh, order))
    held = [set(result["held"]) for result in found]
    for result in found:
        assert result["wrong_rows"] == [0, 0]
        steps = [step * hosts.ROWS + row for step in (1, 2) for row in result["held"]]
        assert result["read"] == sorted(steps)  # and no other row
    assert held[0] | held[1] == set(range(hosts.ROWS))
    if not order:  # a process reads half of the rows; all of them where only `tensor` spans both
        assert [len(rows) for rows in held] == [hosts.ROWS // min(2, mesh[0] * mesh[1])] * 2


# Training, decoding and saving: minutes.

SAVING = (1, 2, 2)  # mesh of the jobs that are not about the mesh
JOBS = [
    *({"name": name_of(mesh), "kind": "train", "mesh": mesh, "workdir": name_of(mesh), "save_every": 9,
       "validate_every": int(mesh in VALIDATED)} for mesh in FOUR + EIGHT),
    {"name": "skew", "kind": "train", "mesh": SAVING, "workdir": "skew", "skew": True, "save_every": 9,
     "validate_every": 0},
    {"name": "best", "kind": "train", "mesh": SAVING, "workdir": "best", "keep": 1,
     "best_metric": "train/learning_rate", "validate_every": 0},
    {"name": "resumed", "kind": "train", "mesh": (1, 1, 4), "workdir": "killed", "validate_every": 0},
    {"name": "moved", "kind": "train", "mesh": SAVING, "workdir": "moved", "validate_every": 0},
    {"name": "full", "kind": "fail", "mesh": SAVING, "workdir": "full", "faults": "full@save1,full@save2,full@save3",
     "of": [0]},
    {"name": "nan", "kind": "fail", "mesh": SAVING, "workdir": "nan", "faults": "nan@step2", "of": [0, 1],
     "skip_nonfinite": 0},
    {"name": "decode", "kind": "decode", "mesh": SAVING},
]  # fmt: skip


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on (1, 1, 4) of which process 1 was killed before its third step, and so ended process 0."""
    folder = tmp_path_factory.mktemp("killed")
    job = {"name": "killed", "kind": "fail", "mesh": (1, 1, 4), "workdir": "killed", "faults": "kill@step3", "of": [1]}
    pair = start_pair(folder, [job])
    assert pair[1].wait(LIMIT) == -signal.SIGKILL
    pair[0].kill()
    pair[0].wait()
    return folder / "killed"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, killed: Path) -> Path:
    folder = tmp_path_factory.mktemp("done")
    for name in ("killed", "moved"):
        subprocess.run(["cp", "-r", killed, folder / name], check=True)
    finish(start_pair(folder, JOBS))
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one device of this process."""
    workdir = tmp_path_factory.mktemp("alone")
    hosts.reference(workdir)
    return workdir


def lines(workdir: Path, name: str) -> list[float]:
    """A metric of every step, in order."""
    found = read_metrics(workdir / "metrics.jsonl")
    assert [line["step"] for line in found] == list(range(1, hosts.STEPS + 1))
    return [line[name] for line in found]


def distance(workdir: Path, alone: Path) -> float:
    """Largest difference between the saved states of the last step, as a share of the largest value of each array."""
    config, mesh = hosts.config_of((1, 1, 1)), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    target = abstract_state(config, make_optimizer(config.optimizer, hosts.STEPS), mesh)
    states = [
        checkpoint.restore(epath.Path(folder) / "checkpoints" / str(hosts.STEPS), target) for folder in (workdir, alone)
    ]
    pairs = zip(*(map(np.asarray, jax.tree.leaves(state)) for state in states), strict=True)
    return max(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30) for ours, theirs in pairs)


def assert_equal_runs(workdir: Path, alone: Path) -> None:
    np.testing.assert_allclose(lines(workdir, "train/loss"), lines(alone, "train/loss"), rtol=1e-5)
    for name in ("train/targets", "train/tokens"):
        assert lines(workdir, name) == lines(alone, name)
    assert distance(workdir, alone) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("mesh", FOUR + EIGHT, ids=str)
def test_two_processes_train_as_one_device(mesh: Mesh, done: Path, alone: Path) -> None:
    for result in results(done, name_of(mesh)):
        assert result["wrong_rows"] == [0] * hosts.STEPS
    assert_equal_runs(done / name_of(mesh), alone)
    last = [read_metrics(folder / "metrics.jsonl")[-1] for folder in (done / name_of(mesh), alone)]
    ours, theirs = ({name: value for name, value in line.items() if name.startswith("val/")} for line in last)
    assert len(theirs) == 5
    assert ours == pytest.approx(theirs if mesh in VALIDATED else {}, rel=1e-5)


@pytest.mark.slow
def test_a_process_that_feeds_other_rows_is_seen(done: Path, alone: Path) -> None:
    """The negative control of the one above."""
    wrong = [result["wrong_rows"] for result in results(done, "skew")]
    assert not any(wrong[0])
    assert all(wrong[1])
    assert distance(done / "skew", alone) > 1e-3
    assert abs(lines(done / "skew", "train/loss")[0] / lines(alone, "train/loss")[0] - 1) > 1e-4


@pytest.mark.slow
def test_the_best_step_is_kept_by_two_processes(done: Path, alone: Path) -> None:
    rates = lines(done / "best", "train/learning_rate")
    assert results(done, "best")
    best = 1 + int(np.argmax(rates))
    assert best < hosts.STEPS
    assert sorted(path.name for path in (done / "best" / "checkpoints").iterdir()) == [str(best), str(hosts.STEPS)]
    assert_equal_runs(done / "best", alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resumed", "moved"])
def test_a_killed_run_goes_on(name: str, killed: Path, done: Path, alone: Path) -> None:
    """On its own mesh, and on another."""
    assert max(step_files.list_steps(killed)) in (1, 2)
    for result in results(done, name):
        assert 1 <= len(result["wrong_rows"]) < hosts.STEPS  # it did not begin again
        assert not any(result["wrong_rows"])
    assert_equal_runs(done / ("killed" if name == "resumed" else name), alone)


@pytest.mark.slow
def test_saves_that_fail_in_one_process_end_both(done: Path) -> None:
    found = results(done, "full")
    assert [result["raised"] for result in found] == ["StorageError"] * 2
    assert "no space left on the disk" in found[0]["text"]
    assert "another process failed to save" in found[1]["text"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_both(done: Path) -> None:
    assert [result["raised"] for result in results(done, "nan")] == ["NotFiniteError"] * 2
    dumped = np.load(done / "nan" / "bad_batch-2.npz")
    np.testing.assert_array_equal(dumped["rows"], np.arange(hosts.ROWS, 2 * hosts.ROWS))


@pytest.mark.slow
def test_two_processes_decode_and_export_as_one_device(done: Path, tmp_path: Path) -> None:
    found, expected = results(done, "decode"), hosts.decode(tmp_path, (1, 1, 1), alone=True)
    assert found[0]["tokens"] == found[1]["tokens"] == expected["tokens"]
    for result in found:
        assert result["hash"] == expected["hash"]
        np.testing.assert_allclose(result["scores"], expected["scores"], rtol=1e-5)
    mesh, model = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), hosts.config_of((1, 1, 1)).model
    ours, theirs = (jax.tree.leaves(load_hf(folder, model, mesh)) for folder in (done / "hf", tmp_path / "hf-alone"))
    assert all(map(np.array_equal, ours, theirs))
