"""Finds the start of a run: the first of these that exists:

1. the newest valid step of the workdir: parameters, Adam state, step and data cursor. A step with damaged files is
   moved to `quarantine/`, with a warning, and the previous one is tried; if no step is valid, that is an error;
2. `model.init_from`: the weights of a Hugging Face model or of another run, at step 0 and row 0;
3. fresh weights from `train.seed`.

`--resume=require` fails without 1, `--resume=never` moves the earlier run away and starts with 2.

A resumed run must have the settings of its checkpoint. `FIELDS` classifies every field of the config:

- hard: it affects what is learned; a change is an error with both values, unless `--allow_drift` names the field;
- fixed: a change is always an error, since the saved state has other shapes or positions;
- data: it only selects the instances, whose tokens have a fingerprint: hard if that differs, else soft, so files may be
  moved;
- soft: it may change, with a warning: logging, saving, evaluation, layout on devices.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, ModelConfig, nearest
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model.step_files import FOLDER, Meta, list_steps, read_meta
from ecomgpt_jax.parallel.processes import from_first
from ecomgpt_jax.redaction import mask_secrets
from ecomgpt_jax.training import checkpoint
from ecomgpt_jax.training.initial_weights import START

HARD, FIXED, DATA, SOFT = "hard", "fixed", "data", "soft"
FIELDS = {
    "rows_per_step": FIXED, "total_steps": HARD, "data": HARD,  # of the run, not of the config
    "name": SOFT,
    "model.size": SOFT,  # sets the next three fields
    **dict.fromkeys((f"model.{name}" for name in config_lib.SHAPE), FIXED),
    "model.layer_norm_epsilon": HARD, "model.initializer_range": HARD, "model.init_from": HARD,
    "model.tokenizer": DATA, "model.compute_dtype": HARD,
    "model.attention": SOFT, "model.remat": SOFT, "model.head_chunk": SOFT,
    "data.mixture": DATA, "data.files": DATA, "data.tasks": DATA, "data.sources": DATA, "data.licences": DATA,
    "data.operators": DATA, "data.leave_out_abilities": DATA, "data.strict_held_out": DATA,
    "data.sources_dir": DATA, "data.tasks_dir": DATA, "data.cache_dir": SOFT, "data.synthetic_records": DATA,
    "data.languages": DATA, "data.prompt_language": DATA, "data.chain_of_task": DATA, "data.num_tasks": DATA,
    "data.instances_per_task": DATA, "data.total_instances": DATA, "data.temperature": DATA,
    "data.family_temperature": DATA, "data.unseen_tasks": DATA,
    "data.length": HARD, "data.plain_text": DATA, "data.copying": DATA, "data.loss_on_prompt": HARD,
    "data.length_weighting": HARD,
    "data.template": HARD, "data.packing": HARD, "data.workers": SOFT, "data.beam_options": SOFT,
    "data.tokenizer_vocab": DATA, "data.seed": HARD,  # also determines the order of rows
    "optimizer.learning_rate": HARD, "optimizer.weight_decay": HARD, "optimizer.warmup_fraction": HARD,
    "optimizer.decay_fraction": HARD, "optimizer.b2": HARD, "optimizer.epsilon": HARD,
    "optimizer.max_grad_norm": HARD, "optimizer.moment_dtype": HARD,
    "lora.rank": FIXED, "lora.targets": FIXED, "lora.alpha": HARD, "lora.dropout": HARD,
    "train.epochs": HARD, "train.max_steps": HARD, "train.seed": HARD,
    "train.rows_per_device": SOFT, "train.accumulation": SOFT,  # their product is rows_per_step
    "train.log_every": SOFT, "train.profile_steps": SOFT, "train.save_every": SOFT, "train.keep": SOFT,
    "train.best_metric": SOFT, "train.validate_every": SOFT, "train.skip_nonfinite": SOFT,
    "train.final_evaluation": SOFT,
    "mesh.data": SOFT, "mesh.fsdp": SOFT, "mesh.tensor": SOFT,
    "eval.tasks_dir": SOFT, "eval.limit": SOFT, "eval.batch": SOFT, "eval.max_prompt_tokens": SOFT,
    "eval.max_new_tokens": SOFT, "eval.num_beams": SOFT, "eval.answer_loss": SOFT, "eval.protocol": SOFT,
    "eval.every": SOFT, "eval.dtype": SOFT, "eval.mesh": SOFT,
}  # fmt: skip


# Files of a run that `--resume=never` moves away, with the tokenizer, since old checkpoints need it.
_LEFT = (
    FOLDER, START, checkpoint.QUARANTINE, "metrics.jsonl", "tensorboard", "profile", "evaluation", "report", "hf",
    "tokenizer", "config.json", "trained_on.json",
)  # fmt: skip


class Start(NamedTuple):
    """A checkpoint to continue from: its step directory and its meta."""

    directory: epath.Path
    meta: Meta


def prepare_workdir(workdir: Path, resume: str) -> None:
    """Creates the workdir and applies `--resume`.

    auto continues from the newest checkpoint if there is one; require fails without one; never moves an earlier run,
    including its tokenizer, to `previous-<n>` and starts a new one.

    Raises:
      MissingInputError: `resume` is require and there is no checkpoint.
    """
    if resume == "require" and not list_steps(workdir):
        raise MissingInputError(f"{workdir}: --resume=require, but it holds no checkpoint")
    workdir.mkdir(parents=True, exist_ok=True)
    if resume != "never":
        return
    old = [workdir / name for name in _LEFT if (workdir / name).exists()]
    if old:
        aside = workdir / f"previous-{max(1, checkpoint.next_number(workdir, 'previous'))}"
        aside.mkdir()
        for path in old:
            shutil.move(path, aside / path.name)


def check_inputs_stay(workdir: Path, model: ModelConfig) -> None:
    """Raises ConfigError if `--resume=never` would move files that the run itself reads."""
    for field, value in (("init_from", model.init_from), ("tokenizer", model.tokenizer)):
        path = Path(value).expanduser().absolute()
        if value and (path == workdir or any(path.is_relative_to(workdir / name) for name in _LEFT)):
            raise ConfigError(f"model.{field}={value}: --resume=never would move it aside; use another --workdir")


def check_drift_names(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not a field, or that of a field that may never differ."""
    for name in names:
        if name not in FIELDS:
            raise ConfigError(f"--allow_drift={name}: no such field{nearest(name, FIELDS)}")
        if FIELDS[name] == FIXED:
            raise ConfigError(f"--allow_drift={name}: a saved state cannot go on with another {name}")


