"""Your own data on a small BLOOM from scratch: README, "Your own data in five minutes".

python -m ecomgpt_jax.train --config configs/own_data.py --config.data.files=mine.jsonl --workdir runs/mine

For a few hundred lines on a laptop. For a real model use a recipe of configs/bloomz_<size>.py instead, with
--config.data.mixture=files and the same --config.data.files.
"""

from ecomgpt_jax.config import Config


def get_config() -> Config:
    """Returns a run that memorises a few lines in about a minute on two CPU cores."""
    config = Config(name="own_data")
    config.model.size, config.model.embed, config.model.layers, config.model.heads = "custom", 64, 2, 4
    config.model.vocab_size = 0
    config.model.initializer_range = 0.06
    config.model.compute_dtype = "float32"
    config.model.head_chunk = 256
    config.data.mixture = "files"
    config.data.files = ("configs/own_data.jsonl",)
    config.data.length = 256
    config.data.tokenizer_vocab = 512
    config.optimizer.learning_rate = 1e-2
    config.optimizer.b2 = 0.98
    config.train.epochs = 30
    config.train.rows_per_device = 1
    config.train.accumulation = 1
    config.train.final_evaluation = False
    return config
