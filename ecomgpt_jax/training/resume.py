"""Where a run starts from. The first of these that there is:

1. the newest valid step of the workdir: parameters, Adam state, step and data cursor. A step whose files are not those
   that were written is moved to `quarantine/`, with a warning, and the one before it is taken. Where steps are there
   and none is valid, the run is refused;
2. `model.init_from`: the weights of a Hugging Face model or of another run, at step 0 and row 0;
3. fresh weights from `train.seed`.

`--resume=require` insists on 1, `--resume=never` moves the earlier run aside and begins at 2.

A run may only go on as the run it was. Fields of the config that decide what is learnt are hard: a changed one refuses
the resume, with old and new value, unless `--allow_drift=<field>` names it. Those in `SOFT` (how it is logged, saved,
evaluated, laid out on devices) may change and are mentioned. Data is compared by the fingerprint of its tokens, so
files may move. Shapes of the model and rows a step cannot be allowed at all.
"""

import fnmatch
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, nearest
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.redaction import mask_secrets
from ecomgpt_jax.training import checkpoint

SOFT = (
    "name", "eval.*", "mesh.*",
    "data.cache_dir", "data.sources_dir", "data.tasks_dir",
    "model.tokenizer", "model.attention", "model.remat", "model.head", "model.head_chunk",
    "train.rows_per_device", "train.accumulation", "train.log_every", "train.save_every", "train.keep",
    "train.best_metric", "train.skip_nonfinite", "train.final_evaluation", "train.profile_steps",
)  # fmt: skip
FIXED = ("rows_per_step", "model.vocab_size", "model.embed", "model.layers", "model.heads")


class Start(NamedTuple):
    """A checkpoint to go on from: its step directory and its meta."""

    directory: epath.Path
    meta: checkpoint.Meta


def prepare_workdir(workdir: Path, resume: str) -> None:
    """Creates the workdir and settles `--resume`.

    auto goes on from the newest checkpoint if there is one; require insists on one; never moves an earlier run's
    checkpoints and metrics aside into `previous-<n>` and starts afresh.

    Raises:
      ConfigError: `resume` is none of the three.
      MissingInputError: `resume` is require and there is no checkpoint.
    """
    if resume not in ("auto", "never", "require"):
        raise ConfigError(f"--resume={resume!r} is none of auto, never, require")
    if resume == "require" and not checkpoint.list_steps(workdir):
        raise MissingInputError(f"{workdir}: --resume=require, but it holds no checkpoint")
    workdir.mkdir(parents=True, exist_ok=True)
    if resume != "never":
        return
    names = (checkpoint.FOLDER, "metrics.jsonl", "tensorboard", "evaluation", "report", "hf")
    old = [workdir / name for name in names if (workdir / name).exists()]
    if old:
        number = 1 + sum(1 for _ in workdir.glob("previous-*"))
        (workdir / f"previous-{number}").mkdir()
        for path in old:
            shutil.move(path, workdir / f"previous-{number}" / path.name)


def find_start(
    workdir: Path, config: Config, run: dict[str, Any], allow_drift: Sequence[str] = ()
) -> Start | None:  # fmt: skip
    """Returns the checkpoint to go on from, checked to be of this very run; None where there is none.

    Args:
      workdir: the run's folder.
      config: resolved.
      run: `data` (fingerprint), `total_steps` and `rows_per_step` of this run.
      allow_drift: names of hard fields that may differ.

    Raises:
      ConfigError: a hard field differs, or `allow_drift` names no field.
      DataError: there are checkpoints, and every one is damaged.
    """
    known = [*config_lib.field_paths(config), *run]
    for name in allow_drift:
        if name not in known:
            raise ConfigError(f"--allow_drift={name}: no such field{nearest(name, known)}")
        if name in FIXED:
            raise ConfigError(f"--allow_drift={name}: a saved state cannot go on with another {name}")
    steps = checkpoint.list_steps(workdir)
    directory = checkpoint.newest_valid(workdir)
    if directory is None:
        if steps:
            raise DataError(
                f"{workdir}: no checkpoint is whole (see its {checkpoint.QUARANTINE}/); --resume=never starts afresh"
            )
        return None
    meta = checkpoint.read_meta(directory)
    _check_drift(directory, meta, config, run, allow_drift)
    return Start(directory, meta)


def find_drift(meta: checkpoint.Meta, config: Config, run: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (saved value, this run's value)} of everything that differs."""
    # A field that is younger than the checkpoint had its default.
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
    directory: epath.Path, meta: checkpoint.Meta, config: Config, run: dict[str, Any], allow_drift: Sequence[str]
) -> None:
    drift = find_drift(meta, config, run)
    soft = [name for name in drift if any(fnmatch.fnmatch(name, pattern) for pattern in SOFT)]
    allowed = [name for name in drift if name in allow_drift]
    hard = [name for name in drift if name not in soft and name not in allowed]

    def told(names: Sequence[str]) -> str:
        return "; ".join(f"{name}={drift[name][0]}, this run has {drift[name][1]}" for name in names)

    if hard:
        free = [name for name in hard if name not in FIXED]
        way_out = f", allow it with --allow_drift={','.join(free)}" if len(free) == len(hard) else ""
        raise ConfigError(
            f"{directory}: was saved with {told(hard)}; restore the old settings{way_out}, or use another --workdir"
        )
    if changed := [*soft, *allowed]:
        logging.warning("going on from %s with changed settings: %s", directory, told(changed))
