"""Summary that a run prints before training: data, steps, memory, devices, settings without effect."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, DataConfig, ModelConfig
from ecomgpt_jax.data import packing
from ecomgpt_jax.data.pipeline import PackedRows
from ecomgpt_jax.model.attention import resolve_implementation
from ecomgpt_jax.model.parameters import parameter_count
from ecomgpt_jax.training import loop, memory
from ecomgpt_jax.training.throughput import TRACED_FROM


def data_lines(stats: Mapping[str, Any], rows: PackedRows, config: Config) -> str:
    """Returns the size of the data, the fill of its rows, and a line per file of the user.

    Args:
      stats: `ecom_instruct.Built.stats`.
      rows: all rows of the run.
      config: resolved.
    """
    store = rows.store
    share = packing.fill(rows.plan, store.positions, rows.length)
    trained = sum(task["train"] > 0 for task in stats["tasks"].values())
    kept_out = f" and {len(stats['tasks']) - trained} kept out" if trained < len(stats["tasks"]) else ""
    text = (
        f"data: {trained} tasks{kept_out}, {len(store):,} training instances, {len(store.tokens):,} tokens; "
        f"{len(rows.plan):,} rows of {rows.length} over {config.train.epochs} epochs, {share:.1%} full"
    )
    if store.cut_prompts or store.cut_answers:
        text += f"; {store.cut_prompts:,} prompts lost their beginning, {store.cut_answers:,} answers their end"
    return "\n".join([text, *(f"{file}: {description}" for file, description in stats["files"].items())])


def data_table(stats: Mapping[str, Any]) -> str:
    """Returns a line per language and family: tasks, training instances, test instances."""
    groups: dict[tuple[str, str], list[int]] = {}
    for entry in stats["tasks"].values():
        counts = groups.setdefault((entry["language"], entry["family"]), [0, 0, 0])
        for index, number in enumerate((1, entry["train"], entry["test"])):
            counts[index] += number
    lines = [f"{'language':<10}{'family':<20}{'tasks':>7}{'train':>12}{'test':>10}"]
    for (language, family), (tasks, train, test) in sorted(groups.items()):
        lines.append(f"{language:<10}{family:<20}{tasks:>7,}{train:>12,}{test:>10,}")
    return "\n".join(lines)


def plan_line(config: Config, rows: PackedRows, mesh: Mesh) -> str:
    """Returns the steps, parameters and memory of a run, by arithmetic alone: no device is used."""
    steps, model, held = loop.count_steps(config, rows, mesh), config.model, memory.state_bytes(config, mesh)
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(memory.state(config, mesh).params))
    tokens = loop.rows_per_step(config, mesh) * config.data.length
    return (
        f"plan: {steps:,} steps of {loop.rows_per_step(config, mesh):,} rows ({tokens:,} tokens) on {mesh.size} "
        f"devices, mesh {dict(mesh.shape)}; {parameter_count(model):,} parameters, {trained:,} trained; weights and "
        f"optimizer state take {held / 2**30:.2f} GiB per device; each stage takes about "
        f"{memory.describe(memory.stage_bytes(config, mesh))}"
    )


def device_line(config: Config, mesh: Mesh) -> str:
    """Returns the devices, the mesh and the attention implementation of a run."""
    model, device = config.model, mesh.devices.flat[0]
    chosen = resolve_implementation(
        model.attention, model.compute_dtype, model.head_width, device.platform, alibi=model.family == "bloom"
    )
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    how = f" ({model.attention} on {device.platform})" if model.attention == "auto" else ""
    return f"devices: {mesh.size} x {device.device_kind}, mesh {axes}; attention {chosen}{how}"


def idle_settings(
    asked: Config, config: Config, rows: PackedRows, mesh: Mesh, tokens: int, validated: bool
) -> list[str]:  # fmt: skip
    """Returns a line per setting of `asked` that has no effect in the run.

    Args:
      asked: the settings as given.
      config: resolved.
      rows: all rows of the run.
      mesh: its devices.
      tokens: size of its tokenizer.
      validated: whether instances are held back for `train.validate_every`.
    """
    lines = config_lib.unused(asked)
    for name in (*config_lib.SHAPE, "layer_norm_epsilon") if config.model.init_from else ():
        given, there = getattr(asked.model, name), getattr(config.model, name)
        if given not in (0, there, getattr(ModelConfig, name)):
            lines.append(f"model.{name}={given}: replaced by {there}, that of model.init_from")
    if not (config.model.init_from or config.model.tokenizer) and (
        tokens < asked.data.tokenizer_vocab != DataConfig.tokenizer_vocab
    ):
        lines.append(f"data.tokenizer_vocab={asked.data.tokenizer_vocab}: the texts give {tokens:,} tokens")
    steps, epochs = loop.count_steps(config, rows, mesh), len(rows) // loop.rows_per_step(config, mesh)
    train, traced = config.train, max(0, steps - TRACED_FROM + 1)
    if train.max_steps > epochs:
        lines.append(f"train.max_steps={train.max_steps}: train.epochs={train.epochs} are {epochs} steps")
    if train.profile_steps > traced:
        lines.append(f"train.profile_steps={train.profile_steps}: {traced} of {steps} steps come after the second")
    if train.validate_every not in (0, type(train).validate_every) and not validated:
        lines.append(f"train.validate_every={train.validate_every}: no instance is held back, so there is no val/loss")
    if config.eval.every > steps:
        lines.append(f"eval.every={config.eval.every}: the run has {steps} steps, so no slice is evaluated")
    return lines
