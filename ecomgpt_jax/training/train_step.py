"""One optimizer step as one jitted program: add up the gradients of micro-batches, update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecomgpt_jax.config import LoraConfig, ModelConfig
from ecomgpt_jax.model import bloom, head
from ecomgpt_jax.model import lora as adapters
from ecomgpt_jax.model.bloom import init_sharded_params
from ecomgpt_jax.model.parameters import Params, param_shapes, param_shardings
from ecomgpt_jax.parallel.sharding import spec

Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
    """What a step reads and replaces.

    Attributes:
      step: [] int32, optimizer updates done.
      params: float32 masters; with LoRA those of the adapters.
      optimizer: optax state (Adam moments shaped and sharded like the parameters).
      frozen: with LoRA the base weights, in the compute dtype.
    """

    step: jax.Array
    params: Params
    optimizer: optax.OptState
    frozen: Params | None = None


def abstract_state(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, lora: LoraConfig | None = None
) -> TrainState:
    """Returns shape, dtype and sharding of every leaf of a `TrainState`: moments lie as their parameters do."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params, shardings, frozen = param_shapes(model), param_shardings(model, mesh), None
    if lora and lora.rank:
        frozen = jax.tree.map(placed, param_shapes(model, model.compute_dtype), shardings)
        params = adapters.adapter_shapes(model, lora)
        shardings = adapters.adapter_shardings(model, lora, mesh)
    moments = optax.tree.map_params(
        optimizer,
        placed,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda leaf: placed(leaf, replicated),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return TrainState(step, jax.tree.map(placed, params, shardings), moments, frozen)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def init_state(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int, params: Params | None = None,
    lora: LoraConfig | None = None,
) -> TrainState:  # fmt: skip
    """Returns the state of step 0, born sharded; with `params`, fresh optimizer state (and adapters) around them."""
    target, frozen = abstract_state(model, optimizer, mesh, lora), None
    if params is None:
        params = init_sharded_params(model, mesh, jax.random.key(seed))
    if lora and lora.rank:
        frozen, params = adapters.freeze(params, model), adapters.init_adapters(model, lora, mesh, jax.random.key(seed))
    moments = jax.jit(optimizer.init, out_shardings=_shardings(target.optimizer))(params)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), target.step.sharding), params, moments, frozen)


def whole_params(state: TrainState, lora: LoraConfig) -> Params:
    """Returns the parameters that a state stands for: its masters, or with LoRA base and adapters merged, float32."""
    return state.params if state.frozen is None else adapters.merge(state.frozen, state.params, lora)


def batch_loss(
    params: Params, batch: Batch, model: ModelConfig, frozen: Params | None = None, lora: LoraConfig | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of the cross-entropy over targets, number of targets) of one micro-batch, [] float32 each.

    Args:
      params: the model's parameters; with `frozen`, adapters.
      batch: `inputs targets segment_ids` int32 and `loss_mask` bool, [rows, length]; with LoRA `dropout_key`.
      model: shapes and numerics.
      frozen: the base weights under the adapters.
      lora: what the adapters are.
    """
    if frozen is not None:
        params = adapters.combine(frozen, params, lora, batch["dropout_key"])
    hidden = bloom.forward(params, batch["inputs"], batch["segment_ids"], model)
    return head.loss_sum(params["embedding"]["table"], hidden, batch["targets"], batch["loss_mask"], model)


def accumulate(
    params: Params, batch: Batch, model: ModelConfig, frozen: Params | None = None, lora: LoraConfig | None = None
) -> tuple[Params, jax.Array, jax.Array]:
    """Returns (gradient of the mean loss, mean loss, targets) over micro-batches of any target counts.

    Each target weighs 1 / (targets of all micro-batches), so 1 x 8 rows and 8 x 1 rows give the same update even where
    a micro-batch holds no target at all, and no gradient is ever divided. Leaves of `batch` are
    [accumulation, rows, length].
    """
    count = batch["loss_mask"].astype(jnp.float32).sum()
    batch = {**batch, "loss_mask": batch["loss_mask"] / jnp.maximum(count, 1.0)}
    value_and_grad = jax.value_and_grad(batch_loss, has_aux=True)
    if len(batch["inputs"]) == 1:  # nothing to add up, so no second copy of the gradient
        (loss, _), gradient = value_and_grad(params, jax.tree.map(lambda leaf: leaf[0], batch), model, frozen, lora)
        return gradient, loss, count

    def add(carry: tuple[Params, jax.Array], micro: Batch) -> tuple[tuple[Params, jax.Array], None]:
        (loss, _), gradient = value_and_grad(params, micro, model, frozen, lora)
        return jax.tree.map(jnp.add, carry, (gradient, loss)), None

    carry = (jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32))
    (gradient, loss), _ = jax.lax.scan(add, carry, batch)
    return gradient, loss, count


def make_train_step(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, lora: LoraConfig | None = None
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted `train_step(state, batch) -> (state, metrics)`; it donates the state.

    Leaves of `batch` are [accumulation, rows, length]. Metrics, [] float32 each: `loss` (mean over targets),
    `targets`, `tokens` (positions that are not padding), `grad_norm` (before clipping). Where loss or gradient is not
    finite, parameters and optimizer state come back unchanged and only the step counts on.
    """
    shardings = _shardings(abstract_state(model, optimizer, mesh, lora))
    micro_batches = NamedSharding(mesh, spec(None, "batch"))
    replicated = NamedSharding(mesh, PartitionSpec())

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        if state.frozen is not None:  # a key of the step alone, so that a resumed run drops the same
            keys = jax.random.split(jax.random.fold_in(jax.random.key(0), state.step), len(batch["inputs"]))
            batch = {**batch, "dropout_key": keys}
        gradient, loss, count = accumulate(state.params, batch, model, state.frozen, lora)
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
        return TrainState(state.step + 1, params, moments, state.frozen), metrics

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
