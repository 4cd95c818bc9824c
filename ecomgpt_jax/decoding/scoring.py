"""Likelihood of given answers: the mean log-probability of an answer's tokens after its prompt."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import forward
from ecomgpt_jax.decoding.lengths import MIN_ROWS, bucket_lengths, round_up, smallest
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import Params, split_layers
from ecomgpt_jax.parallel.mesh import batch_shards, on_mesh
from ecomgpt_jax.parallel.sharding import constrain


@lru_cache(maxsize=8)
def _score(fields: tuple) -> Callable[..., jax.Array]:
    model = ModelConfig(*fields)

    @jax.jit
    def score(top: Params, x: jax.Array, first: jax.Array, targets: jax.Array, counted: jax.Array) -> jax.Array:
        hidden = decoder.final_norm(top, x, model)

        def of_row(row: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            hidden, first, targets, counted = row
            before = jnp.minimum(first + jnp.arange(len(targets)), len(hidden) - 1)
            log_probs = jax.nn.log_softmax(decoder.logits(top, hidden[before], model))
            at_target = jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
            return jnp.sum(jnp.where(counted, at_target, 0)) / jnp.sum(counted)

        # Row by row, since the logits of one row fit into memory and those of a batch may not.
        return constrain(jax.lax.map(of_row, (hidden, first, targets, counted)))

    return score


def mean_log_probabilities(
    params: Params,
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch: int,
    mesh: Mesh | None = None,
) -> list[float]:
    """Returns for each answer the mean natural logarithm of its tokens' probabilities.

    Args:
      params: the model's parameters, stacked or layered.
      model: shapes and numerics.
      prompts: token ids of each prompt, at least one.
      answers: token ids of each answer, at least one, with or without the end-of-sequence token.
      batch: rows scored together, each padded on the right to one of a few lengths; rounded up to what `mesh` divides.
      mesh: devices; None: those of the parameters.
    """
    shards = batch_shards(mesh)
    fields, params = dataclasses.astuple(model), split_layers(params, model)
    score, batch, top = _score(fields), round_up(batch, shards), {**params, "blocks": params["blocks"][:1]}
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    if not rows:
        return []
    buckets = bucket_lengths([len(row) - 1 for row in rows])
    answer_buckets = bucket_lengths([*map(len, answers)], granule=MIN_ROWS)
    widths = [smallest(answer_buckets, len(answer)) for answer in answers]
    # Answers of similar lengths share a batch, since each position costs a row of logits over the whole vocabulary.
    order = sorted(range(len(rows)), key=lambda index: (widths[index], len(rows[index])))
    found = np.zeros(len(rows))
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        length = smallest(buckets, max(len(rows[index]) for index in group) - 1)
        longest = widths[group[-1]]
        inputs, first = np.zeros((batch, length), np.int32), np.zeros(batch, np.int32)
        targets, counted = np.zeros((batch, longest), np.int32), np.zeros((batch, longest), np.bool_)
        for place, index in enumerate(group):
            inputs[place, : len(rows[index]) - 1] = rows[index][:-1]
            first[place] = len(prompts[index]) - 1  # the position that predicts the answer's first token
            targets[place, : len(answers[index])], counted[place, : len(answers[index])] = answers[index], True
        with on_mesh(mesh):
            x, lengths = forward.embed(top, inputs, fields), np.full(batch, length, np.int32)
            for block_params, slides in zip(params["blocks"], decoder.layer_kinds(model), strict=True):
                x, _ = forward.read_block(block_params, x, lengths, None, fields, 0, slides)
            found[group] = np.asarray(score(top, x, first, targets, counted))[: len(group)]
    return found.tolist()
