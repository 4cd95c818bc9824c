import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model import decoder, head
from ecomgpt_jax.model.layers import Adapters
from ecomgpt_jax.model.product import product, stream_dtype

NARROW = jnp.dtype(jnp.bfloat16)
RANDOM = np.random.default_rng(0)
MODEL = ModelConfig(family="bloom", size="custom", vocab_size=96, embed=32, layers=2, heads=4, compute_dtype="bfloat16")


def rounded(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.mark.parametrize(("equation", "shapes"), [
    ("bti,io->bto", ((2, 7, 6), (6, 10))),
    ("bthi,hio->bto", ((2, 7, 3, 4), (3, 4, 5))),
    ("bti,ihjk->bthjk", ((2, 7, 6), (6, 2, 3, 5))),
    ("bhgqd,bhkd->bhgqk", ((2, 2, 3, 4, 5), (2, 2, 6, 5))),
])  # fmt: skip
@pytest.mark.parametrize("kept", [np.float32, ml_dtypes.bfloat16])
def test_products_and_gradients_are_those_of_rounded_arrays(
    equation: str, shapes: tuple[tuple[int, ...], ...], kept: type
) -> None:
    x, y = (jnp.asarray(RANDOM.standard_normal(shape), kept) for shape in shapes)
    found, pull = jax.vjp(lambda *of: product(equation, *of, NARROW), x, y)
    exact = np.einsum(equation, rounded(x), rounded(y))
    near = 2e-6 if kept is np.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=near, atol=near)
    assert found.dtype == kept
    cotangent = jnp.asarray(RANDOM.standard_normal(exact.shape), kept)
    (first, second), out = equation.split("->")[0].split(","), equation.split("->")[1]
    expected = (
        np.einsum(f"{out},{second}->{first}", rounded(cotangent), rounded(y)),
        np.einsum(f"{first},{out}->{second}", rounded(x), rounded(cotangent)),
    )
    for gradient, exact in zip(pull(cotangent), expected, strict=True):
        assert gradient.dtype == kept
        np.testing.assert_allclose(np.asarray(gradient, np.float64), exact, rtol=near, atol=4 * near)
    if kept is np.float32:
        unrounded = np.einsum(equation, np.asarray(x, np.float64), np.asarray(y, np.float64))
        assert np.abs(found - unrounded).max() > 1e-3


def test_float32_products_are_not_rounded() -> None:
    x, y = (jnp.asarray(RANDOM.standard_normal(shape), jnp.float32) for shape in ((2, 7, 6), (6, 10)))
    exact = np.einsum("bti,io->bto", np.asarray(x, np.float64), np.asarray(y, np.float64))
    np.testing.assert_allclose(product("bti,io->bto", x, y, jnp.float32), exact, rtol=1e-5, atol=1e-6)


def dots(compute_dtype: str, weights: str) -> list[str]:
    """The types of all products in the program of a training step's gradient."""
    model = dataclasses.replace(MODEL, compute_dtype=compute_dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(weights), decoder.init_params(model, jax.random.key(0)))
    a = {"lora_a": jnp.ones((model.layers, model.embed, 4)), "lora_b": jnp.ones((model.layers, 4, 4 * model.embed))}
    ids = jnp.ones((2, 16), jnp.int32)

    def loss(trained: dict, params: dict) -> jax.Array:
        hidden = decoder.forward(params, ids, None, model, Adapters(trained, None, 2.0, 0.0))
        return head.loss_sum(decoder.head_table(params), hidden, ids, ids > 0, model)[0]

    text = jax.jit(jax.grad(loss, (0, 1))).lower({"mlp_up": a}, params).as_text()
    return [line.split(" : ")[-1] for line in text.splitlines() if "dot_general" in line]


@pytest.mark.parametrize("weights", ["bfloat16", "float32"])
def test_a_cpu_multiplies_bfloat16_into_float32_throughout(weights: str) -> None:
    """Any other product of bfloat16 runs as one of float32, and one forgotten product costs as much as all others."""
    found = dots("bfloat16", weights)
    assert len(found) > 20
    for types in found:
        inputs, result = types.split("->")
        assert inputs.count("bf16>") == 2, types
        assert result.rstrip().endswith("xf32>"), types
    assert not any("bf16" in types for types in dots("float32", "float32"))


def test_weights_in_bfloat16_leave_the_stream_in_float32_on_a_cpu() -> None:
    assert stream_dtype("bfloat16", "bfloat16") == jnp.float32
    assert stream_dtype("float32", "bfloat16") == jnp.bfloat16  # full fine-tuning
    assert stream_dtype("float32", "float32") == jnp.float32
    params = decoder.init_params(MODEL, jax.random.key(0))
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    ids = jnp.asarray(RANDOM.integers(0, 96, (2, 16)))
    wide = dataclasses.replace(MODEL, compute_dtype="float32")
    exact = decoder.forward(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow), ids, None, wide)
    found, old = decoder.forward(narrow, ids, None, MODEL), decoder.forward(params, ids, None, MODEL)
    assert (found.dtype, old.dtype) == (jnp.float32, jnp.bfloat16)
    error, old_error = (float(jnp.abs(hidden.astype(jnp.float32) - exact).mean()) for hidden in (found, old))
    assert 0 < error < old_error / 2
