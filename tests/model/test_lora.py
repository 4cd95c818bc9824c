import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

from ecomgpt_jax.config import LAYERS, Config, LoraConfig, MeshConfig, ModelConfig, OptimizerConfig, resolve
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model import decoder, layers, lora
from ecomgpt_jax.model.hf_weights import load_hf, save_hf
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.model.peft_files import save_peft
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import abstract_state
from tests.model import hf_cases

MODEL = ModelConfig(size="custom", embed=32, layers=2, heads=4, vocab_size=64, compute_dtype="float32")
LORA = LoraConfig(rank=4, alpha=6.0)
IDS = np.random.default_rng(1).integers(4, 64, (2, 12))


@pytest.fixture(scope="module")
def base() -> Params:
    return noisy(jax.jit(partial(decoder.init_params, MODEL))(jax.random.key(0)), 0.05)


def noisy(params: Params, scale: float) -> Params:
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + scale * random.standard_normal(leaf.shape, np.float32), params)


def adapters(settings: LoraConfig = LORA, model: ModelConfig = MODEL) -> Params:
    """Adapters as after training: B is not zero."""
    fresh = lora.init_adapters(model, settings, make_mesh(MeshConfig(), jax.devices()[:1]), jax.random.key(2))
    return noisy(fresh, 0.1)


@jax.jit
def logits(params: Params, beside: lora.Adapters | None = None) -> jax.Array:
    return decoder.logits(params, decoder.forward(params, jnp.asarray(IDS), None, MODEL, beside), MODEL)


def copy(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)


def test_fresh_adapters_change_nothing(base: Params) -> None:
    fresh = lora.init_adapters(MODEL, LORA, make_mesh(MeshConfig(), jax.devices()[:1]), jax.random.key(2))
    np.testing.assert_array_equal(logits(base, lora.make_adapters(fresh, LORA)), logits(base))
    assert all(float(jnp.abs(leaves["lora_a"]).max()) > 0 for leaves in fresh["blocks"].values())


low_rank = partial(layers._low_rank, jnp.dtype(jnp.float32))


@pytest.mark.parametrize(("ins", "outs"), [((6,), (10,)), ((3, 2), (5,)), ((6,), (2, 3, 5))])
def test_gradients_of_adapters_are_those_of_the_two_products(ins: tuple[int, ...], outs: tuple[int, ...]) -> None:
    random = np.random.default_rng(4)
    shapes = (2, 7, *ins), (*ins, 4), (4, *outs), (2, 7, *outs)
    x, a, b, weights = (random.standard_normal(shape).astype(np.float32) for shape in shapes)

    def plain(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.tensordot(jnp.tensordot(x, a, axes=a.ndim - 1), b, axes=1)

    def gradients(product: Callable[..., jax.Array], weights: np.ndarray = weights) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *of: (product(*of) * weights).sum(), argnums=(0, 1, 2))(x, a, b)

    np.testing.assert_allclose(low_rank(x, a, b), plain(x, a, b), atol=1e-5)
    for ours, expected in zip(gradients(low_rank), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)
    for ours, other in zip(gradients(low_rank), gradients(plain, weights[:, ::-1]), strict=True):
        assert np.abs(ours - other).max() > 0.1


