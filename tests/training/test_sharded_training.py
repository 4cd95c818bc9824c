"""Training on any mesh equals training on one device: weights, Adam state, memory, and no wasteful resharding."""

import dataclasses
import math
import re
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from toy import FAMILIES, PARAMS, toy_config, toy_rows

from ecomgpt_jax.config import MeshConfig, OptimizerConfig
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.memory import state_bytes
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import TrainState, abstract_state, global_batch, init_state, make_train_step

CONFIGS = {name: toy_config(name) for name in FAMILIES}
for config in CONFIGS.values():  # eight devices can share them; of other families they share the kv heads too
    config.model = dataclasses.replace(config.model, heads=8, vocab_size=512)
# Gradients that are nothing but rounding, such as the keys' biases', must not be magnified to whole steps: hence the
# large epsilon, and with it a large rate. Gemma's norms magnify it further.
OPTIMIZERS = {
    family: OptimizerConfig(learning_rate=1e-2, epsilon=1e-2 if family == "gemma" else 1e-3, warmup_fraction=0.0)
    for family in FAMILIES
}
ALL_EIGHT = [
    (8, 1, 1),
    (1, 8, 1),
    (1, 1, 8),
    (4, 2, 1),
    (4, 1, 2),
    (2, 4, 1),
    (2, 1, 4),
    (1, 4, 2),
    (1, 2, 4),
    (2, 2, 2),
]
FAST = [(2, 2, 2)]
SHAPES = [
    pytest.param(family, shape, marks=[] if shape in FAST and family == "bloom" else pytest.mark.slow)
    for family in FAMILIES
    for shape in [*ALL_EIGHT, (1, 2, 2), (2, 2, 1)]
]
ALONE = r"replica_groups=(\{\{\d+\}|\[\d+,1\])"  # each device gathers from itself: nothing moves
INVOLUNTARY = "Involuntary full rematerialization"


def step_batch(without_target: int = 3) -> dict[str, np.ndarray]:
    """Sixteen rows with uneven target counts: one row has no target, one is empty."""
    rows = toy_rows(16)
    batch = {name: np.stack([rows[index][name] for index in range(16)]) for name in rows[0]}
    batch["loss_mask"][without_target] = False
    batch["segment_ids"][5] = 0
    batch["loss_mask"][5] = False
    return batch


def make_step(shape: tuple[int, int, int], family: str = "bloom") -> tuple[Any, Mesh]:
    """(the compiled step, its mesh) for a mesh of this shape."""
    mesh, optimizer = (
        make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)]),
        make_optimizer(OPTIMIZERS[family], 10),
    )
    with jax.set_mesh(mesh):
        state, batch = abstract_state(CONFIGS[family], optimizer, mesh), global_batch(step_batch(), 2, mesh)
        return make_train_step(CONFIGS[family], optimizer, mesh).lower(state, batch).compile(), mesh


def train(step: Any, mesh: Mesh, without_target: int = 3, family: str = "bloom") -> TrainState:
    """The state after three steps."""
    with jax.set_mesh(mesh):
        state = init_state(CONFIGS[family], make_optimizer(OPTIMIZERS[family], 10), mesh)
        for _ in range(3):
            state, _ = step(state, global_batch(step_batch(without_target), 2, mesh))
    return state


@lru_cache
def single_step(family: str = "bloom") -> tuple[Any, Mesh]:
    return make_step((1, 1, 1), family)


@lru_cache
def single(family: str = "bloom") -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(train(*single_step(family), family=family))]


def distance(state: TrainState, family: str = "bloom") -> float:
    """Largest difference from one device's state, as a share of the largest value of each array."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    return max(
        np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
        for ours, theirs in zip(leaves, single(family), strict=True)
        if theirs.any() or ours.any()
    )


@pytest.mark.parametrize(("family", "shape"), SHAPES, ids=str)
def test_equals_one_device(family: str, shape: tuple[int, int, int], capfd: pytest.CaptureFixture[str]) -> None:
    single(family)
    capfd.readouterr()
    step, mesh = make_step(shape, family)
    assert INVOLUNTARY not in capfd.readouterr().err
    state, model = train(step, mesh, family=family), CONFIGS[family].model
    assert distance(state, family) < 1e-5

    on_first = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert on_first == pytest.approx(state_bytes(CONFIGS[family], mesh), rel=0.05)
    batch = sum(leaf.nbytes for leaf in step_batch().values()) // (shape[0] * shape[1])
    assert step.memory_analysis().argument_size_in_bytes == pytest.approx(on_first + batch, rel=0.05)

    # The head gathers the table's rows, in its own function; the embedding reads its share and exchanges activations.
    rows = model.vocab_size // shape[2]
    gathers = [
        line for line in step.as_text().splitlines() if f"[{rows},{model.embed}]" in line.split("all-gather(")[0]
    ]
    gathers = [line for line in gathers if "all-gather(" in line and not re.search(ALONE, line)]
    assert bool(gathers) == (shape[1] > 1)
    assert all("shard_map" in line for line in gathers)


@pytest.mark.parametrize("family", PARAMS)
def test_another_batch_is_far(family: str) -> None:
    """The negative control: targets of another row left out."""
    assert distance(train(*single_step(family), without_target=4, family=family), family) > 1e-2


def test_a_wasteful_resharding_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """The negative control of the log: a program that the partitioner can only gather and cut again."""
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def program(x: jax.Array) -> jax.Array:
        for partition in (PartitionSpec("data"), PartitionSpec(None, ("fsdp", "tensor"))):
            x = jax.lax.with_sharding_constraint(x * 2, NamedSharding(mesh, partition))
        return x

    jax.jit(program).lower(jax.ShapeDtypeStruct((8, 8, 8), np.float32)).compile()
    assert INVOLUNTARY in capfd.readouterr().err


def test_moments_are_split_like_their_weights() -> None:
    state = abstract_state(CONFIGS["bloom"], make_optimizer(OPTIMIZERS["bloom"], 10), make_mesh(MeshConfig(1, 4, 2)))
    moments = jax.tree.leaves(state.optimizer, is_leaf=lambda part: isinstance(part, dict))
    trees = [state.params, *(part for part in moments if isinstance(part, dict))]
    assert len(trees) == 3
    for tree in trees:
        for leaf in (tree["blocks"]["mlp_up"]["kernel"], tree["embedding"]["table"]):
            assert np.prod(leaf.sharding.shard_shape(leaf.shape)) == leaf.size // 8
