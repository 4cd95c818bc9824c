"""The paper's recipe on Gemma 3 270M: all weights, or with `configs/gemma3_270m.py:lora` adapters alone.

python -m ecomgpt_jax.train --config configs/gemma3_270m.py --config.model.init_from=DIR --workdir runs/gemma3_270m

DIR is a Hugging Face directory of google/gemma-3-270m (safetensors and tokenizer).
ECOMGPT_SOURCES names the folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks.
"""

from ecomgpt_jax.config import Config
from ecomgpt_jax.recipes import recipe


def get_config(arg: str = "") -> Config:
    """Returns the recipe at this shape; `arg` is "" or "lora"."""
    return recipe("gemma3_270m", arg)
