"""The two forward passes of decoding, with the blocks of training: over whole prompts, and over one token per row.

Prompts may be packed one after another, so that operations on single tokens have no padding; only for attention each
prompt is in a separate row, with positions from its first token. The last block computes only keys and values for all
tokens, and the rest for the last token of each prompt, after which the answer begins.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import cache as cache_lib
from ecomgpt_jax.decoding.cache import Cache, LayerCache
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.layers import Attend
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.model.rotation import Rotation
from ecomgpt_jax.parallel.sharding import constrain


def _attend_prompts(
    model: ModelConfig, rows: tuple[int, int], lengths: jax.Array, starts: jax.Array | None, length: int,
    slides: jax.typing.ArrayLike | None, kept: list[tuple[jax.Array, jax.Array]],
) -> Attend:  # fmt: skip
    """Returns the attention of a block whose input has `rows` [rows, tokens]; each prompt attends only to itself.

    Without `starts` each prompt has a row of the input, otherwise it is copied to a row of `length` tokens.
    """
    places = jnp.arange(rows[1] if starts is None else length)[None, :]
    inside = places < lengths[:, None]
    rotations = decoder.attention_of(model).rotations(places)
    attend = decoder.make_attend(model, inside.astype(jnp.int32), rotations, slides, kept)
    if starts is None:
        return attend
    starts = starts.reshape(rows[0], -1)
    sources = starts[:, :, None] + places  # [rows, prompts, length]
    tokens = jnp.arange(rows[1])[None, :]
    # The last start up to a token is that of its prompt; the prompt of padding is arbitrary.
    owners = jnp.maximum((starts[:, :, None] <= tokens[:, None]).sum(axis=1) - 1, 0)
    targets = owners * length + jnp.clip(tokens - jnp.take_along_axis(starts, owners, axis=1), 0, length - 1)

    def unpack(array: jax.Array) -> jax.Array:
        apart = jax.vmap(lambda row, at: row.at[at].get(mode="clip"))(array, sources)
        apart = apart.reshape(-1, length, *array.shape[2:])
        return constrain(jnp.where(inside[:, :, None, None], apart, 0), "batch", "length", "kv_heads", "head_dim")

    def packed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        context = attend(*map(unpack, (q, k, v)))
        context = context.reshape(rows[0], -1, *context.shape[2:])
        return jax.vmap(lambda row, at: row.at[at].get(mode="promise_in_bounds"))(context, targets)

    return packed


@partial(jax.jit, static_argnames="fields")
def embed(params: Params, inputs: jax.Array, fields: tuple) -> jax.Array:
    """Maps token ids int [rows, tokens] to the first block's input; `fields` are those of the model."""
    return decoder.embed(params, inputs, ModelConfig(*fields))


@partial(jax.jit, static_argnames=("fields", "cache_length"), donate_argnames="x")
def read_block(
    block_params: Params, x: jax.Array, lengths: jax.Array, starts: jax.Array | None, fields: tuple, cache_length: int,
    slides: jax.typing.ArrayLike | None,
) -> tuple[jax.Array, LayerCache | None]:  # fmt: skip
    """Reads whole prompts through one block: one program for all blocks, so compile time does not grow with depth.

    Args:
      block_params: one of a layered model's `blocks`.
      x: [rows, tokens, embed], the block's input; it is donated.
      lengths: as in `prefill`.
      starts: as in `prefill`.
      fields: of the model.
      cache_length: positions that the cache has room for; 0: no cache is kept.
      slides: of this block, from `decoder.layer_kinds`.

    Returns:
      (the block's output, its cache or None).
    """
    model, kept = ModelConfig(*fields), []
    attend = _attend_prompts(model, x.shape[:2], lengths, starts, cache_length, slides, kept)
    x = decoder.block(block_params, x, attend, model)
    return x, cache_lib.from_prompt(*kept[0], cache_length) if cache_length else None


@partial(jax.jit, static_argnames=("fields", "cache_length"))
def _read_last_block(
    params: Params, x: jax.Array, lengths: jax.Array, starts: jax.Array | None, fields: tuple, cache_length: int
) -> tuple[LayerCache, jax.Array]:
    """Reads prompts through the last block and the head; `params` contain no other block.

    Returns:
      (the block's cache, logits [batch, vocab] after each prompt's last token).
    """
    model, kept = ModelConfig(*fields), []
    of, block_params = decoder.attention_of(model), params["blocks"][0]
    slides = bool(of.slides[-1])
    attend = _attend_prompts(model, x.shape[:2], lengths, starts, cache_length, slides, kept)
    decoder.block(block_params, x, attend, model)  # its output is unused and so not computed
    last = jnp.maximum(lengths - 1, 0)
    at = last[:, None] if starts is None else (starts + last).reshape(len(x), -1)
    x = jax.vmap(lambda row, at: row.at[at].get(mode="clip"))(x, at).reshape(len(lengths), 1, -1)
    layer, rotations = cache_lib.from_prompt(*kept[0], cache_length), of.rotations(last[:, None])
    x, layer = _step_block(block_params, x, layer, last, rotations, slides, model)
    return layer, decoder.logits(params, decoder.final_norm(params, x, model), model)[:, 0]


