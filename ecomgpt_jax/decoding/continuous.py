"""Continuous batching: decodes requests in a fixed batch of slots, a few steps at a time, with settings per row.

Prompts are read one by one (on a mesh one per batch shard), padded to one of a few lengths; all slots step together.
The shapes of a request depend only on its own prompt, so its answer does not depend on the rest of the batch, and
nothing is compiled after `SlotBatch.warm_up`. A draw depends on the request's seed and the index of the token.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import cache as cache_lib
from ecomgpt_jax.decoding import forward, greedy
from ecomgpt_jax.decoding.cache import Cache
from ecomgpt_jax.decoding.engine import put_rows
from ecomgpt_jax.decoding.greedy import DecodeLimits
from ecomgpt_jax.decoding.lengths import GRANULE, MIN_ROWS, round_up, smallest
from ecomgpt_jax.model.parameters import Params, split_layers
from ecomgpt_jax.parallel.mesh import batch_shards, on_mesh
from ecomgpt_jax.parallel.sharding import constrain

STEPS = 4  # executed before the host reads results; fewer if a row ends
MOST_LIKELIEST = 20  # alternatives reported per token
COLDEST = 1e-5  # lower temperatures count as 0
ENDED, NOTHING = -2, -3  # in place of an id: the end-of-sequence token, a row that is not active; -1: logits not finite


class Request(NamedTuple):
    """A prompt and its decoding settings.

    Attributes:
      prompt: token ids, at least one.
      max_new_tokens: at least 1; with the prompt at most the batch's `context`.
      temperature: 0 selects the most likely token.
      top_p: tokens are drawn from the smallest set of the most likely ones whose probabilities reach this sum.
      seed: of 64 bits, signed or not.
      logprobs: whether to return log-probabilities.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    logprobs: bool = False


class Token(NamedTuple):
    """One step of a slot.

    Attributes:
      slot: its number.
      id: the new token; ENDED where the end-of-sequence token ends the answer, -1 where logits were not finite.
      last: the slot is finished and free.
      logprob: natural logarithm of the token's probability at temperature 1 among the allowed ids; 0 unless requested.
      likeliest: (id, its logarithm) of the most likely tokens, best first; empty unless requested.
    """

    slot: int
    id: int
    last: bool
    logprob: float = 0.0
    likeliest: tuple[tuple[int, float], ...] = ()


class Rows(NamedTuple):
    """The slots on the device, as arrays [batch, ...]: `greedy.Slots` without an output, and settings by row."""

    cache: Cache
    tokens: jax.Array
    positions: jax.Array
    counts: jax.Array
    active: jax.Array
    limits: jax.Array
    temperature: jax.Array
    top_p: jax.Array
    seeds: jax.Array  # [batch, 2] uint32
    logprobs: jax.Array


class Said(NamedTuple):
    """The result of a step: ids [batch], their log-probabilities, and ids and log-probabilities of the likeliest."""

    ids: jax.Array
    chances: jax.Array
    best_ids: jax.Array
    best: jax.Array


def _place(rows: Rows) -> Rows:
    return Rows(jax.tree.map(cache_lib.place, rows.cache), *map(constrain, rows[1:]))


def _draw(logits: jax.Array, temperature: jax.Array, top_p: jax.Array, seed: jax.Array, count: jax.Array) -> jax.Array:
    """Draws an id from one row's logits [vocab], -inf for ids that are not allowed: the largest with Gumbel noise."""
    scaled = (logits - jnp.max(logits)) / jnp.maximum(temperature, COLDEST)
    ordered = jnp.sort(scaled, descending=True)
    chances = jax.nn.softmax(ordered)
    kept = (jnp.cumsum(chances) - chances < top_p) | (jnp.arange(len(chances)) == 0)
    lowest = jnp.where(top_p < 1, jnp.min(jnp.where(kept, ordered, jnp.inf)), -jnp.inf)
    key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), count)
    noisy = jnp.where(scaled >= lowest, scaled + jax.random.gumbel(key, scaled.shape), -jnp.inf)
    return jnp.argmax(noisy).astype(jnp.int32)


def _choose(logits: jax.Array, rows: Rows, allowed: jax.Array) -> jax.Array:
    """Returns each row's next id [batch]; sorts and draws only if an active row needs it."""
    likeliest, warm = greedy.choose(logits, allowed), rows.temperature >= COLDEST

    def drawn() -> jax.Array:
        return jax.vmap(_draw)(
            jnp.where(allowed, logits, -jnp.inf), rows.temperature, rows.top_p, rows.seeds, rows.counts
        )

    ids = jax.lax.cond(jnp.any(warm & rows.active), drawn, lambda: likeliest)
    return jnp.where(warm & (likeliest >= 0), ids, likeliest)


