"""The key/value cache of decoding: one pair of arrays per layer, with a separate position for every row.

Rows are padded on the right and have separate positions, so no left padding is needed: ALiBi and a window depend only
on the distance `key - query`, keys are rotated by their positions before they are stored, and entries after a row's
position are masked until they are overwritten. Layers are a tuple and not one stacked array, which would be copied in
every step of a loop. On a CPU the cache of a bfloat16 model is float32, with the same values: XLA would convert a whole
bfloat16 cache to float32 and back in every call that writes to it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model.product import matmul_precision
from ecomgpt_jax.parallel.sharding import ambient_platform, constrain

_MASKED = -1e30  # finite, so that no row of scores can turn into nan


class LayerCache(NamedTuple):
    """Keys and values of one layer, each [batch, kv_heads, length, head_dim] in the cache's dtype."""

    keys: jax.Array
    values: jax.Array


Cache = tuple[LayerCache, ...]


def cache_dtype(compute_dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """Returns the dtype of the cache of a model that computes in `compute_dtype`, on the platform of the mesh."""
    dtype = jnp.dtype(compute_dtype)
    return jnp.dtype(jnp.float32) if dtype == jnp.bfloat16 and ambient_platform() == "cpu" else dtype


def place(array: jax.Array) -> jax.Array:
    """Constrains a layer's keys or values to the mesh: rows over the batch axes, kv_heads over `tensor`."""
    return constrain(array, "batch", "kv_heads", "length", "head_dim")


def init_cache(model: ModelConfig, batch: int, length: int) -> Cache:
    """Returns an empty cache for `batch` rows of `length` tokens."""
    shape = (batch, model.key_heads, length, model.head_width)

    def empty() -> jax.Array:
        return place(jnp.zeros(shape, cache_dtype(model.compute_dtype)))

    return tuple(LayerCache(empty(), empty()) for _ in range(model.layers))


def from_prompt(keys: jax.Array, values: jax.Array, length: int) -> LayerCache:
    """Returns a layer's cache of `length` positions that begins with a prompt's keys and values.

    Args:
      keys: [batch, prompt_length, kv_heads, head_dim], `prompt_length <= length`.
      values: same shape.
      length: positions per row.
    """
    room = ((0, 0), (0, 0), (0, length - keys.shape[1]), (0, 0))

    def rows(prompt: jax.Array) -> jax.Array:
        return place(jnp.pad(prompt.swapaxes(1, 2).astype(cache_dtype(prompt.dtype)), room))

    return LayerCache(rows(keys), rows(values))


def append(layer: LayerCache, keys: jax.Array, values: jax.Array, positions: jax.Array) -> LayerCache:
    """Writes one token's keys and values [batch, 1, kv_heads, head_dim] at each row's position, int32 [batch]."""

    def write(cache: jax.Array, token: jax.Array) -> jax.Array:
        one = jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice_in_dim(row, new, at, axis=1))
        return place(one(cache, token.swapaxes(1, 2).astype(cache.dtype), positions))

    return LayerCache(write(layer.keys, keys), write(layer.values, values))


def attend_cached(
    q: jax.Array, layer: LayerCache, positions: jax.Array, *, slopes: np.ndarray | None, window: int, scale: float
) -> jax.Array:
    """Attends from one query per row to its row of the cache, up to and including its position.

    Args:
      q: [batch, 1, heads, head_dim] in the compute dtype.
      layer: a layer's cache, with the keys and values of the queries' own tokens.
      positions: int32 [batch], of the queries.
      slopes: ALiBi's, float [heads]; None: none.
      window: keys that a query attends to, its own included; 0: all.
      scale: of the scores.

    Returns:
      [batch, 1, heads, head_dim] in the dtype of `q`; scores, bias and softmax are float32.
    """
    precision = matmul_precision(q.dtype)
    batch, _, heads, _ = q.shape
    # Queries that share keys are rows of one product, so that the cache is read once.
    shared = heads != layer.keys.shape[1]
    query = q.reshape(batch, layer.keys.shape[1], -1, q.shape[-1]) if shared else q[:, 0]
    product = partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    if shared and ambient_platform() == "cpu":
        # With the queries as first operand XLA copies all keys into another layout; the barrier prevents that order.
        scores = jax.lax.optimization_barrier(product("bgkd,bgrd->bgkr", layer.keys, query)).swapaxes(2, 3)
    else:
        scores = product("bgrd,bgkd->bgrk" if shared else "bhd,bhkd->bhk", query, layer.keys)
    scores = scores.reshape(batch, heads, -1)
    distance = jnp.arange(layer.keys.shape[2])[None, :] - positions[:, None]
    scores = scores * scale
    if slopes is not None:
        scores = scores + jnp.asarray(slopes)[:, None] * distance[:, None].astype(jnp.float32)
    visible = distance[:, None] <= 0
    if window:
        visible &= distance[:, None] > -window
    weights = jax.nn.softmax(jnp.where(visible, scores, _MASKED), axis=-1).astype(q.dtype)
    weights = weights.reshape(*query.shape[:3], -1) if shared else weights
    equation = "bgrk,bgkd->bgrd" if shared else "bhk,bhkd->bhd"
    return jnp.einsum(equation, weights, layer.values, precision=precision).astype(q.dtype).reshape(q.shape)
