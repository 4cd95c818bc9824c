"""EcomInstruct on a real pretrained model with adapters, sized for hours of two cores, not for the paper's 2.5 million.

scripts/real_model.sh gemma3-270m DIR

runs base, training and evaluation; training alone:

python -m ecomgpt_jax.train --config configs/real_model.py:gemma3_270m --config.model.init_from=DIR --workdir runs/real

`data.total_instances` is the length of the run: every size has its own decay, and a smaller one's instances are among a
larger one's.
"""

from ecomgpt_jax.config import Config
from ecomgpt_jax.recipes import recipe


def get_config(arg: str = "gemma3_270m") -> Config:
    """Returns adapters of rank 32 on the model `arg`, one epoch of all tasks in equal shares."""
    config = recipe(arg, "lora")
    config.name = "real_model"
    config.model.compute_dtype, config.model.remat = "float32", "none"  # what a CPU multiplies; activations fit
    config.lora.rank, config.lora.alpha = 32, 64.0
    config.optimizer.learning_rate = 1e-3
    config.data.length = 640
    config.data.total_instances, config.data.temperature = 16_000, 0.0
    config.data.instances_per_task = 400  # makes the build short; equal shares of 546 tasks need no more
    config.data.unseen_tasks = 20  # settings are chosen by their loss, val/loss/unseen
    config.data.prompt_language = "mixed"  # the official tasks ask in English about Chinese texts
    config.train.epochs, config.train.accumulation = 1, 2
    config.train.save_every = config.train.validate_every = 50
    config.train.final_evaluation = False  # the script scores base and tuned model in each mode of answering
    return config
