"""Your own data on a small BLOOM from scratch: README.md, "Your own data".

python -m ecomgpt_jax.train --config configs/own_data.py --config.data.files=mine.jsonl --workdir runs/mine

    ... --config configs/own_data.py:folder --config.data.tasks_dir=tasks     task folders in place of files

For a few hundred lines on a laptop. For a real model use configs/bloomz_<size>.py instead, with
--config.data.mixture=files and the same --config.data.files.
"""

from ecomgpt_jax.config import Config
from ecomgpt_jax.errors import ConfigError


def get_config(arg: str = "") -> Config:
    """Returns a run that memorises a few lines of files, or with "folder" of task folders, in a minute on a CPU."""
    if arg not in ("", "folder"):
        raise ConfigError(f"own_data.py:{arg}: no argument for data.files, or folder for data.tasks_dir")
    config = Config(name="own_data")
    config.model.size, config.model.embed, config.model.layers, config.model.heads = "custom", 64, 2, 4
    config.model.vocab_size = 0
    config.model.initializer_range = 0.06
    config.model.compute_dtype = "float32"
    config.model.head_chunk = 256
    config.data.mixture = arg or "files"
    config.data.files = () if arg else ("configs/own_data.jsonl",)
    config.data.length = 256
    config.data.tokenizer_vocab = 512
    config.optimizer.learning_rate = 1e-2
    config.optimizer.b2 = 0.98
    config.train.epochs = 30
    config.train.rows_per_device = 1
    config.train.accumulation = 1
    config.train.final_evaluation = False
    return config
