"""Beam search: the best unfinished answers of each prompt are continued in parallel, one row each.

The semantics are those of HF's `generate(num_beams=K, do_sample=False, length_penalty=1.0, early_stopping=False)`
(`_beam_search` of transformers 5), for each prompt by itself:
  - A step looks at the best continuations of the K running beams by summed log-probability: 2K, or with E > 1 ids that
    end an answer (1 + E)K, so that K of them do not end. Those among the first K that end are finished; the K best that
    do not end continue.
  - A finished beam scores the sum divided by the number of its new tokens, the end-of-sequence token included.
  - The search ends when K beams are finished and the best running beam, scored as if it ended here, is not above the
    worst of them; or at the limit, where the first K all count as finished.
  - The answer is the best finished beam. The end-of-sequence token is not part of it.
Log-probabilities are over all rows of the head, including those that are not allowed and so never chosen. This equals
HF with `suppress_tokens`, and without it if no such row would be chosen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import cache as cache_lib
from ecomgpt_jax.decoding import forward
from ecomgpt_jax.decoding.cache import Cache
from ecomgpt_jax.decoding.greedy import DecodeLimits
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.sharding import ambient_mesh, constrain, spec


class Beams(NamedTuple):
    """The searches of a group of prompts.

    Attributes:
      cache: batch * num_beams rows; keys and values of all tokens but each running beam's last.
      lengths: [batch] int32, tokens of each prompt.
      steps: [] int32, tokens that each running beam has.
      output: [batch, num_beams, width] int32, these tokens.
      scores: [batch, num_beams] float32, the sums of their log-probabilities, best first.
      finished: [batch, num_beams] float32, scores of the best finished beams, best first; -inf where there is none yet.
      answer: [batch, width] int32, tokens of the best one; -1 where the model's logits were not finite.
      counts: [batch] int32, their number, without the end-of-sequence token.
      active: [batch] bool, False for a finished search and for a row without a prompt.
    """

    cache: Cache
    lengths: jax.Array
    steps: jax.Array
    output: jax.Array
    scores: jax.Array
    finished: jax.Array
    answer: jax.Array
    counts: jax.Array
    active: jax.Array


def check_beams(num_beams: int, allowed: int) -> None:
    """Checks the number of beams.

    Raises:
      ConfigError: below 1, or more than half the ids that may be chosen (a step needs two of them for each beam).
    """
    if num_beams < 1:
        raise ConfigError(f"num_beams must be at least 1, not {num_beams}")
    if num_beams > 1 and 2 * num_beams > allowed:
        raise ConfigError(f"num_beams={num_beams} is more than half the vocabulary of {allowed}; use fewer beams")


def _take(array: jax.Array, beams: jax.Array) -> jax.Array:
    """Selects beams [batch, chosen] of an array [batch, beams, ...], for each prompt among its own."""
    return jax.vmap(lambda rows, index: rows.at[index].get(mode="promise_in_bounds"))(array, beams)


def _take_cache(cache: Cache, parents: jax.Array) -> Cache:
    """Returns the cache with the row of its parent for each of the chosen beams [batch, chosen]."""
    batch = parents.shape[0]

    def take(leaf: jax.Array) -> jax.Array:
        chosen = _take(leaf.reshape(batch, -1, *leaf.shape[1:]), parents)
        return cache_lib.place(chosen.reshape(-1, *leaf.shape[1:]))

    return jax.tree.map(take, cache)


def _likeliest(logits: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns the `count` largest of each row of logits [rows, vocab] and their ids, on each device for its rows."""
    if ambient_mesh() is None:
        return jax.lax.top_k(logits, count)
    # Without `shard_map`, every device would gather and sort the rows of all.
    rows = spec("batch", None)
    return jax.shard_map(lambda part: tuple(jax.lax.top_k(part, count)), in_specs=rows, out_specs=(rows, rows))(logits)


