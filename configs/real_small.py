"""A small BLOOM from scratch on five real sources, scored on the 13 official held-out tasks.

python -m ecomgpt_jax.train --config configs/real_small.py --workdir runs/real_small

ECOMGPT_SOURCES names the folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks (500 rows each;
--config.eval.limit=50 scores the first 50). The model is too small and trained too briefly for a comparison with the
paper; the run tests all steps on real data.
"""

from ecomgpt_jax.config import Config


def get_config() -> Config:
    """Returns a run of 4 blocks, 256 wide, over 55 tasks from five sources."""
    config = Config(name="real_small")
    config.model.size, config.model.embed, config.model.layers, config.model.heads = "custom", 256, 4, 8
    config.model.vocab_size = 0
    config.model.initializer_range = 0.06
    config.model.head_chunk = 512
    config.model.compute_dtype = "float32"
    config.data.mixture = "real"
    config.data.sources = (
        "zh_ecommerce_ner",
        "en_match_abt_buy",
        "en_bitext_support",
        "en_ae_110k",
        "zh_taobao_review_opinion",
    )
    config.data.length = 512
    config.data.tokenizer_vocab = 12_288
    config.data.instances_per_task = 250
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 0.1
    config.train.epochs = 1
    config.train.rows_per_device = 8
    config.train.accumulation = 1
    config.train.save_every = config.train.validate_every = 100
    return config
