"""One optimizer step as one jitted program: add up the gradients of micro-batches, update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model import bloom, head
from ecomgpt_jax.model.bloom import init_sharded_params
from ecomgpt_jax.model.parameters import Params, param_shapes, param_shardings
from ecomgpt_jax.parallel.sharding import spec

Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
    """What a step reads and replaces.

    Attributes:
      step: [] int32, optimizer updates done.
      params: float32 masters.
      optimizer: optax state (Adam moments shaped and sharded like the parameters).
    """

    step: jax.Array
    params: Params
    optimizer: optax.OptState


def abstract_state(model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns shape, dtype and sharding of every leaf of a `TrainState`: moments lie as their parameters do."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params = param_shapes(model)
    shardings = param_shardings(model, mesh)
    moments = optax.tree.map_params(
        optimizer,
        placed,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda leaf: placed(leaf, replicated),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return TrainState(step, jax.tree.map(placed, params, shardings), moments)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def init_state(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int, params: Params | None = None
) -> TrainState:
    """Returns the state of step 0, born sharded; with `params`, fresh optimizer state around them."""
    target = abstract_state(model, optimizer, mesh)
    if params is None:
        params = init_sharded_params(model, mesh, jax.random.key(seed))
    moments = jax.jit(optimizer.init, out_shardings=_shardings(target.optimizer))(params)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), target.step.sharding), params, moments)


def batch_loss(params: Params, batch: Batch, model: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of the cross-entropy over targets, number of targets) of one micro-batch, [] float32 each.

    Args:
      params: the model's parameters.
      batch: `inputs targets segment_ids` int32 and `loss_mask` bool, [rows, length].
      model: shapes and numerics.
    """
    hidden = bloom.forward(params, batch["inputs"], batch["segment_ids"], model)
    return head.loss_sum(params["embedding"]["table"], hidden, batch["targets"], batch["loss_mask"], model)


def accumulate(params: Params, batch: Batch, model: ModelConfig) -> tuple[Params, jax.Array, jax.Array]:
    """Returns (gradient of the mean loss, mean loss, targets) over micro-batches of any target counts.

    Each target weighs 1 / (targets of all micro-batches), so 1 x 8 rows and 8 x 1 rows give the same update even where
    a micro-batch holds no target at all, and no gradient is ever divided. Leaves of `batch` are
    [accumulation, rows, length].
    """
    count = batch["loss_mask"].astype(jnp.float32).sum()
    batch = {**batch, "loss_mask": batch["loss_mask"] / jnp.maximum(count, 1.0)}
    value_and_grad = jax.value_and_grad(batch_loss, has_aux=True)
    if len(batch["inputs"]) == 1:  # nothing to add up, so no second copy of the gradient
        (loss, _), gradient = value_and_grad(params, jax.tree.map(lambda leaf: leaf[0], batch), model)
        return gradient, loss, count

    def add(carry: tuple[Params, jax.Array], micro: Batch) -> tuple[tuple[Params, jax.Array], None]:
        (loss, _), gradient = value_and_grad(params, micro, model)
        return jax.tree.map(jnp.add, carry, (gradient, loss)), None

    carry = (jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32))
    (gradient, loss), _ = jax.lax.scan(add, carry, batch)
    return gradient, loss, count


def make_train_step(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted `train_step(state, batch) -> (state, metrics)`; it donates the state.

    Leaves of `batch` are [accumulation, rows, length]. Metrics, [] float32 each: `loss` (mean over targets),
    `targets`, `tokens` (positions that are not padding), `grad_norm` (before clipping). Where loss or gradient is not
    finite, parameters and optimizer state come back unchanged and only the step counts on.
    """
    shardings = _shardings(abstract_state(model, optimizer, mesh))
    micro_batches = NamedSharding(mesh, spec(None, "batch"))
    replicated = NamedSharding(mesh, PartitionSpec())

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        gradient, loss, count = accumulate(state.params, batch, model)
        norm = optax.tree.norm(gradient)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        # A step that is not finite leaves weights and moments as they are; XLA fuses the choice into the update.
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(state.params, updates), moments),
            (state.params, state.optimizer),
        )
        metrics = {
            "loss": loss,
            "targets": count,
            "tokens": (batch["segment_ids"] > 0).sum().astype(jnp.float32),
            "grad_norm": norm,
        }
        return TrainState(state.step + 1, params, moments), metrics

    # Output shardings are pinned: left open, the second call would see other shardings and compile again.
    return jax.jit(
        train_step,
        in_shardings=(shardings, micro_batches),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )


def global_batch(local: dict[str, Any], accumulation: int, mesh: Mesh) -> Batch:
    """Puts this host's rows of one step on the mesh as [accumulation, rows, length] arrays."""
    placement = NamedSharding(mesh, spec(None, "batch"))
    return {
        name: jax.make_array_from_process_local_data(placement, rows.reshape(accumulation, -1, rows.shape[-1]))
        for name, rows in local.items()
    }
