"""The paper's recipe on Qwen3 8B: all weights, or with `configs/qwen3_8b.py:lora` adapters alone.

python -m ecomgpt_jax.train --config configs/qwen3_8b.py --config.model.init_from=DIR --workdir runs/qwen3_8b

DIR is a Hugging Face directory of Qwen/Qwen3-8B (safetensors and tokenizer).
ECOMGPT_SOURCES names the folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks.
"""

from ecomgpt_jax.config import Config
from ecomgpt_jax.recipes import recipe


def get_config(arg: str = "") -> Config:
    """Returns the recipe at this shape; `arg` is "" or "lora"."""
    return recipe("qwen3_8b", arg)
