"""The paper's recipe on SmolLM2 135M: all weights, or with `configs/smollm2_135m.py:lora` adapters alone.

python -m ecomgpt_jax.train --config configs/smollm2_135m.py --config.model.init_from=DIR --workdir runs/smollm2_135m

DIR is a Hugging Face directory of HuggingFaceTB/SmolLM2-135M (safetensors and tokenizer).
ECOMGPT_SOURCES names the folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks.
"""

from ecomgpt_jax.config import Config
from ecomgpt_jax.recipes import recipe


def get_config(arg: str = "") -> Config:
    """Returns the recipe at this shape; `arg` is "" or "lora"."""
    return recipe("smollm2_135m", arg)