def prefill(
    params: Params, inputs: jax.Array, lengths: jax.Array, model: ModelConfig, cache_length: int,
    starts: jax.Array | None = None,
) -> tuple[Cache, jax.Array]:  # fmt: skip
    """Reads whole prompts, block by block.

    Args:
      params: the model's parameters, layered (`split_layers`).
      inputs: token ids, int [rows, tokens], padded on the right.
      lengths: int32 [batch], tokens of each prompt; one of length 0 is padding throughout.
      model: shapes and numerics.
      cache_length: positions that the cache has room for, at least the longest prompt.
      starts: int32 [batch], position at which each prompt begins in its row, ascending in each row; the first batch /
        rows prompts are in the first row. None: each prompt has a row.

    Returns:
      (cache, logits [batch, vocab] float32 after each prompt's last token).
    """
    fields, cache = dataclasses.astuple(model), []
    top = {**params, "blocks": params["blocks"][-1:]}
    x = embed(top, inputs, fields)
    for block_params, slides in zip(params["blocks"][:-1], decoder.layer_kinds(model)[:-1], strict=True):
        x, layer = read_block(block_params, x, lengths, starts, fields, cache_length, slides)
        cache.append(layer)
    layer, logits = _read_last_block(top, x, lengths, starts, fields, cache_length)
    return (*cache, layer), logits


def _step_block(
    block_params: Params, x: jax.Array, layer: LayerCache, positions: jax.Array, rotations: Rotation | None,
    slides: bool, model: ModelConfig,
) -> tuple[jax.Array, LayerCache]:  # fmt: skip
    """Runs one block on one token per row, x [batch, 1, embed], and adds it to the block's cache."""
    of, grown = decoder.attention_of(model), []

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q, k = of.rotated(q, k, rotations, slides)
        grown.append(cache_lib.append(layer, k, v, positions))
        window = of.window if slides else 0
        return cache_lib.attend_cached(q, grown[0], positions, slopes=of.slopes, window=window, scale=of.scale)

    return decoder.block(block_params, x, attend, model), grown[0]


def decode_step(
    params: Params, cache: Cache, tokens: jax.Array, positions: jax.Array, model: ModelConfig, by_vocab: bool = False
) -> tuple[Cache, jax.Array]:
    """Processes one more token in every row.

    Args:
      params: the model's parameters, layered (`split_layers`).
      cache: of the tokens so far.
      tokens: int32 [batch].
      positions: int32 [batch], the tokens' positions in their rows.
      model: shapes and numerics.
      by_vocab: whether the logits are [vocab, batch], which costs less; see `decoder.Embedding.logits`.

    Returns:
      (cache that includes the tokens, logits [batch, vocab] float32 for the next tokens).
    """
    x, grown, of = decoder.embed(params, tokens[:, None], model), [], decoder.attention_of(model)
    rotations = of.rotations(positions[:, None])
    for block_params, layer, slides in zip(params["blocks"], cache, of.slides, strict=True):
        x, layer = _step_block(block_params, x, layer, positions, rotations, bool(slides), model)
        grown.append(layer)
    logits = decoder.logits(params, decoder.final_norm(params, x, model), model, by_vocab)
    return tuple(grown), logits if by_vocab else logits[:, 0]


def pad_prompts(prompts: Sequence[Sequence[int]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs [rows, length], lengths [rows]) int32: prompts padded on the right, then rows of length 0."""
    inputs, lengths = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        inputs[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    return inputs, lengths


def pack_prompts(
    rows: Sequence[Sequence[Sequence[int]]], tokens: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packs prompts one after another into rows of `tokens`.

    Args:
      rows: the prompts of each row, at most `most`.
      tokens: of a row.
      most: maximum number of prompts per row.

    Returns:
      (inputs [rows, tokens], lengths [rows * most], starts [rows * most]) int32; a missing prompt has length 0 and
      starts after the last token.
    """
    inputs, lengths = np.zeros((len(rows), tokens), np.int32), np.zeros((len(rows), most), np.int32)
    starts = np.full((len(rows), most), tokens, np.int32)
    for row, prompts in enumerate(rows):
        sizes = [len(prompt) for prompt in prompts]
        lengths[row, : len(prompts)], starts[row, : len(prompts)] = sizes, np.cumsum([0, *sizes])[:-1]
        inputs[row, : sum(sizes)] = np.concatenate([*prompts, []])
    return inputs, lengths.reshape(-1), starts.reshape(-1)
