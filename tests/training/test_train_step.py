import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import toy_config, toy_rows

from ecomgpt_jax.config import MeshConfig, OptimizerConfig
from ecomgpt_jax.model import decoder
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import (
    abstract_state,
    accumulate,
    batch_loss,
    global_batch,
    init_state,
    make_train_step,
)

CONFIG = toy_config()
# A rate near the recipe's: Adam divides tiny gradients by their own size, so a large one would magnify rounding.
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0)
accumulate_jit = jax.jit(lambda params, batch: accumulate(partial(batch_loss, model=CONFIG.model), params, batch))


def one_step_batch(rows_per_step: int = 8) -> dict[str, np.ndarray]:
    rows = toy_rows(rows_per_step)
    batch = {name: np.stack([rows[index][name] for index in range(rows_per_step)]) for name in rows[0]}
    # Uneven target counts, one row without a target and one empty row.
    batch["loss_mask"][3] = False
    batch["segment_ids"][5] = 0
    batch["loss_mask"][5] = False
    return batch


def shaped(batch: dict[str, np.ndarray], accumulation: int) -> dict[str, np.ndarray]:
    return {name: rows.reshape(accumulation, -1, rows.shape[-1]) for name, rows in batch.items()}


def test_one_by_eight_equals_eight_by_one() -> None:
    params = decoder.init_params(CONFIG.model, jax.random.key(0))
    batch = one_step_batch()
    whole = accumulate_jit(params, shaped(batch, 1))
    for micro_batches in (2, 8):
        parts = accumulate_jit(params, shaped(batch, micro_batches))
        assert float(parts[2]) == float(whole[2]) == batch["loss_mask"].sum()
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_weighted_targets_give_the_weighted_mean_whatever_the_micro_batches() -> None:
    """With the weight 1 / targets per row the loss is the mean of the rows' losses."""
    params = decoder.init_params(CONFIG.model, jax.random.key(0))
    batch = one_step_batch()
    singles = [
        accumulate_jit(params, shaped({name: rows[i : i + 1] for name, rows in batch.items()}, 1)) for i in range(8)
    ]
    counts = batch["loss_mask"].sum(-1, keepdims=True)
    weighted = batch | {"loss_mask": (batch["loss_mask"] / np.maximum(counts, 1)).astype(np.float32)}
    expected = (
        sum(float(single[1]) for single, count in zip(singles, counts, strict=True) if count) / (counts > 0).sum()
    )
    for micro_batches in (1, 8):
        gradient, loss, targets = accumulate_jit(params, shaped(weighted, micro_batches))
        assert float(targets) == batch["loss_mask"].sum()
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        wanted = sum(single[0]["embedding"]["table"] for single in singles) / (counts > 0).sum()
        np.testing.assert_allclose(gradient["embedding"]["table"], wanted, rtol=1e-4, atol=1e-6)
    assert abs(float(accumulate_jit(params, shaped(batch, 1))[1]) - expected) > 1e-4  # the plain mean is another


def test_a_mean_of_means_would_be_seen() -> None:
    """The negative control: averaging the micro-batches' means gives another gradient on uneven counts."""
    params = decoder.init_params(CONFIG.model, jax.random.key(0))
    batch = shaped(one_step_batch(), 8)
    whole, loss, _ = accumulate_jit(params, batch)
    singles = [accumulate_jit(params, jax.tree.map(lambda x, i=i: x[i : i + 1], batch)) for i in range(8)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 8, *[single[0] for single in singles])
    table, wrong = whole["embedding"]["table"], mean["embedding"]["table"]
    assert float(jnp.abs(table - wrong).max()) > 1e-3 * float(jnp.abs(table).max())
    assert abs(float(loss) - sum(float(single[1]) for single in singles) / 8) > 1e-4


def test_no_target_at_all_changes_nothing() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    optimizer = make_optimizer(OPTIMIZER, 10)
    batch = one_step_batch()
    batch["loss_mask"][:] = False
    with jax.set_mesh(mesh):
        state = init_state(CONFIG, optimizer, mesh)
        before = jax.device_get(state.params)
        state, metrics = make_train_step(CONFIG, optimizer, mesh)(state, global_batch(batch, 2, mesh))
    assert float(metrics["loss"]) == 0
    assert float(metrics["targets"]) == 0
    assert all(map(np.array_equal, jax.tree.leaves(before), jax.tree.leaves(jax.device_get(state.params))))


def test_the_loss_falls_and_one_program_serves_all_steps() -> None:
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    optimizer = make_optimizer(OPTIMIZER, 10)
    with jax.set_mesh(mesh):
        state = init_state(CONFIG, optimizer, mesh)
        train_step = make_train_step(CONFIG, optimizer, mesh)
        losses = []
        for _ in range(3):
            state, metrics = train_step(state, global_batch(one_step_batch(), 2, mesh))
            losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert train_step._cache_size() == 1


def lines(layers: int) -> int:
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, layers=layers))
    mesh = make_mesh(MeshConfig(2, 2, 2))
    optimizer = make_optimizer(OPTIMIZER, 10)
    with jax.set_mesh(mesh):
        state = abstract_state(config, optimizer, mesh)
        lowered = make_train_step(config, optimizer, mesh).lower(state, shaped(one_step_batch(), 2))
    return len(lowered.as_text().splitlines())


def test_the_program_does_not_grow_with_depth() -> None:
    assert lines(2) == lines(6)
