"""The loss of instances held back from training, for choosing a checkpoint.

Languages and families do not share rows, so one pass of the training loss gives the mean over all, over each language
and over each family. Instances of tasks that are not trained on (`data.unseen_tasks`) have a mean of their own.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, nearest
from ecomgpt_jax.data.pipeline import PackedRows, batches, make_rows
from ecomgpt_jax.data.token_store import tokenize
from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model import lora
from ecomgpt_jax.training.train_step import Batch, TrainState, batch_loss, global_batch, step_rows

INSTANCES = 1_024  # maximum per validation
UNSEEN = ("unseen",)
HeldBack = Mapping[tuple[str, ...], PackedRows]  # rows of each language and family, and of `UNSEEN` tasks


def hold_back(
    split: Sequence[Mapping[str, str]], fingerprint: str, tokenizer: Tokenizer, config: Config, rows_per_batch: int,
    unseen: Collection[str] = (),
) -> HeldBack:  # fmt: skip
    """Packs at most `INSTANCES` instances of a split, drawn by a fixed seed, separately by language and family.

    The same number of instances of `unseen` tasks is a separate group.

    Args:
      split: instances {"prompt", "response", "language", "family", "task"}.
      fingerprint: of the data set that the split belongs to.
      tokenizer: the run's.
      config: of the run; row length and packing are those of training.
      rows_per_batch: each group is padded with empty rows to a multiple of it.
      unseen: names of the tasks of the split that are not trained on.
    """
    apart = [index for index in range(len(split)) if split[index]["task"] in unseen] if unseen else []
    seen, apart = (
        np.sort(np.random.default_rng(0).permutation(members)[:INSTANCES])
        for members in (np.setdiff1d(np.arange(len(split)), apart), np.array(apart, int))
    )
    instances = [split[index] for index in [*seen.tolist(), *apart.tolist()]]
    if not instances:
        return {}
    name = f"{fingerprint}:test:{INSTANCES}"
    store = tokenize(instances, name, tokenizer, config.data.length, Path(config.data.cache_dir))
    groups: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for index, instance in enumerate(instances):
        groups[(instance["language"], instance["family"]) if index < len(seen) else UNSEEN].append(index)
    data = dataclasses.replace(config.data, length_weighting=0.0)  # always a mean over tokens
    return {group: make_rows(store.take(members), data, 1, rows_per_batch) for group, members in sorted(groups.items())}


def metric_names(held_back: HeldBack) -> list[str]:
    """Returns the metric names of a validation: val/loss, val/loss/en, val/loss/CLS, …"""
    return sorted({name for group in held_back for name in _names(group)})


def _names(group: tuple[str, ...]) -> list[str]:
    """Returns the metrics to which the rows of a group contribute."""
    return [*(["val/loss"] if group != UNSEEN else []), *(f"val/loss/{part}" for part in group)]


def make_validate(
    config: Config, held_back: HeldBack, rows_per_batch: int, mesh: Mesh
) -> Callable[[TrainState], dict[str, float]]:
    """Returns `validate(state) -> {name: nats per target}` over all rows, without dropout; every process calls it."""

    def loss(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        micro_batch = jax.tree.map(lambda leaf: leaf[0], batch)
        if state.base is None:
            return batch_loss(state.params, micro_batch, config.model)
        return batch_loss(state.base, micro_batch, config.model, lora.make_adapters(state.params, config.lora))

    loss, held = jax.jit(loss, out_shardings=NamedSharding(mesh, PartitionSpec())), step_rows(rows_per_batch, 1, mesh)

    def validate(state: TrainState) -> dict[str, float]:
        found: list[tuple[tuple[str, ...], tuple[jax.Array, jax.Array]]] = []
        for group, rows in held_back.items():
            for batch in batches(rows, rows_per_batch, held=held):
                found.append((group, loss(state, global_batch(batch, 1, mesh))))
                jax.block_until_ready(found[-2:-1])  # otherwise all are queued, and signals are handled after them
        sums: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(2))
        for group, pair in found:
            for name in _names(group):
                sums[name] += np.array(jax.device_get(pair), np.float64)
        return {name: float(total / targets) for name, (total, targets) in sums.items() if targets}

    return validate


def check_best_metric(config: Config, held_back: HeldBack, evaluated: Iterable[str]) -> None:
    """Checks that `train.best_metric` is measured at the saved steps of this run; warns if it is of held-out tasks.

    Of the metrics of training itself only the loss ranks steps.

    Args:
      config: resolved.
      held_back: the rows of `val/loss`.
      evaluated: metric names of `eval.every`.

    Raises:
      ConfigError: this run does not measure it, or not at every saved step.
    """
    metric, save_every = config.train.best_metric, config.train.save_every
    if not metric:
        return
    kind = metric.split("/")[0]
    field = {"val": "train.validate_every", "eval": "eval.every"}.get(kind, "")
    every = config_lib.field_paths(config)[field] if field else 1
    names = ["train/loss"]
    names += metric_names(held_back) if config.train.validate_every else []
    names += evaluated if config.eval.every else []
    if metric not in names:
        some = ", ".join(name for name in names if not name.startswith("eval/") or "/average/" in name)
        raise ConfigError(
            f"config: train.best_metric={metric}: no measure of this run's steps{nearest(metric, names)}; they have "
            f"{some}{f' (with {field}={every})' if field else ''}"
        )
    if save_every % every:
        raise ConfigError(
            f"config: train.best_metric={metric} is taken every {every} steps and checkpoints are saved every "
            f"{save_every}; make train.save_every a multiple of {field}"
        )
    if kind == "eval":
        logging.warning(
            "train.best_metric=%s is selection on the test set: the tasks that choose the checkpoint are those that it "
            "is scored on; val/loss chooses by instances held back from training",
            metric,
        )
