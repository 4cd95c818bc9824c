"""The paper's recipe on BLOOMZ-1b7.

python -m ecomgpt_jax.train --config configs/bloomz_1b7.py --config.model.init_from=DIR --workdir runs/bloomz_1b7

DIR is a Hugging Face directory of bigscience/bloomz-1b7 (safetensors and tokenizer). ECOMGPT_SOURCES names the
folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks.
"""

from ecomgpt_jax.config import Config


def get_config() -> Config:
    """Returns the paper's recipe (the defaults of `Config`) at this size."""
    config = Config(name="bloomz_1b7")
    config.model.size = "1b7"
    config.model.remat = "dots"
    config.mesh.fsdp = -1  # weights and Adam state over all devices
    config.data.mixture = "real"
    config.data.workers = 0
    return config
