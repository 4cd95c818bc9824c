"""A tiny random BLOOM whose greedy answers vary and often end, and prompts of mixed length for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import Params, parameter_table, to_tree

MODEL = ModelConfig(size="custom", embed=48, layers=2, heads=6, vocab_size=128, compute_dtype="float32")
VOCAB_LIMIT = 120
EOS = 53
MAX_NEW_TOKENS = 24
SETTINGS = {"max_new_tokens": MAX_NEW_TOKENS, "eos_ids": [EOS], "allowed_ids": range(VOCAB_LIMIT)}


@functools.cache
def random_params(seed: int = 0) -> Params:
    """Kernels so large that the next token depends on the whole prompt, biases so small that no token always wins."""
    spreads = {"scale": 0.2, "bias": 0.05, "table": 0.4, "kernel": 0.8}
    random, leaves = np.random.RandomState(seed), {}
    for parameter in parameter_table(MODEL):
        # With larger queries and keys attention would look at one token alone, and ALiBi would not matter.
        spread = 0.25 if parameter.name == "blocks/qkv/kernel" else spreads[parameter.path[-1]]
        array = (parameter.path[-1] == "scale") + spread * random.standard_normal(parameter.shape)
        leaves[parameter.path] = jnp.asarray(array, jnp.float32)
    return to_tree(leaves)


def random_prompts(count: int = 32, longest: int = 60, seed: int = 1) -> list[list[int]]:
    random = np.random.RandomState(seed)
    return [random.randint(4, MODEL.vocab_size, random.randint(1, longest + 1)).tolist() for _ in range(count)]


def decode_without_cache(params: Params, prompts: list[list[int]], vocab_limit: int = VOCAB_LIMIT) -> list[list[int]]:
    """Greedy decoding by the training forward over the whole row at every step; also checks that no choice is close."""
    forward = jax.jit(lambda inputs: decoder.logits(params, decoder.forward(params, inputs, None, MODEL), MODEL))
    rows = np.zeros((len(prompts), max(map(len, prompts)) + MAX_NEW_TOKENS), np.int32)
    ends = np.array([len(prompt) for prompt in prompts])
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    answers, active = [[] for _ in prompts], np.ones(len(prompts), bool)
    for _ in range(MAX_NEW_TOKENS):
        logits = np.asarray(forward(rows))[np.arange(len(rows)), ends - 1, :vocab_limit]
        second, first = np.sort(logits, axis=-1)[:, -2:].T
        assert (first - second)[active].min() > 2e-4, "a choice too close to be told apart in float32"
        chosen = logits.argmax(-1)
        active &= chosen != EOS
        for index in np.flatnonzero(active):
            answers[index].append(int(chosen[index]))
            rows[index, ends[index]] = chosen[index]
        ends += active
    return answers
