"""Hashes of all that decides what a build makes, under which it is found again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import choice, contamination, inputs, mixture, own_files
from ecomgpt_jax.instruct.sources import catalogue as real_sources

# What in the settings decides the rows; the rest (row length, packing, tokenizer) only uses them.
_FIELDS = (
    "mixture", "tasks", "sources", "licences", "operators", "leave_out_abilities", "strict_held_out",
    "synthetic_records", "languages", "prompt_language", "chain_of_task", "num_tasks", "instances_per_task",
    "total_instances", "temperature", "plain_text", "copying", "seed",
)  # fmt: skip


def cache_key(data: DataConfig) -> str:
    """Returns a hash of all that decides the rows: settings, code and texts of `instruct`, checksums of what is read.

    Raises:
      EcomError: a source, a task folder or the evaluation is missing.
    """
    content: dict[str, Any] = {name: getattr(data, name) for name in _FIELDS}
    content["files"] = [(Path(spec).name, own_files.checksum(spec)) for spec in data.files]
    if data.mixture == "folder":
        mixture.folder_tasks(data)
        content["tasks"] = contamination.checksum(Path(data.tasks_dir).expanduser(), "train")
    return _hash(content | _read_by(data, choice.source_names(data)))


def survey_key(data: DataConfig, surveyed: Sequence[str]) -> str:
    """Returns a hash of all that decides which records repeat others; the choice of tasks, seed and wording do not."""
    return _hash(
        {"surveyed": list(surveyed), "plain_text": data.plain_text or data.copying > 0} | _read_by(data, surveyed)
    )


def _read_by(data: DataConfig, names: Sequence[str]) -> dict[str, Any]:
    """Returns checksums of the code, of the evaluation and of the real sources among `names`."""
    code = sorted(Path(__file__).parent.rglob("*.py"), key=str)
    return {
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in code],
        "evaluation": [contamination.checksum(directory) for directory in inputs.evaluation_dirs(data)],
        "sources": {name: dict(real_sources.SOURCES[name].files) for name in names if name in real_sources.SOURCES},
    }


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
