"""The paper's recipe on Llama 3.2 1B: all weights, or with `configs/llama3_2_1b.py:lora` adapters alone.

python -m ecomgpt_jax.train --config configs/llama3_2_1b.py --config.model.init_from=DIR --workdir runs/llama3_2_1b

DIR is a Hugging Face directory of meta-llama/Llama-3.2-1B (safetensors and tokenizer).
ECOMGPT_SOURCES names the folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks.
"""

from ecomgpt_jax.config import Config
from ecomgpt_jax.recipes import recipe


def get_config(arg: str = "") -> Config:
    """Returns the recipe at this shape; `arg` is "" or "lora"."""
    return recipe("llama3_2_1b", arg)
