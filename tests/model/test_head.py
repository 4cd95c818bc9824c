import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.model import head
from ecomgpt_jax.parallel.mesh import batch_sharding, make_mesh
from ecomgpt_jax.parallel.sharding import array_sharding

VOCAB, EMBED, ROWS, LENGTH = 64, 16, 8, 12
TARGETS = ModelConfig(vocab_size=VOCAB, head_chunk=5)
FULL = None  # the oracle below
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def arrays(n_targets: int, dtype: jax.typing.DTypeLike = np.float32) -> Arrays:
    """table, hidden, targets and a mask with `n_targets` targets, unevenly spread over the rows."""
    random = np.random.RandomState(n_targets)
    table = random.standard_normal((VOCAB, EMBED)).astype(np.float32)
    hidden = jnp.asarray(random.standard_normal((ROWS, LENGTH, EMBED)), dtype)
    targets = random.randint(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    mask = np.zeros(ROWS * LENGTH, bool)
    mask[random.permutation(max(n_targets, ROWS * LENGTH // 2))[:n_targets]] = True
    return table, hidden, targets, mask.reshape(ROWS, LENGTH)


def full_loss_sum(
    table: jax.Array, hidden: jax.Array, targets: jax.Array, loss_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The oracle of `head.loss_sum`: logits at every position."""
    weights = jnp.asarray(loss_mask, jnp.float32)
    precision = jax.lax.Precision.HIGHEST
    logits = jnp.einsum("ble,ve->blv", hidden, table, precision=precision, preferred_element_type=jnp.float32)
    at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses = (jax.nn.logsumexp(logits, axis=-1) - at_target) * weights
    return jnp.sum(losses, where=weights != 0), weights.sum()


@lru_cache
def program(*fields: Any) -> Callable[..., Any]:
    """Loss, count and gradients, with a factor on the loss as a mean would put there; compiled once a model."""

    def scaled(table: jax.Array, hidden: jax.Array, targets: jax.Array, mask: jax.Array) -> tuple[jax.Array, tuple]:
        loss_sum = partial(head.loss_sum, model=ModelConfig(*fields)) if fields else full_loss_sum
        loss, count = loss_sum(table, hidden, targets, mask)
        return loss * 0.7, (loss, count)

    return jax.jit(jax.value_and_grad(scaled, argnums=(0, 1), has_aux=True))


def run(model: ModelConfig | None, *arrays: np.ndarray) -> tuple:
    """(loss, count, gradient of table, gradient of hidden)."""
    (_, (loss, count)), gradients = program(*(dataclasses.astuple(model) if model else ()))(*arrays)
    return loss, count, *gradients


def assert_same(ours: tuple, expected: tuple, tolerance: float = 1e-5) -> None:
    for one, other in zip(ours, expected, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, atol=tolerance * (1 + np.abs(other).max()), rtol=0, equal_nan=False)


@pytest.mark.parametrize("n_targets", [0, 1, 15, 13, ROWS * LENGTH])
def test_targets_only_equals_full(n_targets: int) -> None:
    inputs = arrays(n_targets)
    ours = run(TARGETS, *inputs)
    assert float(ours[1]) == n_targets
    assert_same(ours, run(FULL, *inputs))
    if not n_targets:
        assert not any(np.any(x) for x in ours)


def test_full_equals_the_definition() -> None:
    table, hidden, targets, mask = arrays(13)
    logits = np.asarray(hidden, np.float64) @ table.T.astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -sum(log_probabilities[b, t, targets[b, t]] for b, t in zip(*np.nonzero(mask), strict=True))
    assert float(run(FULL, table, hidden, targets, mask)[0]) == pytest.approx(expected, rel=1e-6)


def test_comparison_notices_shifted_targets() -> None:
    table, hidden, targets, mask = arrays(13)
    expected = run(FULL, table, hidden, targets, mask)
    for wrong in ((table, hidden, np.roll(targets, 1, 1), mask), (table, hidden, targets, np.roll(mask, 1, 1))):
        with pytest.raises(AssertionError):
            assert_same(run(TARGETS, *wrong), expected)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_chunk_changes_no_result(chunk: int) -> None:
    inputs = arrays(29)
    assert_same(run(dataclasses.replace(TARGETS, head_chunk=chunk), *inputs), run(FULL, *inputs))


def test_weights() -> None:
    table, hidden, targets, mask = arrays(20)
    weights = np.where(mask, np.random.RandomState(0).uniform(0.1, 2, mask.shape), 0).astype(np.float32)
    ours = run(TARGETS, table, hidden, targets, weights)
    assert_same(ours, run(FULL, table, hidden, targets, weights))
    assert float(ours[1]) == pytest.approx(weights.sum(), rel=1e-6)
    with pytest.raises(AssertionError):
        assert_same(ours, run(FULL, table, hidden, targets, mask))


def test_forward_alone_and_large_logits() -> None:
    table, hidden, targets, mask = arrays(13)
    loss, _ = jax.jit(partial(head.loss_sum, model=TARGETS))(table, hidden * 1000, targets, mask)
    assert float(loss) == pytest.approx(float(run(FULL, table, hidden * 1000, targets, mask)[0]), rel=1e-6)
    assert np.isfinite(float(loss))


def test_bfloat16_accumulates_in_float32() -> None:
    inputs = arrays(60, jnp.bfloat16)
    loss, count, d_table, d_hidden = run(dataclasses.replace(TARGETS, head_chunk=1), *inputs)
    exact = run(FULL, inputs[0].astype(jnp.bfloat16).astype(np.float32), inputs[1].astype(np.float32), *inputs[2:])
    assert (d_table.dtype, d_hidden.dtype) == (np.float32, jnp.bfloat16)
    assert_same((loss, count), exact[:2])
    assert_same((d_table, d_hidden), exact[2:], tolerance=5e-3)


def test_logits_exist_for_a_chunk_only() -> None:
    def shapes(loss_sum: Callable[..., tuple]) -> str:
        table, hidden, targets, mask = arrays(13)
        return str(jax.make_jaxpr(jax.grad(lambda x: loss_sum(table, x, targets, mask)[0]))(hidden))

    ours = shapes(partial(head.loss_sum, model=TARGETS))
    assert f"f32[{ROWS},{LENGTH},{VOCAB}]" in shapes(full_loss_sum)
    assert f"f32[{ROWS},{LENGTH},{VOCAB}]" not in ours
    assert f"f32[{ROWS * LENGTH},{VOCAB}]" not in ours
    assert f"f32[5,{VOCAB}]" in ours


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_target_outside_the_vocabulary_is_nan(token: int) -> None:
    table, hidden, targets, mask = arrays(13)
    targets[np.nonzero(~mask)[0][0], np.nonzero(~mask)[1][0]] = token
    assert np.isfinite(float(run(TARGETS, table, hidden, targets, mask)[0]))
    targets[np.nonzero(mask)[0][0], np.nonzero(mask)[1][0]] = token
    assert np.isnan(float(run(TARGETS, table, hidden, targets, mask)[0]))


@pytest.mark.parametrize(
    ("shape", "ambient"), [((8, 1, 1), True), ((2, 2, 2), True), ((1, 1, 8), True), ((2, 2, 2), False)]
)
def test_meshes_agree(shape: tuple[int, int, int], ambient: bool) -> None:
    table, hidden, targets, mask = inputs = arrays(23)
    mesh = make_mesh(MeshConfig(*shape))
    placed = (
        jax.device_put(table, array_sharding("table", table.shape, ("vocab", "embed"), mesh)),
        *(jax.device_put(x, batch_sharding(mesh)) for x in (hidden, targets, mask)),
    )
    expected = run(FULL, *inputs)
    if ambient:
        with jax.set_mesh(mesh):
            assert_same(run(TARGETS, *placed), expected)
    else:
        assert_same(run(TARGETS, *placed), expected)
