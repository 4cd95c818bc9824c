"""Cross-entropy over the head, computed only at targets.

With BLOOM's vocabulary of 250,880 the head is up to 44 % of the training FLOPs, and only response tokens carry loss. So
the target positions are compacted and their logits computed in chunks, by loops whose length depends on the number of
targets. The gradients of a chunk are computed while its logits exist, in the forward pass: nothing is recomputed,
shapes are static, the number of targets has no limit, and there is no [batch, length, vocab] or one-hot array.

Under `jax.set_mesh` every device computes its rows with its part of the vocabulary (`shard_map`); otherwise the same
program runs on the whole arrays.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model.product import matmul_precision, narrower
from ecomgpt_jax.parallel.sharding import ambient_mesh, spec

_PARTS = 4  # the remainder is computed in chunks of this fraction of the size

Sums = tuple[jax.Array, jax.Array, jax.Array]  # loss sum, gradient of hidden, gradient of the table


def _chunk_loss(
    logits: jax.Array, targets: jax.Array, first_id: jax.Array | int, vocab: int, axis: str | None
) -> tuple[jax.Array, jax.Array]:
    """Returns cross-entropy [chunk] and its gradient [chunk, ids] for logits of the token ids from `first_id` on."""

    def over_vocab(reduce: str, x: jax.Array) -> jax.Array:
        return x if axis is None else getattr(jax.lax, reduce)(x, axis)

    highest = over_vocab("pmax", logits.max(-1, keepdims=True))
    log_total = highest + jnp.log(over_vocab("psum", jnp.exp(logits - highest).sum(-1, keepdims=True)))
    is_target = first_id + jnp.arange(logits.shape[1]) == targets[:, None]
    loss = log_total[:, 0] - over_vocab("psum", jnp.where(is_target, logits, 0).sum(-1))
    loss = jnp.where((targets >= 0) & (targets < vocab), loss, jnp.nan)  # an id outside the vocabulary gives nan
    return loss, jnp.exp(logits - log_total) - is_target  # recomputes the exponentials instead of storing them


def _targets_only(
    table: jax.Array, hidden: jax.Array, targets: jax.Array, weights: jax.Array, chunk: int, gradients: bool,
    axis: str | None = None, every_axis: tuple[str, ...] = (),
) -> Sums:  # fmt: skip
    """Returns loss sum and gradients over this device's rows and token ids.

    Args:
      table: [ids, embed] in the compute dtype: all token ids, or this device's share of them along `axis`.
      hidden: [positions, embed] in the compute dtype.
      targets: int [positions].
      weights: float32 [positions]; 0 where there is no target.
      chunk: positions whose logits exist at one time.
      gradients: whether to compute the gradients; zeros otherwise.
      axis: mesh axis that splits the vocabulary.
      every_axis: mesh axes whose devices must run the loop equally often, because it communicates along `axis`.
    """
    positions, local_vocab = hidden.shape[0], table.shape[0]
    chunk = min(chunk, positions)
    (places,) = jnp.nonzero(weights, size=positions + chunk, fill_value=positions)
    count = jnp.count_nonzero(weights)
    first_id, vocab = 0, local_vocab
    if axis is not None:
        first_id, vocab = jax.lax.axis_index(axis) * local_vocab, local_vocab * jax.lax.axis_size(axis)
        count = jax.lax.pmax(count, every_axis)
    product = partial(jax.lax.dot_general, precision=matmul_precision(hidden.dtype), preferred_element_type=jnp.float32)

    def chunk_step(i: jax.Array, sums: Sums, first: jax.Array | int, size: int) -> Sums:
        loss_sum, d_hidden, d_table = sums
        at = jax.lax.dynamic_slice(places, (first + i * size,), (size,))
        rows, ids, weight = (x.at[at].get(mode="fill", fill_value=0) for x in (hidden, targets, weights))
        logits = product(rows, table, (((1,), (1,)), ((), ())))
        loss, d_logits = _chunk_loss(logits, ids, first_id, vocab, axis)
        loss_sum += jnp.sum(loss * weight, where=weight != 0)
        if gradients:
            d_logits = (d_logits * weight[:, None]).astype(hidden.dtype)
            d_rows = product(d_logits, table, (((1,), (0,)), ((), ())))
            d_rows = d_rows if axis is None else jax.lax.psum(d_rows, axis)
            d_hidden = d_hidden.at[at].set(d_rows.astype(hidden.dtype), mode="drop")
            d_table += product(d_logits, rows, (((0,), (0,)), ((), ())))
        return loss_sum, d_hidden, d_table

    d_table = jnp.zeros(table.shape if gradients else (), jnp.float32)
    sums = (jnp.float32(0), jnp.zeros_like(hidden), d_table)
    sums = jax.lax.fori_loop(0, count // chunk, partial(chunk_step, first=0, size=chunk), sums)
    rest, part = count % chunk, -(-chunk // _PARTS)  # a whole chunk for the remainder would be mostly empty
    return jax.lax.fori_loop(0, -(-rest // part), partial(chunk_step, first=count - rest, size=part), sums)


def _sums(
    table: jax.Array, hidden: jax.Array, targets: jax.Array, weights: jax.Array, chunk: int, gradients: bool
) -> Sums:
    """Returns `_targets_only` for hidden [batch, length, embed], on each device's own rows if there is a mesh."""

    def run(table: jax.Array, hidden: jax.Array, targets: jax.Array, weights: jax.Array, **mesh_axes: object) -> Sums:
        operands = narrower(hidden, table)
        rows = hidden.astype(operands).reshape(-1, hidden.shape[-1])
        flat = (table.astype(operands), rows, targets.ravel(), weights.ravel())
        loss, d_hidden, d_table = _targets_only(*flat, chunk, gradients, **mesh_axes)
        return loss, d_hidden.astype(hidden.dtype).reshape(hidden.shape), d_table

    mesh = ambient_mesh()
    if mesh is None or mesh.size == 1:
        return run(table, hidden, targets, weights)
    table_spec, rows = spec("vocab", "embed"), spec("batch")
    row_axes, vocab_axis, width_axis = rows[0], table_spec[0], table_spec[1]

    def device(table: jax.Array, hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
        whole = jax.lax.all_gather(table.astype(narrower(hidden, table)), width_axis, axis=1, tiled=True)
        split = {"axis": vocab_axis, "every_axis": mesh.axis_names} if mesh.shape[vocab_axis] > 1 else {}
        loss, d_hidden, d_table = run(whole, hidden, targets, weights, **split)
        if gradients:
            d_table = jax.lax.psum_scatter(d_table, width_axis, scatter_dimension=1, tiled=True)
            d_table = jax.lax.psum(d_table, tuple(axis for axis in row_axes if axis != width_axis))
        return jax.lax.psum(loss, row_axes), d_hidden, d_table

    return jax.shard_map(
        device,
        in_specs=(table_spec, rows, rows, rows),
        out_specs=(spec(), rows, table_spec if gradients else spec()),
        check_vma=False,  # the sums above make each output equal along the axes that its spec omits
    )(table, hidden, targets, weights)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _loss(table: jax.Array, hidden: jax.Array, targets: jax.Array, weights: jax.Array, chunk: int) -> jax.Array:
    return _sums(table, hidden, targets, weights, chunk, gradients=False)[0]


def _loss_forward(
    table: jax.Array, hidden: jax.Array, targets: jax.Array, weights: jax.Array, chunk: int
) -> tuple[jax.Array, tuple]:
    loss, d_hidden, d_table = _sums(table, hidden, targets, weights, chunk, gradients=True)
    return loss, (d_hidden, d_table.astype(table.dtype), targets, weights)


def _loss_backward(chunk: int, kept: tuple, d_loss: jax.Array) -> tuple:
    del chunk
    d_hidden, d_table, targets, weights = kept
    no_gradient = np.zeros(targets.shape, jax.dtypes.float0)
    return (
        (d_table * d_loss).astype(d_table.dtype),
        (d_hidden * d_loss).astype(d_hidden.dtype),
        no_gradient,
        jnp.zeros_like(weights),
    )


_loss.defvjp(_loss_forward, _loss_backward)


def loss_sum(
    params_table: jax.Array, hidden: jax.Array, targets: jax.Array, loss_mask: jax.Array, model: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    """Sums the cross-entropy of the targets.

    Args:
      params_table: the embedding table, float32 [vocab, embed].
      hidden: [batch, length, embed] after the final norm, in the compute dtype; logits and sums are float32.
      targets: int [batch, length]: the token that follows each input.
      loss_mask: [batch, length]; 0 where the target carries no loss, else its weight (bool: 1). It has no
        gradient.
      model: `head_chunk` is the number of positions whose logits exist at one time.

    Returns:
      (sum of weight * cross-entropy, sum of weights), float32 scalars; (0, 0) and zero gradients without targets.
      A target outside the vocabulary makes the loss nan.
    """
    weights = jax.lax.stop_gradient(jnp.asarray(loss_mask, jnp.float32))
    targets = jnp.asarray(targets)
    return _loss(params_table, hidden, targets, weights, model.head_chunk), weights.sum()
