"""Log-likelihoods of several answers to a prompt: the prompt is prefilled once, its answers are scored in parallel."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import forward, greedy
from ecomgpt_jax.decoding.cache import Cache
from ecomgpt_jax.decoding.lengths import GRANULE, bucket_lengths, round_up, smallest
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.parameters import Params, split_layers
from ecomgpt_jax.parallel.mesh import batch_shards, on_mesh
from ecomgpt_jax.parallel.sharding import constrain


@lru_cache(maxsize=8)
def _score(fields: tuple) -> Callable[..., jax.Array]:
    model = ModelConfig(*fields)

    @jax.jit
    def score(
        params: Params, cache: Cache, logits: jax.Array, lengths: jax.Array, owners: jax.Array, answers: jax.Array,
        counts: jax.Array,
    ) -> jax.Array:  # fmt: skip
        """Returns the sum of the log-probabilities of each answer's first `counts` tokens.

        Args:
          params: layered.
          cache: of the prompts.
          logits: [prompts, vocab], after each prompt's last token.
          lengths: int32 [prompts].
          owners: int32 [rows], the prompt of each answer.
          answers: int32 [width, rows].
          counts: int32 [rows].
        """
        first = jnp.take_along_axis(jax.nn.log_softmax(logits)[owners], answers[0][:, None], axis=1)[:, 0]

        def step(at: jax.Array, carry: tuple[Cache, jax.Array]) -> tuple[Cache, jax.Array]:
            cache, total = carry
            cache, logits = forward.decode_step(params, cache, answers[at], lengths[owners] + at, model)
            chances = jnp.take_along_axis(jax.nn.log_softmax(logits), answers[at + 1][:, None], axis=1)[:, 0]
            return cache, total + jnp.where(at + 1 < counts, chances, 0)

        cache = jax.tree.map(lambda leaf: leaf[owners], cache)
        # Stops at the longest of these answers, since `width` may be several times as large.
        return constrain(jax.lax.fori_loop(0, counts.max() - 1, step, (cache, first))[1])

    return score


def log_probabilities(
    params: Params,
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    batch: int,
    mesh: Mesh | None = None,
    title: str = "",
) -> list[np.ndarray]:
    """Returns for each prompt the sum of the log-probabilities (natural) of each of its answers' tokens.

    Token t of an answer is scored by the logits after token t - 1; answers to one prompt do not attend to each other.

    Args:
      params: the model's parameters, stacked or layered.
      model: shapes and numerics.
      prompts: token ids of each prompt, at least one.
      answers: for each prompt the ids of its answers, at least one each, with or without the end-of-sequence token.
      batch: answers scored together, rounded up to what `mesh` divides.
      mesh: devices; None: those of the parameters.
      title: of the progress bar; empty: no bar.

    Raises:
      DataError: an empty prompt or answer, an id that the model does not have, or logits that are not finite.
    """
    rows = [(owner, place) for owner, group in enumerate(answers) for place in range(len(group))]
    if any(not len(answers[owner][place]) for owner, place in rows):
        raise DataError("an answer without tokens has no likelihood")
    greedy.check_prompts(prompts, 1, model.vocab_size)
    greedy.check_prompts([answers[owner][place] for owner, place in rows], 1, model.vocab_size)
    shards = batch_shards(mesh)
    batch = round_up(batch, shards)
    fields, params = dataclasses.astuple(model), split_layers(params, model)
    buckets = bucket_lengths([len(prompt) for prompt in prompts]) if prompts else []
    width = max((len(answers[owner][place]) for owner, place in rows), default=0)
    rows.sort(key=lambda row: (len(prompts[row[0]]), row))
    found = [np.zeros(len(group)) for group in answers]
    hidden = None if title and jax.process_index() == 0 else True  # None: no bar if the output is not a terminal
    bar = tqdm.tqdm(total=len(rows), desc=title, unit="answer", dynamic_ncols=True, disable=hidden)
    with bar, on_mesh(mesh):
        for start in range(0, len(rows), batch):
            group = rows[start : start + batch]
            known = list(dict.fromkeys(owner for owner, _ in group))
            # Powers of two, so that few programs are compiled.
            read = round_up(1 << (len(known) - 1).bit_length(), shards)
            bucket = smallest(buckets, len(prompts[known[-1]]))
            inputs, lengths = forward.pad_prompts([prompts[owner] for owner in known], read, bucket)
            cache, logits = forward.prefill(params, inputs, lengths, model, round_up(bucket + width, GRANULE))
            owners, counts = np.zeros(batch, np.int32), np.ones(batch, np.int32)
            tokens = np.zeros((width, batch), np.int32)
            for row, (owner, place) in enumerate(group):
                answer = answers[owner][place]
                owners[row], counts[row], tokens[: len(answer), row] = known.index(owner), len(answer), answer
            totals = np.asarray(_score(fields)(params, cache, logits, lengths, owners, tokens, counts))[: len(group)]
            if not np.isfinite(totals).all():  # the largest of them would be the first that is nan
                raise DataError(greedy.NOT_FINITE)
            for (owner, place), total in zip(group, totals, strict=True):
                found[owner][place] = total
            bar.update(len(group))
    return found