def test_no_gradient_of_a_layers_output_is_transposed() -> None:
    """The program that jax derives from the two products lays the wide gradient out anew."""

    def plain(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.tensordot(jnp.tensordot(x, a, axes=1, precision="highest"), b, axes=1, precision="highest")

    def program(product: Callable[..., jax.Array]) -> str:
        gradient = jax.grad(lambda b, x, a: jnp.sin(product(x, a, b)).sum())
        shapes = ((8, 200), (4, 96, 56), (56, 8))
        return jax.jit(gradient).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile().as_text()

    assert "f32[200,384]" in program(plain)
    assert "f32[200,384]" not in program(low_rank)


@pytest.mark.parametrize("targets", [("qkv", "attention_out", "mlp_up", "mlp_down"), ("mlp_down",)])
def test_merged_weights_give_the_adapters_logits(base: Params, targets: tuple[str, ...]) -> None:
    settings = dataclasses.replace(LORA, targets=targets)
    trained = adapters(settings)
    assert set(trained["blocks"]) == set(targets)
    with_adapters = logits(base, lora.make_adapters(trained, settings))
    merged = lora.merge(copy(base), lora.make_adapters(trained, settings), "float32")
    np.testing.assert_allclose(logits(merged), with_adapters, atol=1e-5)
    assert np.abs(with_adapters - logits(base)).max() > 0.05
    doubled = lora.make_adapters(trained, dataclasses.replace(settings, alpha=12.0))
    assert np.abs(logits(lora.merge(copy(base), doubled, "float32")) - with_adapters).max() > 1e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_merging_rounds_once_and_gives_the_base_up(base: Params, dtype: str) -> None:
    """Kernels are summed in float32 block by block; the old arrays are freed."""
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)
    trained = adapters()
    kernel, (a, b) = (
        np.asarray(narrow["blocks"]["mlp_up"]["kernel"], np.float32),
        trained["blocks"]["mlp_up"].values(),
    )
    expected = jnp.asarray(kernel + np.float32(1.5) * np.einsum("lir,lro->lio", a, b)).astype(dtype)
    merged = lora.merge(narrow, lora.make_adapters(trained, LORA), dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(dtype)}

    def assert_rounded_once(one: jax.Array, other: jax.Array) -> None:  # another order of summing may round otherwise
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=2.0**-7 if dtype == "bfloat16" else 1e-6, atol=1e-7)
        assert dtype == "float32" or (one != other).mean() < 0.005

    assert_rounded_once(merged["blocks"]["mlp_up"]["kernel"], expected)
    assert_same = assert_rounded_once if dtype == "bfloat16" else np.testing.assert_array_equal
    layers = tuple(jax.tree.map(lambda leaf, i=i: leaf[i].astype(jnp.bfloat16), base["blocks"]) for i in range(2))
    layered = lora.merge(copy(base) | {"blocks": layers}, lora.make_adapters(trained, LORA), dtype)["blocks"]
    for index, block in enumerate(layered):
        jax.tree.map(lambda one, all, i=index: assert_same(one, all[i]), block, merged["blocks"])
    same = [old is new for old, new in zip(jax.tree.leaves(narrow), jax.tree.leaves(merged), strict=True)]
    gone = [leaf.is_deleted() for leaf in jax.tree.leaves(narrow)]
    assert all(kept or deleted for kept, deleted in zip(same, gone, strict=True))
    assert sum(same) == (len(same) - 4 if dtype == "bfloat16" else 0)


def test_an_export_adds_adapters_to_each_tensor_in_float32(base: Params, tmp_path: Path) -> None:
    beside = lora.make_adapters(adapters(), LORA)
    save_hf(base, MODEL, tmp_path / "streamed", adapters=beside)
    merged = lora.merge(copy(base), beside, "float32")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), load_hf(tmp_path / "streamed"), merged)


