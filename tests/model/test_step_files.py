import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model import decoder, manifest, step_files
from ecomgpt_jax.model.parameters import leaf_of, param_shardings, parameter_table
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.saving import save_orbax_params

MODEL = ModelConfig(size="custom", embed=32, layers=2, heads=4, vocab_size=64, compute_dtype="float32")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("step") / "checkpoints" / "7"
    save_orbax_params(decoder.init_params(MODEL, jax.random.key(0)), MODEL, directory)
    return directory


def places(shape: tuple[int, int, int] = (1, 4, 2)) -> dict:
    shardings = param_shardings(MODEL, make_mesh(MeshConfig(*shape)))
    return {parameter: leaf_of(shardings, parameter.path) for parameter in parameter_table(MODEL)}


def test_parameters_come_one_by_one_the_largest_first_in_dtype_and_place(step: Path) -> None:
    params, wanted, sizes = decoder.init_params(MODEL, jax.random.key(0)), places(), []
    for parameter, array in step_files.read_params(epath.Path(step), wanted, "bfloat16"):
        assert array.sharding == wanted[parameter]
        np.testing.assert_array_equal(array, leaf_of(params, parameter.path).astype("bfloat16"))
        sizes.append(parameter.size)
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == len(wanted)


def test_meta_comes_back(step: Path) -> None:
    assert step_files.read_meta(epath.Path(step))["config"]["model"]["embed"] == 32


def test_a_workdir_stands_for_its_newest_step(step: Path, tmp_path: Path) -> None:
    assert str(step_files.step_directory(step.parent.parent)) == str(step)
    assert str(step_files.step_directory(step)) == str(step)
    with pytest.raises(MissingInputError, match="no such directory"):
        step_files.step_directory(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="no checkpoint in it"):
        step_files.step_directory(tmp_path)


def test_what_cannot_be_read_is_one_line(step: Path, tmp_path: Path) -> None:
    shutil.copytree(step, tmp_path / "7")
    for file in (tmp_path / "7" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * 10)
    with pytest.raises(DataError, match=r"params/\S+ is not what was written and \d+ more; use another step"):
        next(step_files.read_params(epath.Path(tmp_path / "7"), places(), "float32"))
    manifest.seal(epath.Path(tmp_path / "7"))  # damaged before it was written
    with pytest.raises(DataError, match="unreadable checkpoint") as caught:
        next(step_files.read_params(epath.Path(tmp_path / "7"), places(), "float32"))
    assert "\n" not in str(caught.value)


def test_only_numbers_are_steps(tmp_path: Path) -> None:
    for name in ("7", "12", "007", "٣", "9.partial", "notes", "-1"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "99").write_text("a file")
    assert step_files.list_steps(tmp_path) == [7, 12]
    assert step_files.list_steps(tmp_path / "nowhere") == []
