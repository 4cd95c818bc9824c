from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.model import content_hash as content_hash_module
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.decoder import init_params
from ecomgpt_jax.model.hf_weights import load_hf, save_hf
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.mesh import make_mesh


def weights() -> Params:
    random = np.random.default_rng(0)
    return {
        "norm": {"scale": jnp.ones(16)},
        "blocks": {"mlp": {"kernel": jnp.asarray(random.standard_normal((3, 16, 24)), jnp.bfloat16)}},
    }


def changed(index: tuple[int, ...], value: float) -> str:
    params = weights()
    kernel = params["blocks"]["mlp"]["kernel"]
    params["blocks"]["mlp"]["kernel"] = kernel.at[index].set(kernel[index] + value)
    return content_hash(params)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 4, 2), (2, 2, 2)])
def test_neither_the_mesh_nor_the_dtype_nor_the_pieces_change_it(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, expected = make_mesh(MeshConfig(*shape)), content_hash(weights())
    places = {3: P(None, "fsdp", "tensor"), 1: P()}
    split = jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, places[leaf.ndim])), weights())
    assert content_hash(split) == expected
    monkeypatch.setattr(content_hash_module, "_PIECE", 50)  # two rows of a block, and of a shard's part of one
    assert content_hash(split) == content_hash(weights()) == expected
    assert content_hash(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), split)) == expected
    with jax.set_mesh(mesh):  # as in the training loop
        assert content_hash(split) == expected


def test_layered_weights_have_the_hash_of_stacked_ones() -> None:
    params = weights()
    kernel = params["blocks"]["mlp"]["kernel"]
    layers = [{"mlp": {"kernel": layer}} for layer in kernel]
    assert content_hash(params | {"blocks": tuple(layers)}) == content_hash(params)
    assert content_hash(params | {"blocks": tuple(layers[::-1])}) != content_hash(params)


def test_one_bit_anywhere_changes_it() -> None:
    expected = content_hash(weights())
    random = np.random.default_rng(1)
    places = [tuple(int(random.integers(size)) for size in (3, 16, 24)) for _ in range(20)]
    found = [changed(place, 0.01) for place in places]
    assert len({expected, *found}) == 1 + len(set(places))


def test_the_same_values_elsewhere_change_it() -> None:
    """Sums that forget the position would not see two values, two layers or two names exchanged."""
    expected, params = content_hash(weights()), weights()
    kernel = params["blocks"]["mlp"]["kernel"]
    for other in (
        kernel[::-1],
        kernel[:, ::-1],
        kernel.at[0, 0, :2].set(kernel[0, 0, 1::-1]),
        kernel.reshape(3, 24, 16),
    ):
        assert content_hash(params | {"blocks": {"mlp": {"kernel": other}}}) != expected
    assert content_hash({"norm": params["norm"], "blocks": {"mlq": {"kernel": kernel}}}) != expected
    assert float(kernel.sum()) == pytest.approx(float(kernel[::-1].sum()), abs=1)


def test_files_beside_the_weights_do_not_change_it_and_other_weights_do(tmp_path: Path) -> None:
    model = ModelConfig(size="custom", embed=16, layers=2, heads=2, vocab_size=40, compute_dtype="float32")
    params = init_params(model, jax.random.key(0))
    save_hf(params, model, tmp_path / "one")
    expected = content_hash(load_hf(tmp_path / "one"))
    assert expected == content_hash(params)
    for name in ("out.jsonl", "out.jsonl.partial", "evaluation/scores.json", "scores.json", "report.html"):
        (tmp_path / "one" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "one" / name).write_text("{}")
    assert content_hash(load_hf(tmp_path / "one")) == expected
    params["final_norm"]["bias"] = params["final_norm"]["bias"].at[0].add(1e-3)
    save_hf(params, model, tmp_path / "other")
    assert content_hash(load_hf(tmp_path / "other")) != expected
