from pathlib import Path

import jax
import numpy as np
import pytest
from loaded import load_checkpoint
from toy import toy_config

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.model import decoder, step_files
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import checkpoint, saving
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import TrainState, abstract_state, init_state

CONFIG = toy_config()
OPTIMIZER = make_optimizer(CONFIG.optimizer, 10)


def leaves(tree: object) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def equal(one: object, other: object) -> bool:
    return all(map(np.array_equal, leaves(one), leaves(other)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    workdir = tmp_path_factory.mktemp("run")
    mesh = make_mesh(MeshConfig(1, 4, 2))
    state = init_state(CONFIG, OPTIMIZER, mesh)
    with saving.Checkpoints(workdir, keep=2) as checkpoints:
        for step in (3, 7, 12):
            state = state._replace(step=state.step * 0 + step)
            checkpoints.save(state, {"config": config_lib.to_dict(CONFIG), "run": {"data": "d"}})
        checkpoints.wait()
    return workdir, state


@pytest.mark.parametrize("shape", [(1, 4, 2), (8, 1, 1), (2, 2, 2)])
def test_a_state_comes_back_on_any_mesh(run: tuple[Path, TrainState], shape: tuple[int, int, int]) -> None:
    target = abstract_state(CONFIG, OPTIMIZER, make_mesh(MeshConfig(*shape)))
    restored = checkpoint.restore(step_files.step_directory(run[0]), target)
    assert int(restored.step) == 12
    assert equal(restored, run[1])
    wanted = jax.tree.map(lambda leaf: leaf.sharding, target)
    assert jax.tree.all(jax.tree.map(lambda leaf, place: leaf.sharding == place, restored, wanted))


def test_parameters_load_from_a_workdir_and_from_a_step(run: tuple[Path, TrainState]) -> None:
    for path in (run[0], run[0] / "checkpoints" / "7", str(run[0])):
        params, model = load_checkpoint(path)
        assert model == CONFIG.model
        assert equal(params, run[1].params)


def test_converted_parameters_stand_alone(run: tuple[Path, TrainState], tmp_path: Path) -> None:
    saving.save_orbax_params(run[1].params, CONFIG.model, tmp_path / "alone")
    params, model = load_checkpoint(tmp_path / "alone")
    assert (model, equal(params, run[1].params)) == (CONFIG.model, True)
    other = decoder.init_params(CONFIG.model, jax.random.key(9))
    assert not equal(other, params)


def test_a_number_is_free_where_an_earlier_one_was_deleted(tmp_path: Path) -> None:
    def number(*names: str) -> int:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            (folder / name).mkdir(parents=True)
        folder.mkdir(exist_ok=True)
        return checkpoint.next_number(folder, "7")

    assert [number(), number("7"), number("7-1"), number("7-9", "7-10"), number("77", "7-mine")] == [0, 1, 2, 11, 0]
