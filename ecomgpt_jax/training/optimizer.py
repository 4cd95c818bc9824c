"""AdamW with a linear warm-up and a cosine to zero: the paper's recipe, in optax."""

import math

import optax

from ecomgpt_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Returns step -> learning rate: linear from 0 over ceil(warmup_fraction * total_steps), then cosine to 0.

    The same curve as transformers' `get_cosine_schedule_with_warmup`, which the authors' recipe names.
    """
    warmup = min(math.ceil(config.warmup_fraction * total_steps), total_steps - 1)
    return optax.schedules.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(1, total_steps), 0.0)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Returns clipping by global norm (unless switched off) followed by AdamW on `make_schedule`.

    The first moment is kept in `moment_dtype`; the second stays float32, because in bfloat16 its changes of a
    thousandth would be rounded away.
    """
    adamw = optax.adamw(
        make_schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mu_dtype=config.moment_dtype,
    )
    if not config.max_grad_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)