def find_start(
    workdir: Path, config: Config, run: dict[str, Any], allow_drift: Sequence[str] = ()
) -> Start | None:  # fmt: skip
    """Returns the checkpoint to continue from, after checking that it belongs to this run; None if there is none.

    Args:
      workdir: the run's folder.
      config: resolved.
      run: `data` (fingerprint), `total_steps` and `rows_per_step` of this run.
      allow_drift: names of hard fields that may differ.

    Raises:
      ConfigError: a hard field differs.
      DataError: there are checkpoints, and every one is damaged.
    """
    steps = from_first(lambda: len(list_steps(workdir)))  # before process 0 moves damaged ones away
    directory = checkpoint.newest_valid(workdir)
    if directory is None:
        if steps:
            raise DataError(
                f"{workdir}: all checkpoints are damaged (see its {checkpoint.QUARANTINE}/); --resume=never starts over"
            )
        return None
    meta = read_meta(directory)
    _check_drift(directory, meta, config, run, allow_drift)
    return Start(directory, meta)


def find_drift(meta: Meta, config: Config, run: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (saved value, this run's value)} of everything that differs."""
    # A field that the checkpoint's version did not have counts as its default.
    saved = {**_flat(config_lib.to_dict(Config())), **_flat(meta.get("config", {})), **meta.get("run", {})}
    now = {**_flat(mask_secrets(config_lib.to_dict(config))), **run}
    return {
        name: (saved.get(name), value)
        for name, value in now.items()
        if name not in saved or _plain(saved[name]) != _plain(value)
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return leaves


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_drift(
    directory: epath.Path, meta: Meta, config: Config, run: dict[str, Any], allow_drift: Sequence[str]
) -> None:
    drift = find_drift(meta, config, run)
    soft = (SOFT,) if "data" in drift else (SOFT, DATA)
    mentioned = [name for name in drift if FIELDS.get(name) in soft]
    allowed = [name for name in drift if name in allow_drift]
    hard = [name for name in drift if name not in mentioned and name not in allowed]

    def format_drift(names: Sequence[str]) -> str:
        return "; ".join(f"{name}={drift[name][0]}, this run has {drift[name][1]}" for name in names)

    if hard:
        free = [name for name in hard if FIELDS.get(name) != FIXED]
        way_out = f", allow it with --allow_drift={','.join(free)}" if len(free) == len(hard) else ""
        raise ConfigError(
            f"{directory}: was saved with {format_drift(hard)}; restore the old settings{way_out}, or use another "
            "--workdir"
        )
    if changed := list(dict.fromkeys([*mentioned, *allowed])):
        logging.warning("continuing from %s with changed settings: %s", directory, format_drift(changed))
