import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecomgpt_jax.config import LoraConfig, MeshConfig, ModelConfig
from ecomgpt_jax.model import decoder, hf_shards, lora
from ecomgpt_jax.model.parameters import Params, parameter_table, split_layers
from ecomgpt_jax.model.tensor_stream import plan_shards
from ecomgpt_jax.parallel.mesh import make_mesh

MODEL = ModelConfig(size="custom", embed=32, layers=3, heads=4, vocab_size=64, compute_dtype="float32")


def params(shape: tuple[int, int, int]) -> Params:
    return decoder.init_sharded_params(MODEL, make_mesh(MeshConfig(*shape)), jax.random.key(0))


def tensors(weights: Params, adapters: lora.Adapters | None = None) -> dict[str, list[np.ndarray]]:
    return {
        name: list(hf_shards.tensor_pieces(weights, parameter, layer, adapters))
        for parameter in parameter_table(MODEL)
        for layer, name in enumerate(parameter.hf_names)
    }


def test_files_take_tensors_in_order_up_to_the_limit() -> None:
    table = parameter_table(MODEL)
    names = [name for parameter in table for name in parameter.hf_names]
    tensors = hf_shards.hf_tensors({}, table, None)
    shards = plan_shards(tensors, 2, 20_000)
    assert [tensor.name.removeprefix("transformer.") for shard in shards for tensor in shard] == names
    sizes = [sum(2 * int(np.prod(tensor.shape)) for tensor in shard) for shard in shards]
    assert len(shards) > 2
    assert max(sizes) <= 20_000
    assert len(plan_shards(tensors, 2, 10**9)) == 1


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 4, 2)])
def test_one_device_gives_the_embedding_in_pieces_and_all_give_the_same(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_shards, "ROWS", 24)
    one = jax.device_put(params(shape), jax.devices()[0])
    expected = tensors(one)
    assert [len(piece) for piece in expected["word_embeddings.weight"]] == [24, 24, 16]
    for weights in (params(shape), split_layers(one, MODEL), jax.device_get(one)):
        for name, pieces in tensors(weights).items():
            np.testing.assert_array_equal(np.concatenate(pieces), np.concatenate(expected[name]))


def test_adapters_are_added_to_stacked_and_to_layered_kernels() -> None:
    weights, settings = params((8, 1, 1)), LoraConfig(rank=2, alpha=4.0, targets=("mlp_up",))
    fresh = lora.init_adapters(MODEL, settings, make_mesh(MeshConfig()), jax.random.key(1))
    beside = lora.make_adapters(jax.tree.map(lambda leaf: leaf + 0.1, fresh), settings)
    plain, one, other = tensors(weights), tensors(weights, beside), tensors(split_layers(weights, MODEL), beside)
    leaves = beside.layers["mlp_up"]
    for name, pieces in one.items():
        np.testing.assert_allclose(pieces[0], other[name][0], atol=1e-7)
        added = pieces[0] - plain[name][0]
        if "dense_h_to_4h.weight" in name:
            layer = int(name.split(".")[1])
            np.testing.assert_allclose(added, 2 * jnp.dot(leaves["lora_a"][layer], leaves["lora_b"][layer]), atol=1e-6)
        else:
            assert not added.any()
