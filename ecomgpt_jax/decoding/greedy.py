"""Greedy decoding: prefill, one step, and a loop over steps, each a pure function with static shapes.

A *slot* is one row of the batch. The loop runs until enough slots are finished and keeps the others, so that its caller
may put new prompts into the finished ones (see `engine.py`) or, with no prompts left, run it to the end. The semantics
are those of HF's `generate(do_sample=False)` with one prompt at a time: the most likely token, the lowest id among
equals, until the end-of-sequence token or the limit. The end-of-sequence token is not part of the result.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import cache as cache_lib
from ecomgpt_jax.decoding.cache import Cache, LayerCache
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import Params, split_layers
from ecomgpt_jax.parallel.sharding import constrain


class DecodeLimits(NamedTuple):
    """When a row ends, and the ids that it may choose.

    Attributes:
      eos_ids: [any number] int32, the tokens that end a row.
      allowed: [vocab] or [batch, vocab] bool, the ids that may be chosen.
      max_new_tokens: [] int32 or a number, a row ends after this many tokens.
    """

    eos_ids: jax.typing.ArrayLike
    allowed: jax.typing.ArrayLike
    max_new_tokens: jax.typing.ArrayLike


def make_limits(
    eos_ids: Sequence[int], allowed_ids: Sequence[int], max_new_tokens: int, vocab_size: int
) -> DecodeLimits:
    """Returns the limits of a model of `vocab_size` rows; ids without a token are not in `allowed_ids`."""
    allowed = np.zeros(vocab_size, np.bool_)
    ids = np.asarray(allowed_ids, np.int32)
    allowed[ids[ids < vocab_size]] = True  # a control token may have no row
    return DecodeLimits(np.asarray(eos_ids, np.int32), allowed, max_new_tokens)


class Slots(NamedTuple):
    """The rows being decoded.

    Attributes:
      cache: keys and values of all tokens but each row's last.
      tokens: [batch] int32, the last token of each row, not in the cache yet.
      positions: [batch] int32, where that token goes.
      output: [batch, width] int32, the new tokens; -1 where the model's logits were not finite.
      counts: [batch] int32, how many there are.
      active: [batch] bool, False for a finished row and for one that never held a prompt.
    """

    cache: Cache
    tokens: jax.Array
    positions: jax.Array
    output: jax.Array
    counts: jax.Array
    active: jax.Array


def place(slots: Slots) -> Slots:
    """Constrains slots to the mesh: the cache is split, values for the host are replicated."""
    return Slots(jax.tree.map(cache_lib.place, slots.cache), *map(constrain, slots[1:]))


@partial(jax.jit, static_argnames="fields")
def embed(params: Params, inputs: jax.Array, fields: tuple) -> jax.Array:
    """Maps token ids int [batch, length] to the first block's input; `fields` are those of the model."""
    return decoder.embed(params, inputs, ModelConfig(*fields))


@partial(jax.jit, static_argnames=("fields", "cache_length"), donate_argnames="x")
def read_block(
    block_params: Params, x: jax.Array, lengths: jax.Array, fields: tuple, cache_length: int,
    slides: jax.typing.ArrayLike | None,
) -> tuple[jax.Array, LayerCache | None]:  # fmt: skip
    """Reads whole prompts through one block: one program for all blocks, so compile time does not grow with depth.

    Args:
      block_params: one of a layered model's `blocks`.
      x: [batch, length, embed], the block's input; it is donated.
      lengths: int32 [batch], tokens of each prompt.
      fields: of the model.
      cache_length: positions that the cache has room for; 0: no cache is kept.
      slides: of this block, from `decoder.layer_kinds`.

    Returns:
      (the block's output, its cache or None).
    """
    model, kept = ModelConfig(*fields), []
    places = jnp.arange(x.shape[1])[None, :]
    segment_ids = (places < lengths[:, None]).astype(jnp.int32)
    rotations = decoder.attention_of(model).rotations(places)
    attend = decoder.make_attend(model, segment_ids, rotations, slides, kept)
    x = decoder.block(block_params, x, attend, model)
    return x, cache_lib.from_prompt(*kept[0], cache_length) if cache_length else None


@partial(jax.jit, static_argnames="fields")
def _last_logits(top: Params, x: jax.Array, lengths: jax.Array, fields: tuple) -> jax.Array:
    model = ModelConfig(*fields)
    last = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
    return decoder.logits(top, decoder.final_norm(top, last, model), model)[:, 0]


