"""The embedded default: a synthetic catalogue, a small BLOOM from scratch, 12 held-out tasks; minutes on a laptop.

python -m ecomgpt_jax.train --config configs/demo.py --workdir runs/demo
python -m ecomgpt_jax.train --config configs/demo.py:nano --workdir runs/demo

The second starts from the pretrained weights in configs/nano_base, as scripts/quickstart.sh does.
"""

import os

from ecomgpt_jax.config import Config
from ecomgpt_jax.errors import ConfigError

_PRETRAINED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nano_base")
# A model this small learns only frequent patterns. So of the catalogue's 198 training tasks it is trained on those
# related to the held-out ones (another language, another product, one step of several), and on those with long copied
# answers, which train copying.
TASKS = (
    "*-Goods_Titles-Extract-text_selection",
    "*-Items-Extract-title_selection",
    "*-Questions-Extract-evidence",
    "*-Reviews-Extract-review_selection",
    "*-Sentences-Extract-text_selection",
    "EN-Goods_Titles-Condition_Extract-*",
    "EN-Goods_Titles-NER-*",
    "EN-Items-*-attributes_fit",
    "EN-Items-*-coarse_category",
    "EN-Items-*-fine_category",
    "EN-Offers-*-matching",
    "EN-Queries-Condition_Extract-*",
    "EN-Queries-NER-*",
    "EN-Questions-*-question_writing",
    "EN-Reviews-*-term_category",
    "EN-Searches-*-selection",
    "EN-Sentences-*-one_type",
    "EN-Sentences-*-span_typing",
    "ZH-Fashion_Titles-*-one_type",
    "ZH-Fashion_Titles-*-span_typing",
    "ZH-Goods_Titles-Condition_Extract-*",
    "ZH-Goods_Titles-NER-*",
    "ZH-Items-*-category_check",
    "ZH-Items-*-title_category",
    "ZH-Items-*-title_from_category",
    "ZH-Queries-Condition_Extract-*",
    "ZH-Queries-NER-*",
    "ZH-Query_Categories-*-classification",
    "ZH-Query_Categories-*-coarse_classification",
    "ZH-Questions-*-extractive_qa",
    "ZH-Reviews-*-topics",
    "ZH-Searches-*-matching",
    "ZH-Searches-*-pair_check",
    "ZH-Sentences-Condition_Extract-*",
    "ZH-Sentences-NER-*",
)


def get_config(arg: str = "") -> Config:
    """Returns a run for two CPU cores: six minutes from fresh weights, or with "nano" five from configs/nano_base."""
    if arg not in ("", "nano"):
        raise ConfigError(f"demo.py:{arg}: no argument for fresh weights, or nano for configs/nano_base")
    config = Config(name="demo")
    config.model.size, config.model.vocab_size = "custom", 0
    config.model.initializer_range = 0.06
    config.model.compute_dtype = "float32"
    config.model.head_chunk = 256
    config.data.mixture = "synthetic"
    config.data.tasks = TASKS
    config.data.synthetic_records = 850
    config.data.instances_per_task = 780
    config.data.prompt_language = "en"
    config.data.length = 160
    config.data.seed = 1
    config.optimizer.learning_rate = 4e-3
    config.optimizer.b2 = 0.98
    config.optimizer.epsilon = 1e-4  # see ecom_base.py
    config.optimizer.weight_decay = 0.1
    config.train.epochs = 1
    config.train.rows_per_device = 8
    config.train.accumulation = 1
    config.train.save_every, config.train.validate_every = 500, 250
    config.eval.limit = 50
    config.eval.max_prompt_tokens = 200
    config.eval.max_new_tokens = 56
    if not arg:
        config.model.embed, config.model.layers, config.model.heads = 128, 3, 8
        config.data.tokenizer_vocab = 6144
    else:
        config.name = "demo_nano"
        config.model.embed, config.model.layers, config.model.heads = 192, 6, 6
        config.model.init_from = _PRETRAINED
        config.data.instances_per_task = 300
        config.data.length = 192
        config.optimizer.learning_rate = 2e-3
        config.train.max_steps = 620
    return config
