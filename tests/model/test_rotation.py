import jax.numpy as jnp
import numpy as np
import pytest

from ecomgpt_jax.model.rotation import angles, inverse_frequencies, rotate


def divisors(head_dim: int, theta: float, scaling: str) -> np.ndarray:
    return inverse_frequencies(head_dim, theta) / inverse_frequencies(head_dim, theta, scaling)


def test_llama3_scaling_divides_by_one_by_the_factor_or_by_something_between() -> None:
    """Llama 3.2's frequencies (HF's `_compute_llama3_parameters`), and an original length that acts on tiny heads."""
    found = divisors(64, 5e5, "llama3:32.0:1.0:4.0:8192")
    np.testing.assert_allclose(found[15:18], [1.6513, 3.2923, 9.6667], rtol=1e-4)
    np.testing.assert_allclose(found[:15], 1, rtol=1e-6)
    np.testing.assert_allclose(found[18:], 32, rtol=1e-6)
    np.testing.assert_allclose(divisors(8, 1e4, "llama3:8.0:1.0:4.0:64"), [1, 7.66739, 8, 8], rtol=1e-5)
    np.testing.assert_allclose(divisors(8, 1e4, "llama3:8.0:1.0:4.0:8192"), [1, 1, 1, 4.68148], rtol=1e-5)


def test_linear_scaling_divides_all() -> None:
    np.testing.assert_allclose(divisors(16, 1e6, "linear:8.0"), 8, rtol=1e-6)


@pytest.mark.parametrize(
    ("scaling", "theirs"),
    [
        ("llama3:8.0:1.0:4.0:64", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
        ("linear:3.0", {"rope_type": "linear", "factor": 3.0}),
    ],
)  # fmt: skip
def test_frequencies_equal_hf(scaling: str, theirs: dict) -> None:
    pytest.importorskip("torch")  # transformers is there always, its rotations need it
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(head_dim=24, rope_parameters=theirs | {"rope_theta": 3e4})
    expected, factor = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, "cpu")
    assert factor == 1
    np.testing.assert_allclose(inverse_frequencies(24, 3e4, scaling), expected.numpy(), rtol=1e-6)


def test_angles_are_float32_wherever_bfloat16_has_no_such_position() -> None:
    """257 and 4,095 would be 256 and 4,096."""
    places, frequencies = np.array([[0, 257, 4095]]), inverse_frequencies(16, 1e4)[None]
    cosines, sines = angles(frequencies, jnp.asarray(places))
    exact = places[..., None] * frequencies[0].astype(np.float64)
    assert cosines.dtype == sines.dtype == jnp.float32
    np.testing.assert_allclose(cosines[0], np.cos(exact), atol=3e-4)
    np.testing.assert_allclose(sines[0], np.sin(exact), atol=3e-4)


def test_rotation_of_halves_equals_hf_and_rounds_once() -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    random = np.random.RandomState(0)
    x = random.standard_normal((2, 5, 3, 8)).astype(np.float32)
    rotation = [part[0] for part in angles(inverse_frequencies(8, 1e4)[None], jnp.arange(5)[None] * jnp.ones((2, 1)))]
    cosines, sines = (torch.from_numpy(np.concatenate([part, part], -1)) for part in rotation)
    theirs, _ = apply_rotary_pos_emb(torch.from_numpy(x), torch.from_numpy(x), cosines, sines, unsqueeze_dim=2)
    np.testing.assert_allclose(rotate(jnp.asarray(x), rotation), theirs.numpy(), atol=1e-6)
    narrow = rotate(jnp.asarray(x, jnp.bfloat16), rotation)
    wide = rotate(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), rotation)
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))
