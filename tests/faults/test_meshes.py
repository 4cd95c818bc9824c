"""Five changes of mesh in the middle of a run: the same parameters, and the losses that follow to 1e-5."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from survivor import losses, run, saved_state
from toy import toy_config

from ecomgpt_jax.config import Config, MeshConfig
from ecomgpt_jax.parallel.mesh import make_mesh

MESHES = [(4, 1, 1), (1, 1, 1), (1, 4, 2), (2, 2, 2), (1, 1, 4)]


def config(mesh: tuple[int, int, int]) -> Config:
    """Eight rows per step on any mesh, at a rate that does not magnify rounding."""
    settings = toy_config(max_steps=8, save_every=3, rows_per_device=8 // (mesh[0] * mesh[1]), accumulation=1, keep=9)
    settings.mesh, settings.optimizer.learning_rate = MeshConfig(*mesh), 1e-3
    return settings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    run(workdir, config((8, 1, 1)), instances=120, devices=8)
    for step in ("6", "8"):
        shutil.rmtree(workdir / "checkpoints" / step)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_the_run_goes_on_elsewhere(mesh: tuple[int, int, int], whole: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(whole, tmp_path / "run")
    devices = int(np.prod(mesh))
    states = [
        saved_state(workdir, 3, config(shape), make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))]))
        for shape in ((8, 1, 1), mesh)
    ]
    assert all(map(np.array_equal, *states))
    run(workdir, config(mesh), instances=120, devices=devices)
    expected, found = losses(whole), losses(workdir)
    assert sorted(found) == list(range(1, 9))
    np.testing.assert_allclose([found[step] for step in range(4, 9)], [expected[s] for s in range(4, 9)], rtol=1e-5)
