import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import hf_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from xla_flags import OPTIMISED

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.model import attention, decoder, head, layers
from ecomgpt_jax.model.families import gemma
from ecomgpt_jax.model.fused_attention import segment_positions
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.parameters import Params, leaf_of, param_shapes, param_shardings, parameter_table
from ecomgpt_jax.parallel.mesh import batch_sharding, make_mesh

GOLDEN = Path(__file__).parent / "golden"
Batch = dict[str, np.ndarray]


def loss_and_logits(params: Params, batch: Batch, model: ModelConfig) -> tuple[jax.Array, jax.Array]:
    hidden = decoder.forward(params, batch["inputs"], batch["segment_ids"], model)
    total, count = head.loss_sum(decoder.head_table(params), hidden, batch["targets"], batch["loss_mask"], model)
    return total / count, decoder.logits(params, hidden, model)


def make_program(model: ModelConfig, **options: Any) -> Callable[..., Any]:
    return jax.jit(jax.value_and_grad(partial(loss_and_logits, model=model), has_aux=True), **options)


@lru_cache
def shared_program(*fields: Any) -> Callable[..., Any]:
    model = ModelConfig(*fields)
    as_trained = fields in [dataclasses.astuple(hf_cases.case_model(name)) for name in hf_cases.BLOOM]
    return make_program(model, compiler_options=OPTIMISED if as_trained else None)


def outputs(params: Params, batch: Batch, model: ModelConfig) -> tuple[np.ndarray, float, Params]:
    """(logits, mean loss, gradients) by one jitted program; tests of equal model and shapes compile it once."""
    program = shared_program(*dataclasses.astuple(model))
    (loss, logits), gradients = program(params, batch)
    return np.asarray(logits), float(loss), jax.tree.map(np.asarray, gradients)


def hf_gradients(gradients: Params, model: ModelConfig) -> dict[str, np.ndarray]:
    tensors = {}
    for parameter in parameter_table(model):
        leaf = leaf_of(gradients, parameter.path)
        layers = leaf if parameter.stacked else [leaf]
        tensors.update(zip(parameter.hf_names, map(parameter.to_hf, layers), strict=True))
    return tensors


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def golden_errors(name: str, params: Params) -> tuple[float, float, float]:
    """(largest logit error at real tokens, loss error, largest relative gradient error) against the stored outputs."""
    model, batch = hf_cases.case_model(name), hf_cases.case_batch(name)
    logits, loss, gradients = outputs(params, batch, model)
    stored = np.load(GOLDEN / f"{name}.npz")
    real = batch["segment_ids"][:, :: hf_cases.LOGIT_STEP] > 0
    ours = hf_gradients(gradients, model)
    assert {f"gradient/{tensor}" for tensor in ours} == set(stored) - {"logits", "loss"}
    return (
        np.abs(logits[:, :: hf_cases.LOGIT_STEP] - stored["logits"])[real].max(),
        abs(loss - stored["loss"]),
        max(
            relative(gradient.ravel()[hf_cases.stored_entries(gradient.size)], stored[f"gradient/{tensor}"])
            for tensor, gradient in ours.items()
        ),
    )


@pytest.mark.parametrize("name", hf_cases.CASES)
def test_equals_stored_hf_outputs(name: str) -> None:
    logits, loss, gradient = golden_errors(name, hf_cases.random_params(hf_cases.case_model(name)))
    assert logits < 1e-4
    assert loss < 1e-5
    assert gradient < 1e-3


