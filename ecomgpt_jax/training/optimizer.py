"""AdamW with linear warm-up, an optional constant part, and cosine decay to zero (the paper's recipe), in optax."""

import math

import jax
import jax.numpy as jnp
import optax

from ecomgpt_jax.config import OptimizerConfig
from ecomgpt_jax.model.parameters import Params

_B1 = 0.9  # of Adam, in the paper's recipe and all others here
_NOT_DECAYED = ("scale", "bias")  # last keys of norms' weights and of biases


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Returns step -> learning rate: linear from 0 over ceil(warmup_fraction * total_steps), then cosine to 0.

    Equal to transformers' `get_cosine_schedule_with_warmup`, the schedule of the authors' recipe, except in runs of
    warm-up only: their last step has the peak rate, so that a run of one step trains. With `decay_fraction` below 1
    the cosine covers only that share of all steps, at their end, and the rate is constant before it.
    """
    warmup = min(math.ceil(config.warmup_fraction * total_steps), total_steps - 1)
    constant = max(0, total_steps - warmup - math.ceil(config.decay_fraction * total_steps))
    total = max(1, total_steps - constant)
    schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, total, 0.0)
    if not constant:
        return schedule
    return lambda step: schedule(jnp.maximum(step - constant, jnp.minimum(step, warmup)))


def decay_mask(params: Params) -> Params:
    """Returns True at each leaf that weight decay applies to: all but norms and biases, adapters included.

    The same choice as transformers' `Trainer.get_decay_parameter_names`.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in _NOT_DECAYED, params)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Returns clipping by global norm (unless switched off) followed by AdamW on `make_schedule`.

    The first moment is kept in `moment_dtype`; the second stays float32, because bfloat16 would round off its relative
    changes of 1e-3. Norms and biases do not decay (`decay_mask`).
    """

    def add_decay(updates: Params, params: Params) -> Params:
        decayed = decay_mask(params)
        return jax.tree.map(lambda u, p, on: u + config.weight_decay * p if on else u, updates, params, decayed)

    adamw = optax.chain(  # like `optax.adamw(mask=...)`, whose state would not restore from older checkpoints
        optax.scale_by_adam(_B1, config.b2, config.epsilon, mu_dtype=config.moment_dtype),
        optax.stateless(add_decay),
        optax.scale_by_learning_rate(make_schedule(config, total_steps)),
    )
    if not config.max_grad_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)
