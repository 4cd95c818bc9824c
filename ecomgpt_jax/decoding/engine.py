"""Decodes any number of prompts with a batch of slots that is refilled, and few compiled programs.

Prompts are read longest first, a group at a time, packed without padding between them, and enter slots whose answers
are finished; attention pads each group to one of a few lengths, and the cache gets shorter with the prompts. When no
prompt is waiting, the number of slots is halved as soon as the remaining answers fit. The order depends only on the
prompts, so shuffled input gives the same computations. Beam search decodes whole groups: its slots are not refilled.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import beam, forward, greedy
from ecomgpt_jax.decoding.answers import Answer, Begun
from ecomgpt_jax.decoding.beam import Beams
from ecomgpt_jax.decoding.cache import init_cache
from ecomgpt_jax.decoding.greedy import DecodeLimits, Slots
from ecomgpt_jax.decoding.lengths import (
    GRANULE,
    MIN_ROWS,
    bucket_lengths,
    cache_lengths,
    plan_groups,
    round_up,
    smallest,
    tail_sizes,
)
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.parameters import Params, split_layers
from ecomgpt_jax.parallel.mesh import batch_shards, on_mesh

OnFinished = Callable[[int, list[int]], None]

_PREFILL_PART = 4  # about this fraction of the slots is read as one group
_ENTER_PART = 32  # prefilled prompts enter when this fraction of the slots is free

log = logging.getLogger(__name__)


class _Programs(NamedTuple):
    """The compiled functions of one model, from `greedy` and, for the last two, `beam`.

    `start` and `branch` read prompts with one program per block and then call one more program.
    """

    start: Callable[..., Slots]
    empty: Callable[..., Slots]
    insert: Callable[..., Slots]
    shorten: Callable[..., Slots]
    gather: Callable[..., Slots]
    decode: Callable[..., Slots]
    step: Callable[..., Slots]
    branch: Callable[..., Beams]
    search: Callable[..., Beams]


def put_rows(slots: Any, new: Any, rows: jax.Array) -> Any:
    """Copies the rows of `new` into the slots in `rows`; a row for the slot past the last is dropped."""

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[(rows, *(slice(size) for size in new.shape[1:]))].set(new, mode="drop")

    return jax.tree.map(put, slots, new)


@lru_cache(maxsize=8)
def _programs(fields: tuple) -> _Programs:
    model = ModelConfig(*fields)

    @partial(jax.jit, static_argnames=("batch", "length", "width"))
    def empty(batch: int, length: int, width: int) -> Slots:
        zeros = jnp.zeros(batch, jnp.int32)
        output = jnp.zeros((batch, width), jnp.int32)
        return greedy.place(Slots(init_cache(model, batch, length), zeros, zeros, output, zeros, zeros > 0))

    @partial(jax.jit, donate_argnames="slots")
    def insert(slots: Slots, new: Slots, rows: jax.Array) -> Slots:
        return greedy.place(put_rows(slots, new, rows))

    @partial(jax.jit, static_argnames="length")
    def shorten(slots: Slots, length: int) -> Slots:
        return greedy.place(slots._replace(cache=jax.tree.map(lambda leaf: leaf[:, :, :length], slots.cache)))

    @jax.jit
    def gather(slots: Slots, rows: jax.Array) -> Slots:
        return greedy.place(jax.tree.map(lambda leaf: leaf[rows], slots))

    first_tokens = jax.jit(greedy.start, static_argnames="width", donate_argnames="cache")
    first_beams = jax.jit(beam.start, static_argnames=("width", "num_beams"))

    def start(
        params: Params, inputs: np.ndarray, lengths: np.ndarray, starts: np.ndarray, stop: DecodeLimits,
        cache_length: int, width: int,
    ) -> Slots:  # fmt: skip
        read = forward.prefill(params, inputs, lengths, model, cache_length, starts)
        return first_tokens(*read, lengths, stop, width=width)

    def branch(
        params: Params, inputs: np.ndarray, lengths: np.ndarray, stop: DecodeLimits, cache_length: int, **sizes: int
    ) -> Beams:
        return first_beams(*forward.prefill(params, inputs, lengths, model, cache_length), lengths, stop, **sizes)

    return _Programs(
        start=start,
        empty=empty,
        insert=insert,
        shorten=shorten,
        gather=gather,
        decode=jax.jit(partial(greedy.decode, model=model), donate_argnames="slots"),
        step=jax.jit(partial(greedy.step, model=model), donate_argnames="slots"),
        branch=branch,
        search=jax.jit(partial(beam.search, model=model), donate_argnames="beams"),
    )


def _masked(stop: DecodeLimits, begun: Begun, indices: Sequence[int | None]) -> DecodeLimits:
    return stop._replace(allowed=begun.masks(indices, stop.eos_ids, len(stop.allowed)) & stop.allowed)


def _longest_first(prompts: dict[int, Sequence[int]]) -> list[int]:
    return sorted(prompts, key=lambda index: (len(prompts[index]), *prompts[index]), reverse=True)


def _run(
    params: Params,
    model: ModelConfig,
    prompts: dict[int, Sequence[int]],
    stop: DecodeLimits,
    batch: int,
    shards: int,
    finished: OnFinished,
    forms: Mapping[int, Answer | None] | None,
) -> None:
    """Decodes all `prompts` with `batch` slots, at the end with fewer, and passes each result to `finished`.

    Prompts are read in groups and wait for a free slot: few programs read many tokens each, and slots stay full.
    With `forms` the allowed ids of a row change with every token, so each step returns to the host.
    """
    programs = _programs(dataclasses.astuple(model))
    buckets = bucket_lengths([len(prompt) for prompt in prompts.values()])
    width = round_up(stop.max_new_tokens, GRANULE)
    caches, tails = cache_lengths(buckets, width), tail_sizes(batch, shards)
    queue = _longest_first(prompts)
    lengths = [len(prompts[index]) for index in queue]
    groups = plan_groups(lengths, buckets, max(1, batch // _PREFILL_PART), batch // shards, shards)[::-1]
    owners: list[int | None] = [None] * batch
    waiting: list[tuple[int, int]] = []  # (row of `new`, prompt) of prefilled prompts without a slot
    left = len(prompts)  # prompts without a slot
    min_free_slots = max(1, batch // _ENTER_PART)
    length = caches[-1]
    slots = programs.empty(batch=batch, length=length, width=width)
    new, members = None, []
    begun = Begun(forms or {})
    while left or any(owner is not None for owner in owners):
        free = [row for row, owner in enumerate(owners) if owner is None]
        while free and left and len(free) >= min(min_free_slots, left):
            if not waiting:
                group = groups.pop()
                rows = [[prompts[queue[place]] for place in row] for row in group.rows]
                packed = forward.pack_prompts(rows, group.tokens, group.room)
                members = [None if place is None else queue[place] for place in group.members()]
                first = stop if forms is None else _masked(stop, begun, members)
                new = programs.start(params, *packed, first, cache_length=group.bucket, width=width)
                if forms is not None:
                    begun.follow(members, *jax.device_get((new.tokens, new.counts)))
                waiting = [(row, index) for row, index in enumerate(members) if index is not None][::-1]
            rows = np.full(len(members), batch, np.int32)
            for _ in range(min(len(free), len(waiting))):
                place, index = waiting.pop()
                rows[place] = free.pop()
                owners[rows[place]] = index
                left -= 1
            slots = programs.insert(slots, new, rows)
            if not waiting:
                new = None  # frees the group's cache while the others are decoded
        held = [index for index in owners if index is not None]
        need = smallest(buckets, max(len(prompts[index]) for index in held)) + width
        if smallest(caches, need) < length:
            length = smallest(caches, need)
            slots = programs.shorten(slots, length=length)
        until_active = batch - min_free_slots
        if not left:
            size = min((size for size in tails if len(held) <= size < len(owners)), default=len(owners))
            if size < len(owners):
                rows = sorted(range(len(owners)), key=lambda row: owners[row] is None)[:size]
                slots, owners = programs.gather(slots, np.array(rows, np.int32)), [owners[row] for row in rows]
            until_active = max(len(held) - min_free_slots, *(size for size in tails if size < len(held)), 0)
        if forms is None:
            slots = programs.decode(params, slots, stop, until_active)
        else:
            active = jax.device_get(slots.active)
            while active.sum() > until_active:
                going = [index if active[row] else None for row, index in enumerate(owners)]
                slots = programs.step(params, slots, _masked(stop, begun, going))
                tokens, counts, active = jax.device_get((slots.tokens, slots.counts, slots.active))
                begun.follow(going, tokens, counts)
        active, counts, output = jax.device_get((slots.active, slots.counts, slots.output))
        for row, index in enumerate(owners):
            if index is not None and not active[row]:
                owners[row] = None
                finished(index, greedy.new_tokens(output[row], counts[row]))


def _run_beams(
    params: Params,
    model: ModelConfig,
    prompts: dict[int, Sequence[int]],
    stop: DecodeLimits,
    batch: int,
    num_beams: int,
    finished: OnFinished,
) -> None:
    """Decodes all `prompts` by beam search, `batch` at a time, and passes each result to `finished`."""
    programs = _programs(dataclasses.astuple(model))
    buckets = bucket_lengths([len(prompt) for prompt in prompts.values()])
    width = round_up(stop.max_new_tokens, GRANULE)
    caches = cache_lengths(buckets, width)
    queue = _longest_first(prompts)
    for first in range(0, len(queue), batch):
        group = queue[first : first + batch]
        bucket = smallest(buckets, len(prompts[group[0]]))
        inputs, lengths = forward.pad_prompts([prompts[index] for index in group], batch, bucket)
        length = smallest(caches, bucket + width)
        beams = programs.branch(params, inputs, lengths, stop, cache_length=length, width=width, num_beams=num_beams)
        beams = programs.search(params, beams, stop)
        answers, counts = jax.device_get((beams.answer, beams.counts))
        for row, index in enumerate(group):
            finished(index, greedy.new_tokens(answers[row], counts[row]))


def generate_tokens(
    params: Params,
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    allowed_ids: Sequence[int],
    batch: int,
    num_beams: int = 1,
    mesh: Mesh | None = None,
    on_finished: OnFinished | None = None,
    forms: Sequence[Answer | None] | None = None,
) -> list[list[int]]:
    """Continues prompts greedily or by beam search, `batch` at a time.

    In float32 the answers depend neither on `batch`, nor on the order of the prompts, nor on `mesh`, unless two tokens'
    logits are closer than rounding (about 1e-6 of their size): other shapes sum in another order.

    Args:
      params: the model's parameters; stacked ones are copied to layered ones in the compute dtype.
      model: shapes and numerics.
      prompts: token ids of each prompt, which are not cut.
      max_new_tokens: limit of an answer without an end-of-sequence token.
      eos_ids: ids of the tokens that end an answer (`Tokenizer.stop_ids`).
      allowed_ids: ids that may be chosen: those of the tokenizer (`Tokenizer.ids`) that the model has.
      batch: prompts decoded together, rounded up to 8 and to what the mesh divides. It is halved, with a warning, when
        the device's memory runs out.
      num_beams: beams of each prompt, one row of the batch each; 1 decodes greedily.
      mesh: devices; None: those of the parameters.
      on_finished: called with (index of the prompt, its new tokens) as soon as an answer is known.
      forms: for each prompt its empty answer, which constrains decoding; None, or None for a prompt: no constraint.

    Returns:
      The new tokens of each prompt, in the order of `prompts`, without the end-of-sequence token.

    Raises:
      ConfigError: `max_new_tokens`, `batch` or `num_beams` below 1, more beams than half of `allowed_ids`, beams with
        `forms`, or not enough memory for the smallest batch.
      DataError: an empty prompt, an id that the model does not have, or logits that are not finite.
    """
    if batch < 1:
        raise ConfigError(f"the batch must be at least 1, not {batch}")
    beam.check_beams(num_beams, len(allowed_ids))
    if forms is not None and num_beams > 1:
        raise ConfigError("constrained answers are decoded greedily; use num_beams=1 with them")
    greedy.check_prompts(prompts, max_new_tokens, model.vocab_size)
    results: dict[int, list[int]] = {}

    def finished(index: int, tokens: list[int]) -> None:
        results[index] = tokens
        if on_finished is not None:
            on_finished(index, tokens)

    shards = batch_shards(mesh)
    batch = round_up(max(MIN_ROWS, min(batch, len(prompts))), shards)
    stop = greedy.make_limits(eos_ids, allowed_ids, max_new_tokens, model.vocab_size)
    params = split_layers(params, model)
    with on_mesh(mesh):
        while len(results) < len(prompts):
            todo = {index: prompt for index, prompt in enumerate(prompts) if index not in results}
            try:
                if num_beams > 1:
                    _run_beams(params, model, todo, stop, batch, num_beams, finished)
                else:
                    of_prompt = None if forms is None else {index: forms[index] for index in todo}
                    _run(params, model, todo, stop, batch, shards, finished, of_prompt)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if batch == shards:
                    raise ConfigError(
                        f"out of device memory with {batch} prompts of up to {max(map(len, todo.values()))} tokens at "
                        "a time; use more devices, a smaller model, or fewer tokens or beams"
                    ) from error
                batch = round_up(max(1, batch // 2), shards)
                log.warning("out of device memory: continuing with a batch of %d", batch)
    return [results[index] for index in range(len(prompts))]
