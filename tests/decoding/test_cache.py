import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bloom

from ecomgpt_jax.decoding import cache as cache_lib
from ecomgpt_jax.decoding import engine, greedy
from ecomgpt_jax.decoding.cache import LayerCache, append, attend_cached, from_prompt, init_cache
from ecomgpt_jax.model.attention import alibi_slopes, attend
from ecomgpt_jax.model.decoder import init_params
from ecomgpt_jax.model.parameters import split_layers

BATCH, LENGTH, HEADS, HEAD_DIM = 3, 10, 6, 8
ALIBI = {"slopes": alibi_slopes(HEADS), "window": 0, "scale": HEAD_DIM**-0.5}


@pytest.fixture
def qkv() -> jax.Array:
    random = np.random.RandomState(0)
    return jnp.asarray(random.standard_normal((3, BATCH, LENGTH, HEADS, HEAD_DIM)), jnp.float32)


@partial(jax.jit, static_argnames=("kv_heads", "window"))
def cached_contexts(
    qkv: jax.Array, positions: jax.Array, shift: int = 0, kv_heads: int = HEADS, window: int = 0
) -> jax.Array:
    """The context of each row's query at its position; what the cache holds from there on must not matter."""
    keys, values = qkv[1:, :, :, :kv_heads]
    q, k, v = (jnp.take_along_axis(array, positions[:, None, None, None], axis=1) for array in (qkv[0], keys, values))
    layer = from_prompt(keys, values, LENGTH + 4)
    before = jnp.arange(LENGTH + 4)[None, None, :, None] < positions[:, None, None, None]
    layer = LayerCache(*(jnp.where(before, array, 7.0) for array in layer))
    rules = ALIBI if kv_heads == HEADS else {"slopes": None, "window": window, "scale": 0.4}
    return attend_cached(q, append(layer, k, v, positions), positions + shift, **rules)[:, 0]


def test_a_query_sees_its_row_up_to_its_own_position(qkv: jax.Array) -> None:
    positions = jnp.array([9, 0, 4])
    whole = attend(*qkv, implementation="reference", slopes=ALIBI["slopes"])
    expected = jnp.stack([whole[row, position] for row, position in enumerate(positions)])
    np.testing.assert_allclose(cached_contexts(qkv, positions), expected, atol=2e-6)
    for shift in (-1, 1):  # negative controls
        assert abs(cached_contexts(qkv, positions, shift) - expected).max() > 1e-2


@pytest.mark.parametrize("window", [0, 4])
def test_grouped_heads_and_a_window(qkv: jax.Array, window: int) -> None:
    positions = jnp.array([9, 0, 4])
    grouped = (qkv[0], *qkv[1:, :, :, :2])
    whole = attend(*grouped, implementation="reference", window=window, scale=0.4)
    expected = jnp.stack([whole[row, position] for row, position in enumerate(positions)])
    np.testing.assert_allclose(cached_contexts(qkv, positions, 0, 2, window), expected, atol=2e-6)
    assert abs(cached_contexts(qkv, positions, 0, 2, 3) - expected).max() > 1e-2


@pytest.mark.parametrize(("platform", "barrier"), [("cpu", True), ("cpu", False), ("tpu", True)])
def test_a_cpu_multiplies_shared_keys_as_they_lie(
    platform: str, barrier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores have the keys' positions before the queries; without the barrier the compiler turns the product round."""
    monkeypatch.setattr(cache_lib, "ambient_platform", lambda: platform)
    if not barrier:
        monkeypatch.setattr(jax.lax, "optimization_barrier", lambda x: x)
    q, kept = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 1, 12, 64), (8, 4, 96, 64)))

    def contexts(q: jax.Array, kept: jax.Array, positions: jax.Array) -> jax.Array:
        return attend_cached(q, LayerCache(kept, kept), positions, slopes=None, window=0, scale=0.1)

    program = jax.jit(contexts).lower(q, kept, jax.ShapeDtypeStruct((8,), jnp.int32)).compile().as_text()
    products = [line.split("=")[1].split("{")[0].strip() for line in program.splitlines() if " dot(" in line]
    assert ("f32[8,4,96,3]" in products) == (platform == "cpu" and barrier)


def test_append_changes_one_position_of_each_row(qkv: jax.Array) -> None:
    positions = jnp.array([2, 13, 0])
    layer = from_prompt(qkv[1], qkv[2], 14)
    new = append(layer, qkv[1][:, :1] + 1, qkv[2][:, :1] + 1, positions)
    changed = np.asarray((new.keys != layer.keys).any(axis=(1, 3)) & (new.values != layer.values).any(axis=(1, 3)))
    assert np.argwhere(changed).tolist() == [[0, 2], [1, 13], [2, 0]]


def test_a_cache_has_one_pair_of_arrays_a_layer() -> None:
    model = tiny_bloom.MODEL
    cache = init_cache(model, BATCH, LENGTH)
    assert len(cache) == model.layers
    assert jax.tree.leaves(cache)[0].shape == (BATCH, model.heads, LENGTH, model.embed // model.heads)


@pytest.mark.parametrize(("platform", "narrow"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_a_narrow_cache_is_wide_on_a_cpu(
    platform: str, narrow: str, qkv: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_lib, "ambient_platform", lambda: platform)
    for compute_dtype, dtype in (("float32", "float32"), ("bfloat16", narrow)):
        cache = init_cache(dataclasses.replace(tiny_bloom.MODEL, compute_dtype=compute_dtype), BATCH, LENGTH)
        layer = from_prompt(*qkv[1:].astype(compute_dtype), LENGTH)
        assert {leaf.dtype for leaf in jax.tree.leaves((cache, layer))} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_contexts_of_a_wide_cache_are_those_of_a_narrow_one(
    kv_heads: int, qkv: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, positions, contexts = qkv.astype(jnp.bfloat16), jnp.array([9, 0, 4]), []
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(cache_lib, "ambient_platform", lambda platform=platform: platform)
        cached_contexts.clear_cache()
        contexts.append(cached_contexts(q, positions, 0, kv_heads))
    assert contexts[0].dtype == contexts[1].dtype == jnp.bfloat16
    np.testing.assert_array_equal(*contexts)
    assert (contexts[0] != cached_contexts(qkv, positions, 0, kv_heads)).any()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_no_call_copies_a_cache_of_bfloat16(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_lib, "ambient_platform", lambda: platform)
    model = dataclasses.replace(tiny_bloom.MODEL, compute_dtype="bfloat16")
    params = split_layers(init_params(model, jax.random.key(0)), model)
    programs = engine._programs.__wrapped__(dataclasses.astuple(model))  # not those of another platform
    slots = programs.empty(batch=64, length=512, width=32)
    stop = greedy.make_limits((2,), range(model.vocab_size), 32, model.vocab_size)
    masked = stop._replace(allowed=np.broadcast_to(stop.allowed, (64, model.vocab_size)))
    calls = [
        programs.decode.lower(params, slots, stop, 0), programs.step.lower(params, slots, masked),
        programs.insert.lower(slots, programs.empty(batch=8, length=32, width=32), np.arange(8, dtype=np.int32)),
    ]  # fmt: skip
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(slots.cache))
    copied = [call.compile().memory_analysis().temp_size_in_bytes > size / 2 for call in calls]
    if platform == "cpu":
        assert not any(copied)
    else:  # the negative control, a bfloat16 cache on a CPU; with jax 0.12 its insertion copies nothing either
        assert copied[:2] == [True, True]
