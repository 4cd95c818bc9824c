"""Greedy decoding: the first token, one step, and a loop over steps, each a pure function with static shapes.

A *slot* is one row of the batch. The loop runs until enough slots are finished and keeps the others, so that the caller
can put new prompts into the finished ones (see `engine.py`) or, with no prompts left, run it to the end. The semantics
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
from ecomgpt_jax.decoding.cache import Cache
from ecomgpt_jax.decoding.forward import decode_step, pad_prompts, prefill
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.model.parameters import Params, split_layers
from ecomgpt_jax.parallel.sharding import constrain

NOT_FINITE = "the model's logits are not finite: the weights are corrupt, or their training diverged"


class DecodeLimits(NamedTuple):
    """The conditions that end a row, and the ids that may be chosen.

    Attributes:
      eos_ids: [any number] int32, the tokens that end a row.
      allowed: [vocab] or [batch, vocab] bool, the ids that may be chosen.
      max_new_tokens: [] int32 or a number, the maximum number of tokens of a row.
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
      positions: [batch] int32, position of that token in the cache.
      output: [batch, width] int32, the new tokens; -1 where the model's logits were not finite.
      counts: [batch] int32, their number.
      active: [batch] bool, False for a finished row and for one without a prompt.
    """

    cache: Cache
    tokens: jax.Array
    positions: jax.Array
    output: jax.Array
    counts: jax.Array
    active: jax.Array


def place(slots: Slots) -> Slots:
    """Constrains slots to the mesh: the cache is split, values that the host reads are replicated."""
    return Slots(jax.tree.map(cache_lib.place, slots.cache), *map(constrain, slots[1:]))


def choose(logits: jax.Array, allowed: jax.typing.ArrayLike, axis: int = -1) -> jax.Array:
    """Returns the likeliest allowed id of each row of logits, [batch, vocab] or, along axis 0, [vocab, batch].

    It is -1 for a row that is not finite; `allowed` has the logits' shape or is broadcast to it.
    """
    allowed = jnp.where(allowed, logits, -jnp.inf)
    highest, vocab = jnp.max(allowed, axis, keepdims=True), logits.shape[axis]
    # On a CPU an argmax is a scalar loop; with two plain reductions a step of 16 or 64 rows takes an eighth less time.
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis % logits.ndim)
    ids = jnp.min(jnp.where(allowed == highest, ids, vocab), axis)
    return jnp.where(jnp.isfinite(highest.squeeze(axis)), ids, -1)


def _advance(slots: Slots, cache: Cache, chosen: jax.Array, stop: DecodeLimits) -> Slots:
    """Adds each active row's chosen token, or ends the row."""
    adds = slots.active & ~jnp.isin(chosen, stop.eos_ids)
    here = jnp.arange(slots.output.shape[1])[None, :] == slots.counts[:, None]
    output = jnp.where(here & adds[:, None], chosen[:, None], slots.output)
    return place(add_tokens(slots, cache, chosen, adds, stop.max_new_tokens)._replace(output=output))


def add_tokens(rows: Any, cache: Cache, chosen: jax.Array, adds: jax.Array, limit: jax.typing.ArrayLike) -> Any:
    """Adds `chosen` to the rows in `adds` bool [batch]; ends the others, those at `limit`, and those without an id.

    Args:
      rows: has `cache`, `tokens`, `positions`, `counts` and `active`, as `Slots`; other fields are not changed.
      cache: the new cache.
      chosen: int32 [batch], -1 where logits were not finite.
      adds: which active rows continue.
      limit: maximum number of tokens per row.
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
    # Rows have no token yet; `_advance` adds the first.
    output = jnp.zeros((lengths.shape[0], width), jnp.int32)
    slots = Slots(cache, zeros, lengths - 1, output, zeros, lengths > 0)
    return _advance(slots, cache, _choose_finite(logits, stop.allowed), stop)


def step(params: Params, slots: Slots, stop: DecodeLimits, model: ModelConfig) -> Slots:
    """Steps all slots once with separate allowed ids: `stop.allowed` is [batch, vocab]."""
    cache, logits = decode_step(params, slots.cache, slots.tokens, slots.positions, model)
    return _advance(slots, cache, _choose_finite(logits, stop.allowed), stop)


def _choose_finite(logits: jax.Array, allowed: jax.typing.ArrayLike) -> jax.Array:
    """Returns the result of `choose`, but -1 also where the logit of an id that may not be chosen is nan."""
    return jnp.where(jnp.isnan(logits).any(axis=-1), -1, choose(logits, allowed))


def decode(
    params: Params, slots: Slots, stop: DecodeLimits, until_active: jax.typing.ArrayLike, model: ModelConfig
) -> Slots:
    """Steps all slots until at most `until_active` of them are still active; `params` are layered."""

    def step(slots: Slots) -> Slots:
        cache, logits = decode_step(params, slots.cache, slots.tokens, slots.positions, model, True)
        allowed = jnp.broadcast_to(stop.allowed, len(logits))[:, None]
        return _advance(slots, cache, choose(logits, allowed, axis=0), stop)

    # Constrained again, since the compiler may split the results of a loop.
    return place(jax.lax.while_loop(lambda slots: slots.active.sum() > until_active, step, slots))


def check_prompts(prompts: Sequence[Sequence[int]], max_new_tokens: int, vocab_size: int) -> None:
    """Checks arguments that a compiled program cannot check.

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


def new_tokens(output: np.ndarray, count: int) -> list[int]:
    """Returns a finished row's tokens as a list.

    Raises:
      DataError: the model's logits were nan or infinite.
    """
    tokens = output[:count].tolist()
    if -1 in tokens:
        raise DataError(NOT_FINITE)
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