def _advance(rows: Rows, cache: Cache, logits: jax.Array, stop: DecodeLimits) -> tuple[Rows, Said]:
    """Adds each active row's next token, or ends the row."""
    chosen, most = _choose(logits, rows, stop.allowed), min(MOST_LIKELIEST, logits.shape[-1])

    def chances() -> tuple[jax.Array, jax.Array, jax.Array]:
        known = jax.nn.log_softmax(jnp.where(stop.allowed, logits, -jnp.inf))
        best, best_ids = jax.lax.top_k(known, most)
        at_chosen = jnp.take_along_axis(known, jnp.maximum(chosen, 0)[:, None], axis=1)[:, 0]
        return at_chosen, best_ids.astype(jnp.int32), best

    def none() -> tuple[jax.Array, jax.Array, jax.Array]:
        shape = (len(chosen), most)
        return jnp.zeros(len(chosen), jnp.float32), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    told = jax.lax.cond(jnp.any(rows.logprobs & rows.active), chances, none)
    ends = jnp.isin(chosen, stop.eos_ids)
    ids = jnp.where(rows.active, jnp.where(ends, ENDED, chosen), NOTHING)
    rows = greedy.add_tokens(rows, cache, chosen, rows.active & ~ends, rows.limits)
    return _place(rows), Said(*map(constrain, (ids, *told)))


class _Programs(NamedTuple):
    """The functions of one model, compiled."""

    empty: Callable[..., Rows]
    first: Callable[..., tuple[Rows, Said]]
    insert: Callable[..., Rows]
    steps: Callable[..., tuple[Rows, Said]]


@lru_cache(maxsize=8)
def _programs(fields: tuple) -> _Programs:
    model = ModelConfig(*fields)

    @partial(jax.jit, static_argnames=("batch", "length"))
    def empty(batch: int, length: int) -> Rows:
        zeros, off, reals = (jnp.zeros(batch, dtype) for dtype in (jnp.int32, jnp.bool_, jnp.float32))
        cache = cache_lib.init_cache(model, batch, length)
        return _place(
            Rows(cache, zeros, zeros, zeros, off, zeros, reals, reals, jnp.zeros((batch, 2), jnp.uint32), off)
        )

    @partial(jax.jit, donate_argnames="cache")
    def first(cache: Cache, logits: jax.Array, rows: Rows, stop: DecodeLimits) -> tuple[Rows, Said]:
        return _advance(rows, cache, logits, stop)

    @partial(jax.jit, donate_argnames="rows")
    def insert(rows: Rows, new: Rows, slots: jax.Array) -> Rows:
        return _place(put_rows(rows, new, slots))

    @partial(jax.jit, donate_argnames="rows")
    def steps(params: Params, rows: Rows, kept: jax.Array, stop: DecodeLimits) -> tuple[Rows, Said]:
        """Steps the rows in `kept` [batch] bool STEPS times, or until one ends; returns [STEPS, batch, ...]."""
        rows = rows._replace(active=rows.active & kept)
        before = rows.active.sum()

        def step(state: tuple[jax.Array, Rows, Said]) -> tuple[jax.Array, Rows, Said]:
            count, rows, said = state
            grown, logits = forward.decode_step(params, rows.cache, rows.tokens, rows.positions, model)
            rows, told = _advance(rows, grown, logits, stop)
            return count + 1, rows, jax.tree.map(lambda all_steps, one: all_steps.at[count].set(one), said, told)

        batch, most = len(rows.tokens), min(MOST_LIKELIEST, model.vocab_size)
        said = Said(
            jnp.full((STEPS, batch), NOTHING, jnp.int32), jnp.zeros((STEPS, batch), jnp.float32),
            jnp.zeros((STEPS, batch, most), jnp.int32), jnp.zeros((STEPS, batch, most), jnp.float32),
        )  # fmt: skip
        _, rows, said = jax.lax.while_loop(
            lambda state: (state[0] < STEPS) & (state[1].active.sum() == before), step, (jnp.int32(0), rows, said)
        )
        return _place(rows), Said(*map(constrain, said))

    return _Programs(empty, first, insert, steps)