def _continuations(
    logits: jax.Array, scores: jax.Array, allowed: jax.typing.ArrayLike, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Ranks the continuations of the running beams.

    Args:
      logits: [batch * beams, vocab] float32.
      scores: [batch, beams] float32, of the beams.
      allowed: [vocab] bool, the ids that are allowed next.
      count: continuations to keep for each prompt.

    Returns:
      (summed log-probabilities, continued beams, next tokens), each [batch, count] and best first, and whether the
      logits of a prompt are finite, bool [batch].
    """
    batch, beams = scores.shape
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    allowed = jnp.where(allowed, logits, -jnp.inf)
    # The best of all beams are among the best of each; one row is much shorter than all of a prompt.
    best, ids = _likeliest(allowed, count)
    sums = scores[:, :, None] + (best - total).reshape(batch, beams, count)
    best, places = jax.lax.top_k(sums.reshape(batch, -1), count)
    finite = jnp.isfinite(total).reshape(batch, beams).all(axis=1)
    return best, places // count, _take(ids.reshape(batch, -1), places), finite


def _advance(beams: Beams, cache: Cache, logits: jax.Array, stop: DecodeLimits) -> Beams:
    """Adds one token to the running beams, whose number may grow in the step."""
    num_beams, count = beams.finished.shape[1], beams.steps + 1
    seen = min((1 + max(1, jnp.size(stop.eos_ids))) * num_beams, logits.shape[1])
    scores, parents, tokens, finite = _continuations(logits, beams.scores, stop.allowed, seen)
    output = _take(beams.output, parents).at[:, :, beams.steps].set(tokens)
    ends, limit = jnp.isin(tokens, stop.eos_ids), count >= stop.max_new_tokens

    counted = (ends | limit) & (jnp.arange(seen) < num_beams) & beams.active[:, None]
    ranked = jnp.where(counted, scores / count, -jnp.inf)
    first = jnp.argmax(ranked, axis=1, keepdims=True)
    better = _take(ranked, first)[:, 0] > beams.finished[:, 0]
    finished = jax.lax.top_k(jnp.concatenate([beams.finished, ranked], axis=1), num_beams)[0]
    answer = jnp.where(better[:, None], _take(output, first)[:, 0], beams.answer)
    counts = jnp.where(better, count - _take(ends, first)[:, 0], beams.counts)

    scores, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), num_beams)
    broken = beams.active & ~finite
    beams = Beams(
        cache=_take_cache(cache, _take(parents, kept)),
        lengths=beams.lengths,
        steps=count,
        output=_take(output, kept),
        scores=scores,
        finished=finished,
        answer=jnp.where(broken[:, None], -1, answer),
        counts=jnp.where(broken, 1, counts),
        active=beams.active & finite & ~limit & (scores[:, 0] / count > finished[:, -1]),
    )
    return Beams(beams.cache, *map(constrain, beams[1:]))  # values that the host reads are replicated


def start(
    cache: Cache, logits: jax.Array, lengths: jax.Array, stop: DecodeLimits, *, width: int, num_beams: int
) -> Beams:
    """Branches prompts that `forward.prefill` has read, one row each, into `num_beams` beams.

    `width` is that of the output, at least the limit of new tokens.
    """
    batch = lengths.shape[0]
    zeros = jnp.zeros(batch, jnp.int32)
    root = Beams(
        cache=cache,
        lengths=lengths,
        steps=jnp.int32(0),
        output=jnp.zeros((batch, 1, width), jnp.int32),
        scores=jnp.zeros((batch, 1), jnp.float32),
        finished=jnp.full((batch, num_beams), -jnp.inf, jnp.float32),
        answer=jnp.zeros((batch, width), jnp.int32),
        counts=zeros,
        active=lengths > 0,
    )
    return _advance(root, cache, logits, stop)


def search(params: Params, beams: Beams, stop: DecodeLimits, model: ModelConfig) -> Beams:
    """Steps until every search is over; `params` are layered."""

    def step(beams: Beams) -> Beams:
        tokens = jax.lax.dynamic_index_in_dim(beams.output, beams.steps - 1, axis=2, keepdims=False).reshape(-1)
        positions = jnp.repeat(beams.lengths + beams.steps - 1, beams.output.shape[1])
        cache, logits = forward.decode_step(params, beams.cache, tokens, positions, model)
        return _advance(beams, cache, logits, stop)

    return jax.lax.while_loop(lambda beams: beams.active.any(), step, beams)
