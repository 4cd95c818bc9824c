import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from toy import toy_config

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model import bloom
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import checkpoint, manifest, saving
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
    restored = checkpoint.restore(checkpoint.step_directory(run[0]), target)
    assert int(restored.step) == 12
    assert equal(restored, run[1])
    wanted = jax.tree.map(lambda leaf: leaf.sharding, target)
    assert jax.tree.all(jax.tree.map(lambda leaf, place: leaf.sharding == place, restored, wanted))


def test_parameters_load_from_a_workdir_and_from_a_step(run: tuple[Path, TrainState]) -> None:
    for path in (run[0], run[0] / "checkpoints" / "7", str(run[0])):
        params, model = checkpoint.load_checkpoint(path)
        assert model == CONFIG.model
        assert equal(params, run[1].params)


def test_converted_parameters_stand_alone(run: tuple[Path, TrainState], tmp_path: Path) -> None:
    saving.save_orbax_params(run[1].params, CONFIG.model, tmp_path / "alone")
    params, model = checkpoint.load_checkpoint(tmp_path / "alone")
    assert (model, equal(params, run[1].params)) == (CONFIG.model, True)
    other = bloom.init_params(CONFIG.model, jax.random.key(9))
    assert not equal(other, params)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such directory"):
        checkpoint.load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="no checkpoint in it"):
        checkpoint.load_checkpoint(tmp_path)
    with pytest.raises(MissingInputError, match=r"no tokenizer\.json"):
        checkpoint.tokenizer_directory(tmp_path)


def test_what_cannot_be_read_is_one_line(run: tuple[Path, TrainState], tmp_path: Path) -> None:
    step = tmp_path / "checkpoints" / "12"
    shutil.copytree(run[0] / "checkpoints" / "12", step)
    for file in (step / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * 10)
    with pytest.raises(DataError, match=r"params/\S+ is not what was written and \d+ more; use another step"):
        checkpoint.load_checkpoint(tmp_path)
    manifest.seal(epath.Path(step))  # damaged before it was written
    with pytest.raises(DataError, match="unreadable checkpoint") as caught:
        checkpoint.load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text("{broken")
    with pytest.raises(DataError, match="not valid JSON"):
        checkpoint.load_checkpoint(tmp_path / "hf")


def test_the_tokenizer_of_a_run_is_found_from_its_steps(run: tuple[Path, TrainState], tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}")
    (tmp_path / "checkpoints/4/params").mkdir(parents=True)
    for path in (tmp_path, tmp_path / "checkpoints/4", tmp_path / "tokenizer"):
        assert checkpoint.tokenizer_directory(path) == tmp_path / "tokenizer"


def test_only_numbers_are_steps(tmp_path: Path) -> None:
    for name in ("7", "12", "007", "٣", "9.partial", "notes", "-1"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "99").write_text("a file")
    assert checkpoint.list_steps(tmp_path) == [7, 12]
    assert checkpoint.list_steps(tmp_path / "nowhere") == []


@pytest.mark.parametrize("kind", ["hf", "workdir"])
def test_the_fingerprint_is_of_the_weights_and_of_nothing_beside_them(tmp_path: Path, kind: str) -> None:
    if kind == "hf":
        weights = tmp_path / "model.safetensors"
        (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    else:
        weights = tmp_path / "checkpoints" / "5" / "params" / "d" / "0"
        weights.parent.mkdir(parents=True)
        (tmp_path / "checkpoints" / "5" / manifest.NAME).write_text("{}")
    weights.write_bytes(b"1234")
    before = checkpoint.weights_fingerprint(tmp_path)
    assert len(before) == 64
    for name in ("out.jsonl", "out.jsonl.partial", "evaluation/scores.json", "scores.json", "report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert checkpoint.weights_fingerprint(tmp_path) == before
    weights.write_bytes(b"12345")
    assert checkpoint.weights_fingerprint(tmp_path) != before
    assert checkpoint.weights_fingerprint(tmp_path / "nowhere") == ""