class SlotBatch:
    """A batch of slots for requests that start and end independently. Not thread-safe.

    Attributes:
      context: tokens that a prompt and its answer may have together.
      free: slots without a request, the last used one at the end.
    """

    def __init__(
        self,
        params: Params,
        model: ModelConfig,
        *,
        slots: int,
        context: int,
        eos_ids: Sequence[int],
        allowed_ids: Sequence[int],
        mesh: Mesh | None = None,
    ) -> None:
        """Makes the slots.

        Args:
          params: the model's parameters, stacked or layered.
          model: shapes and numerics.
          slots: requests decoded together, rounded up to 8 and to what the mesh divides.
          context: see the class.
          eos_ids: ids of the tokens that end an answer.
          allowed_ids: ids that may be chosen.
          mesh: devices; None: those of the parameters.
        """
        self.context = context
        self._mesh, self._params, self._model = mesh, split_layers(params, model), model
        self._read = batch_shards(mesh)
        self._size = round_up(max(MIN_ROWS, slots), self._read)
        self._length = round_up(context, GRANULE)
        doubled = [GRANULE << power for power in range(32) if GRANULE << power < self._length]
        self._buckets = [*doubled, self._length]
        self._stop = greedy.make_limits(eos_ids, allowed_ids, context, model.vocab_size)
        self._programs = _programs(dataclasses.astuple(model))
        self.reset()

    def reset(self) -> None:
        """Empties all slots, also after an error that invalidated their arrays."""
        self._requests: dict[int, Request] = {}
        self._left: dict[int, int] = {}
        self.free = list(range(self._size))
        self._rows = None
        with on_mesh(self._mesh):
            self._rows = self._programs.empty(batch=self._size, length=self._length)

    def warm_up(self) -> None:
        """Compiles every program that a request may need."""
        for bucket in self._buckets:
            self.admit([Request([0] * min(bucket, self.context - 1), 1)])
        self.step()
        self.reset()

    def admit(self, requests: Sequence[Request]) -> list[Token]:
        """Reads prompts into free slots, of which there must be enough; returns their first tokens, in order.

        Prompts of similar length are read together, so one that ends at once may free its slot for an earlier one.
        """
        by_bucket: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            bucket = smallest(self._buckets, len(request.prompt))
            by_bucket.setdefault(bucket, []).append(index)
        tokens: dict[int, Token] = {}
        for bucket, members in by_bucket.items():
            for start in range(0, len(members), self._read):
                group = members[start : start + self._read]
                found = self._enter([requests[index] for index in group], bucket)
                tokens |= dict(zip(group, found, strict=True))
        return [tokens[index] for index in range(len(requests))]

    def _enter(self, requests: Sequence[Request], bucket: int) -> list[Token]:
        inputs, lengths = forward.pad_prompts([request.prompt for request in requests], self._read, bucket)
        slots = np.full(self._read, self._size, np.int32)
        slots[: len(requests)] = [self.free.pop() for _ in requests]

        def column(dtype: type, values: Sequence[float]) -> np.ndarray:
            return np.array([*values, *[0] * (self._read - len(values))], dtype)

        zeros, seeds = np.zeros(self._read, np.int32), np.zeros((self._read, 2), np.uint32)
        for row, request in enumerate(requests):
            seeds[row] = divmod(request.seed % 2**64, 2**32)
        new = Rows(
            (), zeros, lengths - 1, zeros, lengths > 0,
            column(np.int32, [request.max_new_tokens for request in requests]),
            column(np.float32, [request.temperature for request in requests]),
            column(np.float32, [request.top_p for request in requests]),
            seeds, column(np.bool_, [request.logprobs for request in requests]),
        )  # fmt: skip
        with on_mesh(self._mesh):
            cache, logits = forward.prefill(self._params, inputs, lengths, self._model, bucket)
            new, said = self._programs.first(cache, logits, new, self._stop)
            self._rows = self._programs.insert(self._rows, new, slots)
            said = jax.device_get(said)
        for slot, request in zip(slots.tolist(), requests, strict=False):
            self._requests[slot], self._left[slot] = request, request.max_new_tokens
        return [self._token(slot, row, said) for row, slot in enumerate(slots[: len(requests)].tolist())]

    def step(self) -> list[Token]:
        """Returns the next tokens of all slots in use, up to STEPS of each, in the order in which they were chosen."""
        kept = np.zeros(self._size, np.bool_)
        kept[list(self._requests)] = True
        with on_mesh(self._mesh):
            self._rows, said = self._programs.steps(self._params, self._rows, kept, self._stop)
            said = jax.device_get(said)
        return [
            self._token(slot, slot, Said(*(of_all[step] for of_all in said)))
            for step in range(STEPS)
            for slot in list(self._requests)
            if said.ids[step, slot] != NOTHING
        ]

    def release(self, slot: int) -> None:
        """Frees a slot whose answer is no longer needed."""
        if self._requests.pop(slot, None) is not None:
            self.free.append(slot)

    def _token(self, slot: int, row: int, said: Said) -> Token:
        request, index = self._requests[slot], int(said.ids[row])
        self._left[slot] -= 1
        last = index < 0 or self._left[slot] == 0
        if last:
            self.release(slot)
        if not request.logprobs:
            return Token(slot, index, last)
        best = zip(said.best_ids[row].tolist(), said.best[row].tolist(), strict=True)
        return Token(slot, index, last, float(said.chances[row]), tuple(pair for pair in best if pair[1] > -np.inf))
