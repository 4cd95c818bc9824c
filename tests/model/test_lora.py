import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from ecomgpt_jax.config import Config, LoraConfig, MeshConfig, ModelConfig, OptimizerConfig, resolve
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.model import bloom, lora
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import abstract_state

MODEL = ModelConfig(size="custom", embed=32, layers=2, heads=4, vocab_size=64, compute_dtype="float32")
LORA = LoraConfig(rank=4, alpha=6.0)
IDS = np.random.default_rng(1).integers(4, 64, (2, 12))


@pytest.fixture(scope="module")
def base() -> Params:
    return noisy(jax.jit(partial(bloom.init_params, MODEL))(jax.random.key(0)), 0.05)


def noisy(params: Params, scale: float) -> Params:
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + scale * random.standard_normal(leaf.shape, np.float32), params)


def adapters(settings: LoraConfig = LORA, model: ModelConfig = MODEL) -> Params:
    """Adapters as after training: B is not zero."""
    fresh = lora.init_adapters(model, settings, make_mesh(MeshConfig(), jax.devices()[:1]), jax.random.key(2))
    return noisy(fresh, 0.1)


@jax.jit
def logits(params: Params) -> jax.Array:
    return bloom.logits(params, bloom.forward(params, jnp.asarray(IDS), None, MODEL), MODEL)


def test_fresh_adapters_change_nothing(base: Params) -> None:
    fresh = lora.init_adapters(MODEL, LORA, make_mesh(MeshConfig(), jax.devices()[:1]), jax.random.key(2))
    np.testing.assert_array_equal(logits(lora.combine(base, fresh, LORA)), logits(base))
    assert all(float(jnp.abs(leaves["lora_a"]).max()) > 0 for leaves in fresh["blocks"].values())


@pytest.mark.parametrize("targets", [("qkv", "attention_out", "mlp_up", "mlp_down"), ("mlp_down",)])
def test_merged_weights_give_the_adapters_logits(base: Params, targets: tuple[str, ...]) -> None:
    settings = dataclasses.replace(LORA, targets=targets)
    trained = adapters(settings)
    assert set(trained["blocks"]) == set(targets)
    with_adapters = logits(lora.combine(base, trained, settings))
    np.testing.assert_allclose(logits(lora.merge(base, trained, settings)), with_adapters, atol=1e-5)
    assert np.abs(with_adapters - logits(base)).max() > 0.05
    wrong_scale = lora.merge(base, trained, dataclasses.replace(settings, alpha=12.0))
    assert np.abs(logits(wrong_scale) - with_adapters).max() > 1e-2


def test_merge_leaves_its_arguments_alone(base: Params) -> None:
    before = logits(base)
    lora.merge(base, adapters(), LORA)
    np.testing.assert_array_equal(logits(base), before)


def test_gradients_flow_to_adapters_alone_and_a_frozen_base_stays_bfloat16(base: Params) -> None:
    model = dataclasses.replace(MODEL, compute_dtype="bfloat16")
    frozen = lora.freeze(base, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}

    def loss(trained: Params) -> jax.Array:
        return jnp.square(bloom.forward(lora.combine(frozen, trained, LORA), jnp.asarray(IDS), None, model)).mean()

    gradient = jax.jit(jax.grad(loss))(adapters())
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def test_dropout_is_a_function_of_the_key_and_keeps_the_mean(base: Params) -> None:
    settings, trained = dataclasses.replace(LORA, dropout=0.3), adapters()
    drop = jax.jit(lambda key: bloom.forward(lora.combine(base, trained, settings, key), jnp.asarray(IDS), None, MODEL))
    one, again, other = (drop(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    layer = bloom.Linear("blocks/mlp_up", MODEL, nnx.Rngs(params=0))
    layer.lora_a, layer.lora_b = nnx.Param(jnp.ones((32, 2))), nnx.Param(jnp.ones((2, 128)))
    layer.lora_key, layer.lora_keep = nnx.Param(jax.random.key_data(jax.random.key(3))), nnx.Param(jnp.float32(0.7))
    dropped = np.asarray(layer._low_rank(jnp.ones((50, 50, 32)), 1))[..., 0]
    assert dropped.mean() == pytest.approx(64, rel=0.01)
    assert dropped.std() == pytest.approx(2 * np.sqrt(32 * 0.3 / 0.7), rel=0.1)


def test_adapters_lie_as_their_kernels_do() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = lora.adapter_shardings(MODEL, LORA, mesh)["blocks"]
    assert placed["qkv"]["lora_a"].spec == P(None, "fsdp", None)
    assert placed["qkv"]["lora_b"].spec == P(None, None, "tensor", None, None)
    assert placed["mlp_down"]["lora_a"].spec == P(None, "tensor", None)
    made = lora.init_adapters(MODEL, LORA, mesh, jax.random.key(2))
    assert made["blocks"]["qkv"]["lora_a"].sharding == placed["qkv"]["lora_a"]
    with pytest.raises(ConfigError, match="qkv/lora_a"):
        lora.adapter_shardings(dataclasses.replace(MODEL, embed=20, heads=2), LORA, make_mesh(MeshConfig(fsdp=8)))


@pytest.mark.parametrize(("size", "rank"), [("560m", 16), ("7b1", 64)])
def test_optimizer_memory_is_a_fiftieth_of_full_fine_tuning(size: str, rank: int) -> None:
    config = Config(lora=LoraConfig(rank=rank))
    config.model.size = size
    config = resolve(config)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(), 10)

    def held(state: object) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    full = abstract_state(config.model, optimizer, mesh)
    ours = abstract_state(config.model, optimizer, mesh, config.lora)
    assert held(ours.optimizer) / held(full.optimizer) < (0.02 if rank == 16 else 0.025)
    assert held(ours) < 0.25 * held(full)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rank", -1, "lora.rank"),
        ("alpha", 0.0, "lora.alpha"),
        ("targets", ("query",), "lora.targets"),
        ("targets", (), "lora.targets"),
        ("dropout", 1.0, "lora.dropout"),
    ],
)
def test_wrong_settings_are_refused(field: str, value: object, message: str) -> None:
    config = Config(lora=LoraConfig(rank=4))
    setattr(config.lora, field, value)
    with pytest.raises(ConfigError, match=message):
        resolve(config)


def test_hf_peft_gives_the_same_logits(base: Params, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import BloomForCausalLM

    trained = adapters()
    save_hf(base, MODEL, tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    lora.save_peft(trained, MODEL, LORA, tmp_path / "adapter", str(tmp_path / "base"))
    plain = BloomForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = theirs(torch.from_numpy(np.array(IDS))).logits.numpy()
    np.testing.assert_allclose(found, logits(lora.combine(base, trained, LORA)), atol=1e-4)
    assert np.abs(found - logits(base)).max() > 0.1


def test_peft_files_name_every_target_and_refuse_nan(tmp_path: Path) -> None:
    trained = adapters()
    lora.save_peft(trained, MODEL, LORA, tmp_path, "bigscience/bloomz-560m")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    assert (config["r"], config["lora_alpha"]) == (4, 6.0)
    trained["blocks"]["qkv"]["lora_b"] = trained["blocks"]["qkv"]["lora_b"].at[0, 0].set(jnp.nan)
    with pytest.raises(DataError, match="qkv/lora_b"):
        lora.save_peft(trained, MODEL, LORA, tmp_path, "")
