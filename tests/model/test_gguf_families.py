import numpy as np
import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.gguf_families import (
    FAMILIES,
    Shape,
    biased_stems,
    check_biases,
    find_rope_scaling,
    from_gguf,
    full_layers,
    query_scalar,
    rope_divisors,
    shape_of,
    to_gguf,
)

SHAPE = Shape(embed=4, mlp=8, layers=1, heads=6, kv_heads=2, head_dim=8)
SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def test_rows_of_q_and_k_pair_neighbours() -> None:
    """llama.cpp rotates dimensions 2i and 2i + 1 together, Hugging Face i and i + head_dim / 2."""
    for name, heads in (("blk.0.attn_q.weight", 6), ("blk.0.attn_k.weight", 2)):
        rows = np.arange(heads * 8)[:, None] * np.ones(3)
        moved = to_gguf(FAMILIES["llama"], SHAPE, name, rows)
        assert moved[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
        assert moved[-8:, 0].tolist() == [heads * 8 - 8 + i for i in (0, 4, 1, 5, 2, 6, 3, 7)]
        np.testing.assert_array_equal(from_gguf(FAMILIES["llama"], SHAPE, name, moved), rows)
        for other in ("qwen2", "qwen3", "gemma3"):
            np.testing.assert_array_equal(to_gguf(FAMILIES[other], SHAPE, name, rows), rows)
        bias = to_gguf(FAMILIES["llama"], SHAPE, name.replace("weight", "bias"), rows[:, 0])
        np.testing.assert_array_equal(bias, moved[:, 0])


def test_gemmas_norms_hold_one_more() -> None:
    for stem in ("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"):
        name, weight = f"blk.0.{stem}.weight", np.array([0.5, -1.0], np.float32)
        assert to_gguf(FAMILIES["gemma3"], SHAPE, name, weight).tolist() == [1.5, 0.0]
        assert from_gguf(FAMILIES["gemma3"], SHAPE, name, weight + 1).tolist() == [0.5, -1.0]
        assert to_gguf(FAMILIES["qwen3"], SHAPE, name, weight).tolist() == [0.5, -1.0]
    assert to_gguf(FAMILIES["gemma3"], SHAPE, "output_norm.weight", weight).tolist() == [1.5, 0.0]


def test_blooms_queries_keys_and_values_lie_apart() -> None:
    rows = np.arange(2 * 3 * 4)
    shape = Shape(embed=8, mlp=32, layers=1, heads=2, kv_heads=2, head_dim=4)
    moved = to_gguf(FAMILIES["bloom"], shape, "blk.0.attn_qkv.bias", rows)
    assert moved.tolist() == [*range(4), *range(12, 16), *range(4, 8), *range(16, 20), *range(8, 12), *range(20, 24)]
    np.testing.assert_array_equal(from_gguf(FAMILIES["bloom"], shape, "blk.0.attn_qkv.bias", moved), rows)


def test_llama_3s_divisors_have_the_published_values() -> None:
    got = rope_divisors(5e5, 64, SCALING | {"factor": 32.0, "original_max_position_embeddings": 8192})
    np.testing.assert_allclose(got[[0, 14, 15, 16, 17, 18, 31]], [1, 1, 1.6513, 3.2923, 9.6667, 32, 32], rtol=1e-4)
    got = rope_divisors(1e4, 8, SCALING | {"original_max_position_embeddings": 64})
    np.testing.assert_allclose(got, [1, 7.66739, 8, 8], rtol=1e-5)
    for original in (64, 8192):
        scaling = SCALING | {"original_max_position_embeddings": original}
        assert find_rope_scaling(rope_divisors(1e4, 16, scaling), 1e4, 16) == scaling
    published = {"factor": 32.0, "original_max_position_embeddings": 8192}  # Llama 3.2
    found = find_rope_scaling(rope_divisors(5e5, 64, SCALING | published), 5e5, 64)
    assert found == SCALING | published
    assert find_rope_scaling(np.array([1, 2, 3, 5], np.float32), 1e4, 8) is None


def test_shape_of_refuses_what_is_no_count() -> None:
    bloom = {"hidden_size": 48, "n_layer": 2, "n_head": 6}
    assert shape_of(bloom) == Shape(48, 192, 2, 6, 6, 8)
    assert shape_of(bloom | {"head_dim": None}).head_dim == 8
    with pytest.raises(DataError, match="num_hidden_layers is 0"):
        shape_of(bloom | {"n_layer": 0})


def test_the_scale_of_queries_is_llama_cpps() -> None:
    assert query_scalar(62, 5376, 32, 128) == 168  # Gemma 3 27B
    assert query_scalar(26, 1152, 4, 256) == 256  # 1B
    assert [layer for layer, kind in enumerate(full_layers(18, 6)) if kind == "full_attention"] == [5, 11, 17]  # 270M


def test_biases_that_a_class_has() -> None:
    names = {"blk.0.attn_q.bias", "blk.0.attn_k.bias", "blk.0.attn_v.bias", "output.weight"}
    assert biased_stems(names) == {"attn_q", "attn_k", "attn_v", "output"}
    check_biases(FAMILIES["qwen2"], biased_stems(names), "f")
    for family in ("llama", "qwen3", "bloom"):
        with pytest.raises(DataError, match="cannot hold that"):
            check_biases(FAMILIES[family], biased_stems(names), "f")