@pytest.mark.parametrize("name", hf_cases.CASES)
def test_equals_live_hf(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model, batch = hf_cases.case_model(name), hf_cases.case_batch(name)
    params = hf_cases.random_params(model)
    save_hf(params, model, tmp_path / "hf")
    hf_logits, hf_loss, hf_gradient = hf_cases.torch_outputs(str(tmp_path / "hf"), batch)
    logits, loss, gradients = outputs(params, batch, model)
    ours = hf_gradients(gradients, model)
    real = batch["segment_ids"] > 0
    np.testing.assert_allclose(logits[real], hf_logits[real], atol=1e-4, rtol=0, equal_nan=False)
    assert abs(loss - hf_loss) < 1e-5
    assert ours.keys() == hf_gradient.keys()
    assert {tensor: error for tensor in ours if (error := relative(ours[tensor], hf_gradient[tensor])) > 1e-3} == {}


def test_parity_notices_shifted_alibi(monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = attention.alibi_slopes
    monkeypatch.setitem(globals(), "shared_program", lambda *fields: make_program(ModelConfig(*fields)))
    monkeypatch.setattr(attention, "alibi_slopes", lambda heads: np.roll(slopes(heads), 1))
    name = "heads8_padded"
    logits, loss, gradient = golden_errors(name, hf_cases.random_params(hf_cases.case_model(name)))
    assert logits > 1e-2
    assert loss > 1e-4
    assert gradient > 1e-2


def test_parity_notices_swapped_q_and_k() -> None:
    name = "heads8_padded"
    params = hf_cases.random_params(hf_cases.case_model(name))
    params["blocks"]["qkv"]["kernel"] = params["blocks"]["qkv"]["kernel"][..., [1, 0, 2], :]
    logits, loss, gradient = golden_errors(name, params)
    assert logits > 1e-2
    assert loss > 1e-4
    assert gradient > 1e-2


def one_less(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    return dataclasses.replace(model, window=model.window - 1)


def one_more(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    return dataclasses.replace(model, window=model.window + 1)


def theta_off_by_a_hundredth(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    return dataclasses.replace(model, rope_theta=1.01 * model.rope_theta)


def no_scaling(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    return dataclasses.replace(model, rope_scaling="")


def one_theta(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    return dataclasses.replace(model, local_rope_theta=model.rope_theta)


def kinds_swapped(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    return dataclasses.replace(model, layer_kinds=model.layer_kinds.translate({ord("s"): "f", ord("f"): "s"}))


def usual_query_scale(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    return dataclasses.replace(model, query_scale=0.0)


def no_norm_of_heads(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    norm = layers.RMSNorm.__call__
    patch.setattr(layers.RMSNorm, "__call__", lambda self, x: x if x.ndim == 4 else norm(self, x))
    return model


def plain_w(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    normalise = layers._normalise_rms
    patch.setattr(layers, "_normalise_rms", lambda x, scale, *rest: normalise(x, scale - 1, *rest))
    return model


def unscaled_embedding(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    patch.setattr(gemma, "scale_embedding", lambda rows: rows)
    return model


def exact_gelu(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    patch.setattr(gemma, "_gelu", partial(jax.nn.gelu, approximate=False))
    return model


def tiled_heads(model: ModelConfig, patch: pytest.MonkeyPatch) -> ModelConfig:
    attend = attention.attend

    def tiled(q: jax.Array, k: jax.Array, v: jax.Array, *args: Any, **settings: Any) -> jax.Array:
        k, v = (jnp.tile(x, (1, 1, q.shape[2] // x.shape[2], 1)) for x in (k, v))
        return attend(q, k, v, *args, **settings)

    patch.setattr(attention, "attend", tiled)
    return model


FAULTS = [
    ("llama", no_scaling), ("llama", tiled_heads), ("mistral", one_less), ("mistral", one_more),
    ("qwen2", kinds_swapped), ("qwen3", theta_off_by_a_hundredth), ("qwen3", no_norm_of_heads), ("gemma", one_less),
    ("gemma", one_theta), ("gemma", usual_query_scale), ("gemma", plain_w), ("gemma", unscaled_embedding),
    ("gemma", exact_gelu),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_parity_notices(name: str, fault: Callable[..., ModelConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault is at least three times over the bar of the logits."""
    model, batch = hf_cases.case_model(name), hf_cases.case_batch(name)
    params = hf_cases.random_params(model)
    changed = fault(model, monkeypatch)

    @jax.jit
    def every_logit(params: Params) -> jax.Array:
        hidden = decoder.forward(params, batch["inputs"], batch["segment_ids"], changed)
        return decoder.logits(params, hidden, changed)

    step = slice(None, None, hf_cases.LOGIT_STEP)
    stored, real = np.load(GOLDEN / f"{name}.npz")["logits"], batch["segment_ids"][:, step] > 0
    error = np.abs(every_logit(params)[:, step] - stored)[real].max()
    assert error > 3e-4


SMALL = hf_cases.case_model("heads8_padded")  # with [4, 24] batches it shares that case's program
MODELS = {name: hf_cases.case_model(name) for name in hf_cases.FAMILIES}  # likewise


def packed_and_alone() -> tuple[Batch, Batch, list[slice]]:
    """Rows of three examples each, the same examples one a row, and where in the first row they lie.

    Both are [4, 24], so that one compiled program serves; rows end in padding, and rows 1 to 3 of the packed batch hold
    nothing else.
    """
    random = np.random.RandomState(0)
    spans, length = [slice(0, 7), slice(7, 12), slice(12, 21)], 24
    inputs, targets = random.randint(4, 128, (2, 4, length)).astype(np.int32)
    nothing = np.zeros((4, length), np.int32)
    packed = {"inputs": inputs, "targets": targets, "segment_ids": nothing, "loss_mask": nothing.astype(bool)}
    packed, alone = jax.tree.map(np.copy, packed), jax.tree.map(np.copy, packed)
    for row, span in enumerate(spans):
        size = span.stop - span.start
        for name in ("inputs", "targets"):
            alone[name][row, :size] = packed[name][0, span]
        packed["segment_ids"][0, span], alone["segment_ids"][row, :size] = row + 1, 1
        packed["loss_mask"][0, span.start + 2 : span.stop - row] = True
        alone["loss_mask"][row, 2 : size - row] = True
    return packed, alone, spans


def packing_errors(segment_ids: np.ndarray, model: ModelConfig) -> tuple[float, float, float]:
    """How far a packed row with these segments is from its examples alone: logits, loss, gradients."""
    params = hf_cases.random_params(model)
    packed, alone, spans = packed_and_alone()
    logits, loss, gradients = outputs(params, {**packed, "segment_ids": segment_ids}, model)
    expected = outputs(params, alone, model)
    return (
        max(
            np.abs(logits[0, span] - expected[0][row, : span.stop - span.start]).max() for row, span in enumerate(spans)
        ),
        abs(loss - expected[1]),
        max(map(relative, jax.tree.leaves(gradients), jax.tree.leaves(expected[2]))),
    )


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_packed_row_equals_its_examples_alone(model: ModelConfig) -> None:
    logits, loss, gradient = packing_errors(packed_and_alone()[0]["segment_ids"], model)
    assert logits < 1e-4
    assert loss < 1e-5
    assert gradient < 1e-4


@pytest.mark.parametrize("model", [MODELS["heads8_padded"], MODELS["qwen3"], MODELS["gemma"]])
def test_packing_test_notices_a_wrong_mask(model: ModelConfig) -> None:
    logits, loss, gradient = packing_errors(np.minimum(packed_and_alone()[0]["segment_ids"], 1), model)
    assert logits > 1e-2
    assert loss > 1e-3
    assert gradient > 1e-2


@pytest.mark.parametrize(
    ("name", "dtype", "largest"),
    [
        ("heads8_padded", "bfloat16", 1e-3),
        ("gemma", "bfloat16", 1e-3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("gemma", "float32", 1e-6), ("qwen3", "bfloat16", 1e-3), ("qwen3", "float32", 1e-6))
        ),
    ],
)
def test_a_segment_gives_the_same_at_any_offset_of_a_row(
    name: str, dtype: str, largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0 and 1,500 of 2,048; positions that count from the row's beginning would be noticed."""
    model, rotates = dataclasses.replace(MODELS[name], compute_dtype=dtype), name != "heads8_padded"
    if rotates:
        model.heads = model.kv_heads = 1
    inputs = np.random.RandomState(5).randint(4, 128, (1, 2048)).astype(np.int32)
    inputs[0, 1500:1560] = inputs[0, :60]
    segment_ids = np.repeat([1, 2, 3, 4], [60, 1440, 60, 488])[None].astype(np.int32)
    params = hf_cases.random_params(model)

    def difference() -> float:
        hidden = jax.jit(lambda params: decoder.forward(params, inputs, segment_ids, model))(params)
        first, second = (np.asarray(hidden[0, start : start + 60], np.float32) for start in (0, 1500))
        return relative(second, first)

    assert difference() < largest
    if rotates:
        monkeypatch.setattr(decoder, "segment_positions", lambda ids: jnp.arange(2048)[None])
        assert difference() > 3 * largest


def test_another_document_changes_no_bit() -> None:
    """What stands before a segment, or in padding, is not seen at all."""
    model, batch = MODELS["gemma"], packed_and_alone()[0]
    params, other = hf_cases.random_params(model), np.copy(batch["inputs"])
    other[0, :7] = 127 - other[0, :7]
    logits, changed = (outputs(params, {**batch, "inputs": inputs}, model)[0] for inputs in (batch["inputs"], other))
    assert np.array_equal(logits[0, 7:], changed[0, 7:])
    assert not np.array_equal(logits[0, :7], changed[0, :7])


@pytest.mark.parametrize("name", ["heads8_padded", "gemma"])
def test_one_block_at_a_time_equals_the_scan(name: str) -> None:
    model, batch = MODELS[name], packed_and_alone()[0]
    params = hf_cases.random_params(model)

    @jax.jit
    def blocks(params: Params, batch: Batch) -> jax.Array:
        rotations = decoder.attention_of(model).rotations(segment_positions(batch["segment_ids"]))
        x = decoder.embed(params, batch["inputs"], model)
        for layer, slides in enumerate(decoder.layer_kinds(model)):
            attend = decoder.make_attend(model, batch["segment_ids"], rotations, slides)
            x = decoder.block(jax.tree.map(lambda leaf, i=layer: leaf[i], params["blocks"]), x, attend, model)
        return decoder.logits(params, decoder.final_norm(params, x, model), model)

    np.testing.assert_allclose(blocks(params, batch), outputs(params, batch, model)[0], atol=2e-5, equal_nan=False)


@pytest.mark.parametrize(
    ("name", "remat", "implementation"),
    [
        ("heads8_padded", "dots", "xla"),
        ("heads8_padded", "full", "reference"),
        ("heads8_padded", "selective", "xla"),
        ("gemma", "selective", "reference"),
        pytest.param("gemma", "dots", "xla", marks=pytest.mark.slow),
        pytest.param("qwen3", "full", "reference", marks=pytest.mark.slow),
    ],
)
def test_remat_and_attention_change_no_result(name: str, remat: str, implementation: str) -> None:
    model, batch = MODELS[name], packed_and_alone()[0]
    params = hf_cases.random_params(model)
    base = outputs(params, batch, model)
    other = outputs(params, batch, dataclasses.replace(model, remat=remat, attention=implementation))
    np.testing.assert_allclose(other[0], base[0], atol=1e-5, equal_nan=False)
    assert max(map(relative, jax.tree.leaves(other[2]), jax.tree.leaves(base[2]))) < 1e-5


@pytest.mark.parametrize("name", ["heads8_padded", pytest.param("gemma", marks=pytest.mark.slow)])
def test_remat_recomputes_as_much_as_its_name_says(name: str) -> None:
    def products(remat: str) -> int:
        model = dataclasses.replace(MODELS[name], remat=remat, attention="reference")
        batch = packed_and_alone()[0]
        step = jax.make_jaxpr(jax.grad(lambda params: loss_and_logits(params, batch, model)[0]))
        return str(step(param_shapes(model))).count("dot_general")

    none, dots, selective, full = map(products, ("none", "dots", "selective", "full"))
    assert none < full
    assert none <= dots < selective < full


@pytest.mark.parametrize(("name", "kinds"), [("heads8_padded", ""), ("mistral", ""), ("gemma", "ssf")])
def test_program_size_does_not_grow_with_depth(name: str, kinds: str) -> None:
    def lines(turns: int, model: ModelConfig = MODELS[name]) -> int:
        model = dataclasses.replace(model, layers=3 * turns, layer_kinds=turns * kinds)
        batch = packed_and_alone()[0]
        step = jax.jit(jax.value_and_grad(lambda params: loss_and_logits(params, batch, model)[0]))
        return len(step.lower(param_shapes(model)).as_text().splitlines())

    assert lines(1) == lines(3)
    assert lines(1) != lines(1, dataclasses.replace(MODELS[name], remat="full"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("heads8_padded", (2, 2, 2)),
        ("heads8_padded", (1, 4, 2)),
        ("qwen3", (1, 2, 4)),  # two kv heads on four devices
        ("gemma", (2, 2, 2)),  # one on two
        *(
            pytest.param(name, shape, marks=pytest.mark.slow)
            for name in hf_cases.FAMILIES
            for shape in ((1, 8, 1), (8, 1, 1), (2, 2, 2), (1, 2, 4), (4, 1, 2))
            if hf_cases.case_model(name).heads % shape[2] == 0
        ),
    ],
)
def test_meshes_agree(name: str, shape: tuple[int, int, int]) -> None:
    model, batch = MODELS[name], packed_and_alone()[1]
    if shape[0] * shape[1] == 8:  # a row for each
        batch = jax.tree.map(lambda rows: np.concatenate([rows, rows]), batch)
    params = hf_cases.random_params(model)
    logits, loss, gradients = outputs(params, batch, model)
    mesh = make_mesh(MeshConfig(*shape))
    shardings = param_shardings(model, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    program = make_program(model, out_shardings=((whole, whole), shardings))
    with jax.set_mesh(mesh):
        placed = jax.device_put(batch, batch_sharding(mesh))
        (mesh_loss, mesh_logits), mesh_gradients = program(jax.device_put(params, shardings), placed)
    assert mesh_gradients["blocks"]["mlp_up"]["kernel"].sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    np.testing.assert_allclose(mesh_logits, logits, atol=1e-5, equal_nan=False)
    assert abs(float(mesh_loss) - loss) < 1e-5
    assert max(map(relative, jax.tree.leaves(mesh_gradients), jax.tree.leaves(gradients))) < 1e-5


def test_fresh_weights_follow_the_table_on_any_mesh() -> None:
    init = jax.jit(partial(decoder.init_params, SMALL))
    params, other = init(jax.random.key(0)), init(jax.random.key(1))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), param_shapes(SMALL)
    )
    for path in (("embedding", "table"), ("blocks", "mlp_down", "kernel")):
        assert float(leaf_of(params, path).std()) == pytest.approx(SMALL.initializer_range, rel=0.05)
        assert np.abs(leaf_of(params, path) - leaf_of(other, path)).max() > SMALL.initializer_range
    kernel = params["blocks"]["mlp_up"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > SMALL.initializer_range
    assert np.all(params["final_norm"]["scale"] == 1)
    assert np.all(params["blocks"]["qkv"]["bias"] == 0)

    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    sharded = decoder.init_sharded_params(SMALL, mesh, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded) == param_shardings(SMALL, mesh)
    assert sharded["blocks"]["mlp_up"]["kernel"].addressable_shards[0].data.size * 4 == kernel.size
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-7, equal_nan=False), sharded, params)


@pytest.mark.parametrize("name", ["heads8_padded", "gemma"])
def test_bfloat16_stays_near_float32(name: str) -> None:
    small, batch = MODELS[name], packed_and_alone()[0]
    model, params = dataclasses.replace(small, compute_dtype="bfloat16"), hf_cases.random_params(small)
    gradients = jax.eval_shape(make_program(model), params, batch)[1]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(gradients))
    loss, logits = jax.jit(partial(loss_and_logits, model=model))(params, batch)
    exact_logits, exact_loss, _ = outputs(params, batch, small)
    real = batch["segment_ids"] > 0
    assert logits.dtype == np.float32
    assert 1e-4 < relative(np.asarray(logits)[real], exact_logits[real]) < 0.03
    assert abs(float(loss) - exact_loss) < 0.02


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_rows_of_padding_alone_are_finite(model: ModelConfig) -> None:
    batch = packed_and_alone()[0]
    batch = {**batch, "segment_ids": np.zeros_like(batch["segment_ids"])}
    logits, _, gradients = outputs(hf_cases.random_params(model), batch, model)
    assert np.isfinite(logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("token", [-1, 128])
def test_an_id_outside_the_vocabulary_is_nan(token: int) -> None:
    hidden = decoder.forward(hf_cases.random_params(SMALL), jnp.array([[5, token]]), None, SMALL)
    assert np.isnan(hidden[0, 1]).all()
