from pathlib import Path

import jax
import pytest
from toy import toy_config

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import initial_weights


def test_a_branch_stays_at_the_commit_of_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(initial_weights.hub, "find_weights", lambda name: asked.append(name) or (f"{name}!", tmp_path))
    assert initial_weights.find_weights(tmp_path, "owner/name@main", "auto")[0] == "owner/name@main!"
    initial_weights.write_start(tmp_path, "owner/name@main", "owner/name@1234")
    initial_weights.write_start(tmp_path, "owner/name@main", "owner/name@1234")
    initial_weights.find_weights(tmp_path, "owner/name@main", "auto")
    initial_weights.find_weights(tmp_path, "owner/name@main", "never")
    initial_weights.find_weights(tmp_path, "owner/name@other", "auto")
    assert asked == ["owner/name@main", "owner/name@1234", "owner/name@main", "owner/name@other"]


def test_initial_weights_are_known_again(tmp_path: Path) -> None:
    initial_weights.write_start(tmp_path, "weights", "weights")
    initial_weights.check_initial(tmp_path, "a", resumed=False)
    initial_weights.write_start(tmp_path, "weights", "weights")
    initial_weights.check_initial(tmp_path, "a", resumed=True)
    with pytest.raises(DataError, match="no longer those of"):
        initial_weights.check_initial(tmp_path, "b", resumed=True)
    initial_weights.check_initial(tmp_path, "b", resumed=False)  # nothing was trained yet, so the run begins with these
    initial_weights.check_initial(tmp_path, "b", resumed=True)
    assert initial_weights.read_start(tmp_path) == {"init_from": "weights", "pinned": "weights", "weights": "b"}


@pytest.mark.parametrize(("rank", "dtype"), [(2, "bfloat16"), (0, "float32")])
def test_a_base_is_loaded_or_made_in_the_compute_dtype_and_trained_weights_in_float32(
    tmp_path: Path, rank: int, dtype: str
) -> None:
    config, mesh = toy_config(), make_mesh(MeshConfig(), jax.devices()[:1])
    config.model.compute_dtype, config.lora.rank = "bfloat16", rank
    fresh = initial_weights.load_initial(config, None, mesh, tmp_path, resumed=False)
    save_hf(fresh, config.model, tmp_path / "hf", "float32")
    config.model.init_from = str(tmp_path / "hf")
    found = initial_weights.fit_model_to_weights(config, tmp_path, "auto")
    read = initial_weights.load_initial(config, found, mesh, tmp_path, resumed=False)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((fresh, read))} == {dtype}