def prefill(
    params: Params, inputs: jax.Array, lengths: jax.Array, model: ModelConfig, cache_length: int
) -> tuple[Cache, jax.Array]:
    """Reads whole prompts, block by block.

    Args:
      params: the model's parameters, layered (`split_layers`).
      inputs: token ids, int [batch, length], padded on the right.
      lengths: int32 [batch], tokens of each prompt; a row of length 0 is padding throughout.
      model: shapes and numerics.
      cache_length: positions that the cache has room for, at least `length`.

    Returns:
      (cache, logits [batch, vocab] float32 after each prompt's last token).
    """
    fields, cache = dataclasses.astuple(model), []
    top = {**params, "blocks": params["blocks"][:1]}
    x = embed(top, inputs, fields)
    for block_params, slides in zip(params["blocks"], decoder.layer_kinds(model), strict=True):
        x, layer = read_block(block_params, x, lengths, fields, cache_length, slides)
        cache.append(layer)
    return tuple(cache), _last_logits(top, x, lengths, fields)


def decode_step(
    params: Params, cache: Cache, tokens: jax.Array, positions: jax.Array, model: ModelConfig
) -> tuple[Cache, jax.Array]:
    """Processes one more token in every row, with the blocks of training.

    Args:
      params: the model's parameters, layered (`split_layers`).
      cache: of the tokens so far.
      tokens: int32 [batch].
      positions: int32 [batch], the tokens' positions in their rows.
      model: shapes and numerics.

    Returns:
      (cache with the tokens in it, logits [batch, vocab] float32 for the tokens that follow).
    """
    x, grown = decoder.embed(params, tokens[:, None], model), []
    of = decoder.attention_of(model)
    rotations = of.rotations(positions[:, None])
    for block_params, layer, slides in zip(params["blocks"], cache, of.slides, strict=True):

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, layer: LayerCache = layer, slides: bool = bool(slides)
        ) -> jax.Array:
            q, k = of.rotated(q, k, rotations, slides)
            grown.append(cache_lib.append(layer, k, v, positions))
            window = of.window if slides else 0
            return cache_lib.attend_cached(q, grown[-1], positions, slopes=of.slopes, window=window, scale=of.scale)

        x = decoder.block(block_params, x, attend, model)
    return tuple(grown), decoder.logits(params, decoder.final_norm(params, x, model), model)[:, 0]


def choose(logits: jax.Array, allowed: jax.typing.ArrayLike) -> jax.Array:
    """Returns the likeliest allowed id of a row of logits [batch, vocab]; -1 for one that is not finite."""
    allowed = jnp.where(allowed, logits, -jnp.inf)
    highest = jnp.max(allowed, axis=-1)
    # On a CPU an argmax is one scalar loop; with two plain reductions a step of 16 or 64 rows takes an eighth less.
    ids = jnp.min(jnp.where(allowed == highest[:, None], jnp.arange(logits.shape[-1]), logits.shape[-1]), axis=-1)
    return jnp.where(jnp.isfinite(highest), ids.astype(jnp.int32), -1)


def _advance(slots: Slots, cache: Cache, chosen: jax.Array, stop: DecodeLimits) -> Slots:
    """Adds each active row's chosen token, or ends the row."""
    adds = slots.active & ~jnp.isin(chosen, stop.eos_ids)
    here = jnp.arange(slots.output.shape[1])[None, :] == slots.counts[:, None]
    output = jnp.where(here & adds[:, None], chosen[:, None], slots.output)
    return place(add_tokens(slots, cache, chosen, adds, stop.max_new_tokens)._replace(output=output))


def add_tokens(rows: Any, cache: Cache, chosen: jax.Array, adds: jax.Array, limit: jax.typing.ArrayLike) -> Any:
    """Adds `chosen` to the rows in `adds` bool [batch] and ends the others, those at `limit`, and those without an id.

    Args:
      rows: with `cache`, `tokens`, `positions`, `counts` and `active`, as `Slots`; other fields stay.
      cache: the new one.
      chosen: int32 [batch], -1 where logits were not finite.
      adds: which active rows go on.
      limit: tokens per row.
    """
    counts = rows.counts + adds
    return rows._replace(
        cache=cache,
        tokens=jnp.where(adds, chosen, rows.tokens),
        positions=rows.positions + adds,
        counts=counts,
        active=adds & (counts < limit) & (chosen >= 0),
    )


