import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ecomgpt_jax.model.layers import Linear, RMSNorm


def norm(weight: np.ndarray, epsilon: float, *, centred: bool) -> RMSNorm:
    return RMSNorm(lambda path: nnx.Param(jnp.asarray(weight)), "norm", epsilon, centred=centred)


@pytest.mark.parametrize("centred", [False, True])
def test_norms_round_where_hf_rounds_them(centred: bool) -> None:
    """Llama rounds the quotient before it is multiplied, Gemma the product: the same weights give other bits."""
    torch = pytest.importorskip("torch")
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    random = np.random.RandomState(0)
    x = jnp.asarray(random.randint(-32, 33, (64, 40)) / 8, jnp.bfloat16)  # squares add up exactly in any order
    weight = jnp.asarray(random.standard_normal(40), jnp.bfloat16)
    theirs = (Gemma3RMSNorm if centred else LlamaRMSNorm)(40, eps=1e-2).to(torch.bfloat16)
    theirs.weight.data = torch.from_numpy(np.array(weight, np.float32)).bfloat16()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.array(x, np.float32)).bfloat16()).float().numpy()
    found = np.asarray(norm(weight, 1e-2, centred=centred)(x), np.float32)
    np.testing.assert_array_equal(found, expected)
    assert (found != np.asarray(norm(weight - centred + (not centred), 1e-2, centred=not centred)(x))).mean() > 0.01


@pytest.mark.parametrize("centred", [False, True])
def test_one_large_entry_does_not_swamp_the_mean_square(centred: bool) -> None:
    x = np.full(2048, 0.1)
    x[7] = 300
    x = jnp.asarray(x, jnp.bfloat16)
    exact = np.asarray(x, np.float64) / np.sqrt(np.square(np.asarray(x, np.float64)).mean())
    found = np.asarray(norm(np.full(2048, 1.0 - centred), 1e-6, centred=centred)(x), np.float64)
    assert np.abs(found / exact - 1).max() <= 2**-8


def test_a_linear_layer_without_a_bias() -> None:
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    layer = Linear(lambda path: nnx.Param(jnp.asarray(kernel)) if path.endswith("kernel") else None, "blocks/x", 2)
    x = np.ones((1, 5, 2, 3), np.float32)
    np.testing.assert_allclose(layer(jnp.asarray(x)), np.einsum("blhd,hde->ble", x, kernel))
