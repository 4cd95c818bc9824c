"""A toy run that the training tests share: a tiny BLOOM and random instances."""

import numpy as np
import pytest

from ecomgpt_jax.config import Config, DataConfig, resolve
from ecomgpt_jax.data.pipeline import PackedRows, make_rows
from ecomgpt_jax.data.token_store import TokenStore

FAMILIES = {
    "bloom": {},
    "llama": {"family": "llama", "kv_heads": 2, "mlp": 48, "qk_norm": True, "tied_head": False},
    "gemma": {"family": "gemma", "kv_heads": 1, "mlp": 48, "window": 5, "layer_kinds": "sf"},
}
PARAMS = [pytest.param(name, marks=[] if name == "bloom" else pytest.mark.slow) for name in FAMILIES]


def toy_config(family: str = "bloom", **train: object) -> Config:
    """A two-layer float32 model, rows of 32, log and save at every step."""
    config = Config()
    for name, value in FAMILIES[family].items():
        setattr(config.model, name, value)
    config.model.size, config.model.embed, config.model.layers, config.model.heads = "custom", 32, 2, 4
    config.model.vocab_size, config.model.compute_dtype, config.model.head_chunk = 64, "float32", 16
    config.data.length = 32
    config.optimizer.learning_rate = 3e-2
    config.train.epochs, config.train.rows_per_device, config.train.accumulation = 2, 1, 2
    config.train.log_every = config.train.save_every = 1
    for name, value in train.items():
        setattr(config.train, name, value)
    return resolve(config)


def toy_rows(rows_per_step: int, instances: int = 60) -> PackedRows:
    """Rows of instances whose answer follows from the prompt, so that the loss can fall."""
    random = np.random.default_rng(0)
    tokens, offsets, prompts = [], [0], []
    for _ in range(instances):
        word = int(random.integers(4, 60))
        prompt = [word] * int(random.integers(2, 12))
        answer = [word + 1] * int(random.integers(1, 5)) + [2]
        tokens += prompt + answer
        offsets.append(len(tokens))
        prompts.append(len(prompt))
    store = TokenStore(
        np.array(tokens, np.int32), np.array(offsets), np.array(prompts, np.int32), "toy", cut_prompts=0, cut_answers=0
    )
    return make_rows(store, DataConfig(length=32), epochs=2, rows_per_step=rows_per_step)