def start(
    cache: Cache, logits: jax.Array, lengths: jax.Array, stop: DecodeLimits, width: int
) -> Slots:  # fmt: skip
    """Chooses the first token after prompts that `prefill` has read; `width` is that of the output."""
    zeros = jnp.zeros(lengths.shape, jnp.int32)
    # Rows are before their first token; `_advance` adds it.
    output = jnp.zeros((lengths.shape[0], width), jnp.int32)
    slots = Slots(cache, zeros, lengths - 1, output, zeros, lengths > 0)
    return _advance(slots, cache, _choose_finite(logits, stop.allowed), stop)


def step(params: Params, slots: Slots, stop: DecodeLimits, model: ModelConfig) -> Slots:
    """Steps all slots once, each with its own ids that may be chosen: `stop.allowed` is [batch, vocab]."""
    cache, logits = decode_step(params, slots.cache, slots.tokens, slots.positions, model)
    return _advance(slots, cache, _choose_finite(logits, stop.allowed), stop)


def _choose_finite(logits: jax.Array, allowed: jax.typing.ArrayLike) -> jax.Array:
    """Returns what `choose` does; -1 also where the logit of an id that may not be chosen is nan."""
    return jnp.where(jnp.isnan(logits).any(axis=-1), -1, choose(logits, allowed))


def decode(
    params: Params, slots: Slots, stop: DecodeLimits, until_active: jax.typing.ArrayLike, model: ModelConfig
) -> Slots:
    """Steps all slots until at most `until_active` of them are still active; `params` are layered."""

    def step(slots: Slots) -> Slots:
        cache, logits = decode_step(params, slots.cache, slots.tokens, slots.positions, model)
        return _advance(slots, cache, choose(logits, stop.allowed), stop)

    # Constrained again: the compiler may split the results of a loop.
    return place(jax.lax.while_loop(lambda slots: slots.active.sum() > until_active, step, slots))


def check_prompts(prompts: Sequence[Sequence[int]], max_new_tokens: int, vocab_size: int) -> None:
    """Checks what a compiled program cannot check.

    Raises:
      ConfigError: `max_new_tokens` below 1.
      DataError: an empty prompt, or an id that the model does not have.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"prompt {index} (counted from 0) is empty: there is nothing to continue")
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            wrong = next(token for token in prompt if not 0 <= token < vocab_size)
            raise DataError(f"prompt {index} (counted from 0) holds id {wrong}; ids run from 0 to {vocab_size - 1}")


def pad_prompts(prompts: Sequence[Sequence[int]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs [rows, length], lengths [rows]) int32: prompts padded on the right, then rows of length 0."""
    inputs, lengths = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        inputs[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    return inputs, lengths


def new_tokens(output: np.ndarray, count: int) -> list[int]:
    """Returns a finished row's tokens as a list.

    Raises:
      DataError: the model's logits were nan or infinite.
    """
    tokens = output[:count].tolist()
    if -1 in tokens:
        raise DataError("the model's logits are not finite: the weights are corrupt, or their training diverged")
    return tokens


@lru_cache(maxsize=8)
def _whole(fields: tuple) -> Callable[..., tuple[jax.Array, jax.Array]]:
    model = ModelConfig(*fields)

    @partial(jax.jit, static_argnames=("cache_length", "width"))
    def run(
        params: Params, inputs: jax.Array, lengths: jax.Array, stop: DecodeLimits, cache_length: int, width: int
    ) -> tuple[jax.Array, jax.Array]:
        slots = start(*prefill(params, inputs, lengths, model, cache_length), lengths, stop, width)
        slots = decode(params, slots, stop, 0, model)
        return slots.output, slots.counts

    return run


def greedy_decode(
    params: Params,
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    allowed_ids: Sequence[int],
) -> list[list[int]]:
    """Continues a few prompts as one batch, in one compiled program; `engine.generate_tokens` takes any number.

    Returns:
      The new tokens of each prompt, without the end-of-sequence token.

    Raises:
      ConfigError: `max_new_tokens` below 1.
      DataError: an empty prompt, an id that the model does not have, or logits that are not finite.
    """
    check_prompts(prompts, max_new_tokens, model.vocab_size)
    if not prompts:
        return []
    longest = max(map(len, prompts))
    inputs, lengths = pad_prompts(prompts, len(prompts), longest)
    run = _whole(dataclasses.astuple(model))
    stop = make_limits(eos_ids, allowed_ids, max_new_tokens, model.vocab_size)
    params = split_layers(params, model)
    output, counts = run(params, inputs, lengths, stop, cache_length=longest + max_new_tokens, width=max_new_tokens)
    return [new_tokens(row, count) for row, count in zip(np.asarray(output), np.asarray(counts), strict=True)]
