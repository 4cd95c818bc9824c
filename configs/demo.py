"""The embedded default: a synthetic catalogue, a small BLOOM from scratch, 12 held-out tasks; minutes on a laptop.

python -m ecomgpt_jax.train --config configs/demo.py --workdir runs/demo
"""

from ecomgpt_jax.config import Config


def get_config() -> Config:
    """Returns a run that two CPU cores finish in about five minutes."""
    config = Config(name="demo")
    config.model.size, config.model.embed, config.model.layers, config.model.heads = "custom", 192, 4, 6
    config.model.vocab_size = 0
    config.model.compute_dtype = "float32"
    config.model.head_chunk = 1024
    config.data.mixture = "synthetic"
    config.data.length = 256
    config.data.tokenizer_vocab = 4096
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.1
    config.train.epochs = 3
    config.train.rows_per_device = 16
    config.train.accumulation = 1
    config.train.save_every = 100
    config.eval.limit = 50
    config.eval.max_prompt_tokens = 200
    config.eval.max_new_tokens = 56
    return config
