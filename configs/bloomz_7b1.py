"""The paper's recipe on BLOOMZ-7b1.

python -m ecomgpt_jax.train --config configs/bloomz_7b1.py --config.model.init_from=DIR --workdir runs/bloomz_7b1

DIR is a Hugging Face directory of bigscience/bloomz-7b1 (safetensors and tokenizer). ECOMGPT_SOURCES names the
folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks.
"""

from ecomgpt_jax.config import Config


def get_config() -> Config:
    """Returns the paper's recipe (the defaults of `Config`) at this size."""
    config = Config(name="bloomz_7b1")
    config.model.size = "7b1"
    config.model.remat = "full"
    config.model.head_chunk = 512  # logits of 512 positions take 0.5 GB; more do not fit on a TPU chip of 16 GB
    # Half the recipe's rows per micro-batch and twice the micro-batches, so that 16 such chips are enough.
    config.train.rows_per_device, config.train.accumulation = 2, 16
    config.mesh.fsdp = -1  # weights and Adam state over all devices
    config.data.mixture = "real"
    config.data.workers = 0
    return config
