"""One optimizer step as one jitted program: sums the gradients of micro-batches and updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecomgpt_jax.config import Config, ModelConfig
from ecomgpt_jax.model import decoder, head, lora
from ecomgpt_jax.model.decoder import init_sharded_params
from ecomgpt_jax.model.parameters import Params, param_shapes, param_shardings
from ecomgpt_jax.parallel.mesh import batch_shards, held_rows
from ecomgpt_jax.parallel.sharding import spec

Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
    """The state that a step reads and replaces.

    Attributes:
      step: [] int32, optimizer updates done.
      params: the trained parameters, float32: all weights, or with LoRA the adapters.
      optimizer: optax state (Adam moments shaped and sharded like the parameters).
      base: with LoRA the weights under the adapters, in the compute dtype.
    """

    step: jax.Array
    params: Params
    optimizer: optax.OptState
    base: Params | None = None


def abstract_state(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns shape, dtype and sharding of every leaf of a `TrainState`; moments are sharded like their parameters."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    model = config.model
    params, shardings, base = param_shapes(model), param_shardings(model, mesh), None
    if config.lora.rank:
        base = jax.tree.map(placed, param_shapes(model, model.compute_dtype), shardings)
        params, shardings = lora.adapter_shapes(model, config.lora), lora.adapter_shardings(model, config.lora, mesh)
    moments = optax.tree.map_params(
        optimizer,
        placed,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda leaf: placed(leaf, replicated),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return TrainState(step, jax.tree.map(placed, params, shardings), moments, base)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def init_state(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh, params: Params | None = None
) -> TrainState:
    """Returns the state of step 0, created sharded.

    Args:
      config: model, LoRA and seed.
      optimizer: its state is initialised.
      mesh: devices.
      params: initial weights, with LoRA the base in the compute dtype; None: fresh ones.
    """
    target, base, key = abstract_state(config, optimizer, mesh), None, jax.random.key(config.train.seed)
    if params is None:
        dtype = config.model.compute_dtype if config.lora.rank else jnp.float32
        params = init_sharded_params(config.model, mesh, key, dtype)
    if config.lora.rank:
        base, params = params, lora.init_adapters(config.model, config.lora, mesh, key)
    moments = jax.jit(optimizer.init, out_shardings=_shardings(target.optimizer))(params)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), target.step.sharding), params, moments, base)


def batch_loss(
    params: Params, batch: Batch, model: ModelConfig, adapters: lora.Adapters | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of the cross-entropy over targets, number of targets) of one micro-batch, [] float32 each.

    Args:
      params: the model's parameters.
      batch: `inputs targets segment_ids` int32 and `loss_mask` bool or weights in float32, [rows, length].
      model: shapes and numerics.
      adapters: added to the parameters; None: no adapters.
    """
    hidden = decoder.forward(params, batch["inputs"], batch["segment_ids"], model, adapters)
    return head.loss_sum(decoder.head_table(params), hidden, batch["targets"], batch["loss_mask"], model)


def accumulate(
    loss_of: Callable[[Params, Batch], tuple[jax.Array, jax.Array]], params: Params, batch: Batch
) -> tuple[Params, jax.Array, jax.Array]:
    """Returns (gradient of the mean loss, mean loss, targets) over micro-batches of any target counts.

    Each target counts with its share of the weight of all micro-batches, so 1 x 8 rows and 8 x 1 rows give the same
    update even if a micro-batch has no target, and no gradient is divided.

    Args:
      loss_of: returns the result of `batch_loss` for the trained parameters and a micro-batch.
      params: the trained parameters.
      batch: leaves are [accumulation, …], otherwise as in `batch_loss`.
    """
    count = (batch["loss_mask"] != 0).sum().astype(jnp.float32)
    total = batch["loss_mask"].astype(jnp.float32).sum()
    batch = {**batch, "loss_mask": batch["loss_mask"] / jnp.where(count, total, 1.0)}
    value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
    if len(batch["inputs"]) == 1:  # nothing to sum, so no second copy of the gradient
        (loss, _), gradient = value_and_grad(params, jax.tree.map(lambda leaf: leaf[0], batch))
        return gradient, loss, count

    def add(carry: tuple[Params, jax.Array], micro: Batch) -> tuple[tuple[Params, jax.Array], None]:
        (loss, _), gradient = value_and_grad(params, micro)
        return jax.tree.map(jnp.add, carry, (gradient, loss)), None

    carry = (jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32))
    (gradient, loss), _ = jax.lax.scan(add, carry, batch)
    return gradient, loss, count


def make_train_step(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted `train_step(state, batch) -> (state, metrics)`; it donates the state.

    Leaves of `batch` are [accumulation, rows, length]. Metrics, [] float32 each: `loss` (mean over targets), `targets`,
    `tokens` (positions that are not padding), `grad_norm` (before clipping). If loss or gradient is not finite,
    parameters and optimizer state are returned unchanged and only the step is counted.
    """
    shardings = _shardings(abstract_state(config, optimizer, mesh))
    rows = NamedSharding(mesh, spec(None, "batch"))
    replicated = NamedSharding(mesh, PartitionSpec())

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        def loss_of(trained: Params, micro: Batch) -> tuple[jax.Array, jax.Array]:
            if state.base is None:
                return batch_loss(trained, micro, config.model)
            return batch_loss(
                state.base, micro, config.model, lora.make_adapters(trained, config.lora, micro["dropout_key"])
            )

        micro_batches = batch
        if state.base is not None:  # keys depend only on seed and step, so a resumed run drops the same units
            key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
            micro_batches = {**batch, "dropout_key": jax.random.split(key, len(batch["inputs"]))}
        gradient, loss, count = accumulate(loss_of, state.params, micro_batches)
        norm = optax.tree.norm(gradient)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        # A step that is not finite leaves weights and moments unchanged; XLA fuses the selection into the update.
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
        return TrainState(state.step + 1, params, moments, state.base), metrics

    # Output shardings are fixed; otherwise the inputs of the second call would differ and it would compile again.
    return jax.jit(
        train_step,
        in_shardings=(shardings, rows),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )


def step_rows(rows_per_step: int, accumulation: int, mesh: Mesh) -> np.ndarray:
    """Returns the numbers of the rows of a step that this process passes to `global_batch`: those of its devices.

    Raises:
      ConfigError: the mesh has no device of this process.
    """
    rows = rows_per_step // accumulation
    return (rows * np.arange(accumulation)[:, None] + held_rows(mesh, rows)).ravel()


def global_batch(local: dict[str, np.ndarray], accumulation: int, mesh: Mesh) -> Batch:
    """Places the batch of one step on the mesh.

    Args:
      local: arrays [rows, length]: the rows that `step_rows` names, in its order; all of them with one process.
      accumulation: micro-batches of the step.
      mesh: its devices.

    Returns:
      Arrays [accumulation, rows of all processes / accumulation, length]; the order of rows does not depend on the mesh
      or the number of processes.
    """
    shards, placement = batch_shards(mesh), NamedSharding(mesh, spec(None, "batch"))

    def put(array: np.ndarray) -> jax.Array:
        array = array.reshape(accumulation, -1, array.shape[-1])
        rows = array.shape[1] // len(held_rows(mesh, shards)) * shards
        held = held_rows(mesh, rows)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            return array[:, slice(*np.searchsorted(held, index[1].indices(rows)[:2]))]

        return jax.make_array_from_callback((accumulation, rows, array.shape[-1]), placement, part)

    return jax.tree.map(put, local)
