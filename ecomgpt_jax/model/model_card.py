"""The model card of exported weights: training data and recipe, scores, licences of the data."""

import json
from collections.abc import Mapping
from typing import Any

from ecomgpt_jax.redaction import mask_secrets, mask_text

_NETWORKS = {"bloom": "BLOOM", "llama": "A network of Llama's shape", "gemma": "Gemma 3"}
_RECIPE = ("model", "data", "optimizer", "lora", "train", "mesh")
_PLACES = ("cache_dir", "sources_dir")  # folders of the machine, without meaning elsewhere


def _cell(value: object) -> str:
    return mask_text(str(value)).replace("|", "\\|").replace("\n", " ")


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def model_card(
    config: Mapping[str, Any], run: Mapping[str, Any], licences: Mapping[str, str], scores: Mapping[str, Any] | None
) -> str:
    """Returns the card as Markdown with a YAML head; secrets are masked.

    Args:
      config: the run's config as nested dictionaries.
      run: `data` (fingerprint of the tokens), `total_steps`, `rows_per_step`.
      licences: {source of training data: its licence}.
      scores: content of `scores.json`; None if nothing was scored.
    """
    config = mask_secrets(dict(config))
    recipe = {part: {key: value for key, value in config[part].items() if key not in _PLACES} for part in _RECIPE}
    base, family = config["model"].get("init_from", ""), config["model"].get("family", "bloom")
    taught = "pretrained on texts of e-commerce" if config["data"]["plain_text"] else "instruction-tuned for e-commerce"
    head = [
        f"language: [{', '.join(config['data']['languages'])}]",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: [{family}, e-commerce]",
    ]
    if base.count("/") == 1 and "@" in base:
        head.append(f"base_model: {base.split('@')[0]}")
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        f"# {_cell(config['name'])}",
        f"{_NETWORKS[family]}, {taught} with ecomgpt_jax, starting from {_cell(base) or 'fresh weights'}.",
        "## Data\n\n" + f"Fingerprint of the tokenised instances: `{run['data']}`.\n\n"
        + _table(("source", "licence"), sorted(licences.items())),
        "## Recipe\n\n" + f"{run['total_steps']} optimizer steps of {run['rows_per_step']} rows.\n\n"
        + "```json\n" + json.dumps(recipe, indent=1, ensure_ascii=False) + "\n```",
    ]  # fmt: skip
    if scores is not None:
        rows = [
            (task, entry["rows"], f"{entry['corrected']['score']:.3f}", f"{entry['official']['rouge-l-f1']:.3f}")
            for task, entry in scores["tasks"].items()
        ]
        parts.append(
            f"## Scores\n\nProtocol sha256 `{scores['protocol']['sha256']}`.\n\n"
            + _table(("task", "rows", "corrected", "official ROUGE-L"), rows)
        )
    else:
        parts.append("## Scores\n\nNot evaluated.")
    return "\n\n".join(parts) + "\n"


def adapter_card(card: str, init_from: str, base: str) -> str:
    """Returns the card of adapters without their base.

    Args:
      card: result of `model_card` for the run.
      init_from: the base's name in it.
      base: name or path that replaces `init_from`; also written into the head if it is a name on the Hub.
    """
    card = card.replace(init_from, base) if init_from else card
    on_hub = base.count("/") == 1 and base[0] not in "./~"
    head = "library_name: peft" + (f"\nbase_model: {base.split('@')[0]}" if on_hub else "")
    lines = [line for line in card.splitlines() if not line.startswith("base_model: ")]
    return "\n".join(lines).replace("library_name: transformers", head, 1) + "\n"


def merged_card(card: str) -> str:
    """Returns the card of weights into which the adapters of a card were merged."""
    return card.replace("library_name: peft", "library_name: transformers", 1)
