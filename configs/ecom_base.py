"""A family of small BLOOMs: pretrained on the sources' own text, then tuned on instructions, from public data alone.

python -m ecomgpt_jax.train --config configs/ecom_base.py:nano --workdir runs/nano_base
python -m ecomgpt_jax.train --config configs/ecom_base.py:nano,tune --config.model.init_from=runs/nano_base \
    --workdir runs/nano

ECOMGPT_SOURCES names the folder of unpacked sources, ECOMGPT_EVAL that of the evaluation tasks. `nano` takes half an
hour on two CPU cores for both commands; `micro` is for a workstation, `mini` for one GPU. `pico` is a smaller model for
comparison with `nano`.

If there is too little text to learn copying from the prompt, a model can be trained for it: `:nano,repeat`, whose
answers repeat the prompt, then `:nano,few` with its result as model.init_from, which adds tasks that need little more
than copying. This is how `configs/nano` is made (scripts/publish_nano.py). `:nano,follow` instead trains only on
instructions from the embedded catalogue, the start of the experiments (configs/ablations.py). These three were tested
only on `pico` and `nano`.
"""

from ecomgpt_jax.config import Config
from ecomgpt_jax.errors import ConfigError

# Blocks and vocabulary: about 0.4M, 3M, 15M and 60M parameters without the embedding table.
SHAPES = {
    "pico": {"embed": 96, "layers": 4, "heads": 6, "vocab": 16_384},
    "nano": {"embed": 192, "layers": 6, "heads": 6, "vocab": 16_384},
    "micro": {"embed": 384, "layers": 8, "heads": 6, "vocab": 32_768},
    "mini": {"embed": 768, "layers": 8, "heads": 12, "vocab": 32_768},
}
# Optimizer steps, rows per step, peak rate, instances per task of pretraining and of tuning; evaluation rows per task.
SCHEDULES = {
    "pico": {"steps": (600, 900), "rows": (8, 4), "rates": (3e-3, 2e-3), "instances": (8_000, 40), "limit": 100},
    "nano": {"steps": (600, 900), "rows": (8, 4), "rates": (3e-3, 2e-3), "instances": (8_000, 40), "limit": 100},
    "micro": {"steps": (6_000, 3_000), "rows": (16, 16), "rates": (2e-3, 5e-4), "instances": (8_000, 400), "limit": 0},
    "mini": {"steps": (12_000, 4_000), "rows": (64, 64), "rates": (1e-3, 2e-4), "instances": (8_000, 400), "limit": 0},
}
STAGES = ("", "tune", "repeat", "follow", "few")
# Tasks whose answers occur in short prompts or are one of a few labels, for a model trained on few instructions.
FEW = (
    "*-copying",
    "*-NER-*",
    "*-Condition_Extract-*",
    "*-Extract-one_*",
    "*-Extract-opinion_target",
    "*-Extract-shared_words",
    "*-Extract-selection",
    "*-Extract-text_selection",
    "*-Extract-title_selection",
    "*-Extract-extractive_qa",
    "*-Extract-evidence*",
    "*-CLS-*matching",
    "*-CLS-category_check",
    "*-CLS-attributes_fit",
    "*-CLS-two_options",
    "*-CLS-*_category",
    "*-CLS-topics",
    "*-Generate-title*",
    "*-Generate-composition",
)


def get_config(arg: str = "nano") -> Config:
    """Returns a stage of a size: its pretraining ("nano"), its tuning ("nano,tune"), or "nano" and another stage."""
    size, _, stage = arg.partition(",")
    if size not in SHAPES or stage not in STAGES:
        raise ConfigError(
            f"ecom_base.py:{arg}: give one of {', '.join(SHAPES)}, with ,tune ,repeat ,follow or ,few for another stage"
        )
    shape, schedule, tune = SHAPES[size], SCHEDULES[size], stage in ("tune", "follow", "few")
    config = Config(name="_".join(filter(None, ("ecom_base", size, stage))))
    config.model.size, config.model.vocab_size = "custom", 0
    config.model.embed, config.model.layers, config.model.heads = shape["embed"], shape["layers"], shape["heads"]
    config.model.initializer_range = 0.05
    config.model.head_chunk = 512
    config.model.compute_dtype = "bfloat16" if size == "mini" else "float32"
    config.data.mixture = "real"
    config.data.plain_text = not tune
    if not tune:  # the other stages start from existing weights and their tokenizer
        config.data.tokenizer_vocab = shape["vocab"]
    config.data.length = 512 if tune else 256
    config.data.instances_per_task = schedule["instances"][tune]
    config.data.workers = 0
    config.optimizer.learning_rate = schedule["rates"][tune]
    config.optimizer.b2 = 0.98
    # The row of a token that is not in the batch has a gradient of about 1e-5, weights of blocks one of 1e-3. Adam's
    # usual epsilon gives both the same step, which moves the rows of rare tokens towards one point. Held-out copies
    # lose 0.6 nats per token more with it, with and without weight decay (scripts/results/epsilon_2026-11-29.json).
    config.optimizer.epsilon = 1e-4
    config.optimizer.weight_decay = 0.1
    config.train.epochs = 1
    config.train.max_steps = schedule["steps"][tune]
    config.train.rows_per_device = schedule["rows"][tune]
    config.train.accumulation = 1
    config.train.final_evaluation = tune
    config.eval.limit = schedule["limit"] if tune else 0
    if stage == "repeat":
        config.data.copying, config.data.tasks = 1, ("*-copying",)
        config.data.length, config.train.rows_per_device, config.train.max_steps = 128, 4, 1_400
        config.optimizer.learning_rate = 3e-3
    if stage == "follow":
        config.data.mixture, config.data.operators, config.data.copying = "synthetic", ("base",), 4
        config.data.prompt_language, config.data.instances_per_task = "mixed", 400
        config.data.length, config.train.rows_per_device, config.train.max_steps = 256, 8, 600
    if stage == "few":
        config.data.copying, config.data.tasks, config.data.instances_per_task = 4, FEW, 160
        config.data.prompt_language = "en"  # like all official prompts
        config.data.length, config.train.rows_per_device, config.train.max_steps = 256, 8, 1_550
        config.optimizer.learning_rate = 2e-3
        config.eval.limit = 80
    return config