def test_gradients_flow_to_adapters_over_a_bfloat16_base(base: Params) -> None:
    model = dataclasses.replace(MODEL, compute_dtype="bfloat16")
    frozen = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)

    def loss(trained: Params) -> jax.Array:
        hidden = decoder.forward(frozen, jnp.asarray(IDS), None, model, lora.make_adapters(trained, LORA))
        return jnp.square(hidden).mean()

    gradient = jax.jit(jax.grad(loss))(adapters())
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_dropout_is_a_function_of_the_key(base: Params, remat: str) -> None:
    settings, trained = dataclasses.replace(LORA, dropout=0.3), adapters()
    model = dataclasses.replace(MODEL, remat=remat)

    def squares(trained: Params, key: jax.Array) -> jax.Array:
        beside = lora.make_adapters(trained, settings, key)
        return jnp.square(decoder.forward(base, jnp.asarray(IDS), None, model, beside)).mean()

    drop = jax.jit(jax.grad(squares))
    one, again, other = (drop(trained, jax.random.key(seed))["blocks"]["qkv"]["lora_b"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


def test_dropout_keeps_the_mean_and_drops_other_inputs_in_each_block_and_layer() -> None:
    layers = {name: {"lora_a": jnp.ones((3, 32, 2)), "lora_b": jnp.ones((3, 2, 8))} for name in ("qkv", "mlp_up")}
    beside = lora.make_adapters({"blocks": layers}, LoraConfig(rank=2, alpha=2.0, dropout=0.3), jax.random.key(3))

    def of_block(index: int, name: str) -> np.ndarray:
        block = jax.tree.map(lambda leaf: leaf[index], beside)
        return np.asarray(block(name, jnp.ones((50, 50, 32)), jnp.dtype(jnp.float32)))[..., 0]

    dropped = of_block(0, "mlp_up")
    assert dropped.mean() == pytest.approx(64, rel=0.01)
    assert dropped.std() == pytest.approx(2 * np.sqrt(32 * 0.3 / 0.7), rel=0.1)
    assert (dropped != of_block(1, "mlp_up")).mean() > 0.5
    assert (dropped != of_block(0, "qkv")).mean() > 0.5


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

    full = abstract_state(Config(model=config.model), optimizer, mesh)
    ours = abstract_state(config, optimizer, mesh)
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
    save_peft(trained, MODEL, LORA, tmp_path / "adapter", str(tmp_path / "base"))
    plain = BloomForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = theirs(torch.from_numpy(np.array(IDS))).logits.numpy()
    np.testing.assert_allclose(found, logits(base, lora.make_adapters(trained, LORA)), atol=1e-4)
    assert np.abs(found - logits(base)).max() > 0.1


@pytest.mark.parametrize("name", hf_cases.families("qwen3", "gemma"))
def test_every_family_merged_equals_adapters_equals_peft(name: str, tmp_path: Path) -> None:
    """Adapters beside each linear layer of the blocks: as PEFT reads them, as they run, and merged into the export."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = hf_cases.case_model(name)
    settings, ids = LoraConfig(rank=4, alpha=6.0, targets=LAYERS[model.family]), np.arange(24).reshape(2, 12) + 7
    params, trained = hf_cases.random_params(model), adapters(settings, model)
    beside = lora.make_adapters(trained, settings)

    @jax.jit
    def run(params: Params, beside: lora.Adapters) -> jax.Array:
        return decoder.logits(params, decoder.forward(params, ids, None, model, beside), model)

    with_adapters = run(params, beside)
    save_hf(params, model, tmp_path / "base")
    save_hf(params, model, tmp_path / "merged", adapters=beside)
    (tmp_path / "adapter").mkdir()
    save_peft(trained, model, settings, tmp_path / "adapter", str(tmp_path / "base"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    found = {key for key in theirs.state_dict() if "lora_A" in key}
    assert len(found) == model.layers * len(LAYERS[model.family])
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {key.replace(".default", "") for key in found} < saved.keys()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        outputs = [network(torch.from_numpy(ids)).logits.numpy() for network in (theirs, merged)]
    for output in outputs:
        np.testing.assert_allclose(output, with_adapters, atol=1e-4)
    nothing = jax.tree.map(jnp.zeros_like, beside)
    assert np.abs(outputs[0] - run(params, nothing)).max() > 0.05


def test_a_layer_of_another_family_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"qkv: blocks of model\.family=llama have the layers query, key, value"):
        lora.adapter_table(hf_cases.case_model("llama"), LoraConfig(rank=4, targets=("qkv", "mlp_up")))
