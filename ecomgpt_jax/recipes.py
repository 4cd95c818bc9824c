"""The paper's recipe on pretrained models of other families: their shapes, and one function that `configs/` calls."""

from typing import Any

from ecomgpt_jax.config import Config
from ecomgpt_jax.errors import ConfigError

_QWEN3 = {
    "family": "llama", "vocab_size": 151_936, "kv_heads": 8, "head_dim": 128, "qk_norm": True, "rope_theta": 1e6,
    "layer_norm_epsilon": 1e-6,
}  # fmt: skip
_LLAMA3_2 = {
    "family": "llama", "vocab_size": 128_256, "kv_heads": 8, "rope_theta": 5e5, "layer_norm_epsilon": 1e-5,
    "rope_scaling": "llama3:32.0:1.0:4.0:8192",
}  # fmt: skip
# Fields of `ModelConfig` as the released config.json files have them.
SHAPES: dict[str, dict[str, Any]] = {
    "gemma3_270m": {
        "family": "gemma", "vocab_size": 262_144, "embed": 640, "layers": 18, "heads": 4, "kv_heads": 1,
        "head_dim": 256, "mlp": 2048, "window": 512, "layer_kinds": 3 * "sssssf", "rope_theta": 1e6,
        "query_scale": 256.0, "layer_norm_epsilon": 1e-6,
    },
    "qwen3_0_6b": _QWEN3 | {"embed": 1024, "layers": 28, "heads": 16, "mlp": 3072},
    "qwen3_1_7b": _QWEN3 | {"embed": 2048, "layers": 28, "heads": 16, "mlp": 6144},
    "qwen3_4b": _QWEN3 | {"embed": 2560, "layers": 36, "heads": 32, "mlp": 9728},
    "qwen3_8b": _QWEN3 | {"embed": 4096, "layers": 36, "heads": 32, "mlp": 12_288, "tied_head": False},
    "llama3_2_1b": _LLAMA3_2 | {"embed": 2048, "layers": 16, "heads": 32, "mlp": 8192},
    "llama3_2_3b": _LLAMA3_2 | {"embed": 3072, "layers": 28, "heads": 24, "mlp": 8192},
    "smollm2_135m": {
        "family": "llama", "vocab_size": 49_152, "embed": 576, "layers": 30, "heads": 9, "kv_heads": 3, "mlp": 1536,
        "rope_theta": 1e5, "layer_norm_epsilon": 1e-5,
    },
}  # fmt: skip


def recipe(name: str, arg: str = "") -> Config:
    """Returns the paper's recipe (the defaults of `Config`) on a pretrained model.

    Args:
      name: key of `SHAPES`.
      arg: "" trains all weights; "lora" adapters of rank 16 in all layers of the blocks, at 2e-4.

    Raises:
      ConfigError: another argument.
    """
    if arg not in ("", "lora"):
        raise ConfigError(f"{name}.py:{arg}: give nothing to train all weights, or :lora for adapters")
    config = Config(name="_".join(filter(None, (name, arg))))
    config.model.size = "custom"
    for field, value in SHAPES[name].items():
        setattr(config.model, field, value)
    large = config.model.embed >= 2048
    config.model.remat = "full" if large else "selective"
    config.model.head_chunk = 512  # logits of 512 positions take 0.3 to 0.5 GB at these vocabularies
    config.mesh.fsdp = -1  # weights and Adam state over all devices
    config.data.mixture = "real"
    config.data.workers = 0
    if large:  # the rows of the recipe, in micro-batches of half the size
        config.train.rows_per_device, config.train.accumulation = 2, 16
    if arg == "lora":
        config.lora.rank = 16
        config.optimizer.learning_rate = 2e-4
    return config
