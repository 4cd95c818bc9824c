import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bloom
from tiny_bloom import EOS, MAX_NEW_TOKENS, MODEL, SETTINGS, VOCAB_LIMIT

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import forward, greedy
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import Params, split_layers

Answers = list[list[int]]

PROMPTS = tiny_bloom.random_prompts()


def after(params: Params, prompt: list[int], model: ModelConfig, shift: int = 0) -> tuple[jax.Array, jax.Array]:
    """(logits [vocab] after a prompt whose last token is read by `decode_step`, those of the training forward)."""

    @jax.jit
    def both(params: Params, inputs: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        layered = split_layers(params, model)
        cache, _ = forward.prefill(layered, inputs[:, :-1], lengths, model, 80)
        _, logits = forward.decode_step(layered, cache, inputs[:, -1], lengths + shift, model)
        return logits[0], decoder.logits(params, decoder.forward(params, inputs, None, model)[0, -1], model)

    return both(params, jnp.array([prompt]), jnp.array([len(prompt) - 1]))


@pytest.fixture(scope="module")
def params() -> Params:
    return tiny_bloom.random_params()


@pytest.fixture(scope="module")
def answers(params: Params) -> Answers:
    return tiny_bloom.decode_without_cache(params, PROMPTS)


def test_equals_the_training_forward_without_a_cache(params: Params, answers: Answers) -> None:
    assert greedy.greedy_decode(params, MODEL, PROMPTS, **SETTINGS) == answers
    lengths = [len(answer) for answer in answers]
    assert sum(length < MAX_NEW_TOKENS for length in lengths) >= 8, "the end-of-sequence token must occur"
    assert len(set(lengths)) >= 6
    assert EOS not in {token for answer in answers for token in answer}
    assert len({tuple(answer) for answer in answers}) >= 24, "the answers must vary"


def test_the_comparison_can_fail(params: Params, answers: Answers) -> None:
    """Negative controls: another prompt, and keys at positions that are one off."""
    swapped = [[*prompt[:-1], prompt[-1] ^ 1] for prompt in PROMPTS]
    assert greedy.greedy_decode(params, MODEL, swapped, **SETTINGS) != answers
    stepped, whole = after(params, PROMPTS[0], MODEL, shift=1)
    assert abs(stepped - whole).max() > 0.1


def test_one_step_gives_the_logits_of_the_training_forward(params: Params) -> None:
    np.testing.assert_allclose(*after(params, PROMPTS[0], MODEL), atol=5e-5)


def test_ids_past_the_tokenizer_are_never_chosen(params: Params) -> None:
    table = params["embedding"]["table"]
    # Rows without a token, all larger than any other: without the limit they would be chosen.
    loud = table.at[VOCAB_LIMIT:].set(3 * table[4 : 4 + MODEL.vocab_size - VOCAB_LIMIT])
    loud = {**params, "embedding": {"table": loud}}
    limited = greedy.greedy_decode(loud, MODEL, PROMPTS, **SETTINGS)
    assert max(itertools.chain(*limited)) < VOCAB_LIMIT
    unlimited = greedy.greedy_decode(loud, MODEL, PROMPTS, **{**SETTINGS, "allowed_ids": range(MODEL.vocab_size)})
    assert max(itertools.chain(*unlimited)) >= VOCAB_LIMIT


def test_choose_takes_the_lowest_of_equals_and_marks_rows_that_are_not_finite() -> None:
    logits = jnp.array([[0.0, 2, 2, 9], [1, jnp.nan, 2, 0], [0, jnp.inf, 0, 0], [-5, -4, -3, 0]])
    assert greedy.choose(logits, jnp.arange(4) < 3).tolist() == [1, -1, -1, 2]
    assert greedy.choose(logits, jnp.array([True, False, True, False])).tolist() == [2, 2, 0, 2]
    assert greedy.choose(logits.T, (jnp.arange(4) < 3)[:, None], axis=0).tolist() == [1, -1, -1, 2]


def test_bfloat16_decodes_with_weights_cast_once(params: Params) -> None:
    model = type(MODEL)(**{**vars(MODEL), "compute_dtype": "bfloat16"})
    layered = split_layers(params, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(layered)} == {jnp.dtype(jnp.bfloat16)}
    again = jax.tree.leaves(split_layers(layered, model))
    assert all(map(operator.is_, again, jax.tree.leaves(layered))), "no second copy"
    stepped, whole = after(params, PROMPTS[0], model)
    assert abs(stepped - whole).max() < 0.1 * jnp.std(whole)


@pytest.mark.parametrize(
    ("prompts", "changes", "error", "words"),
    [
        ([[5], []], {}, DataError, "prompt 1 .* is empty"),
        ([[5, MODEL.vocab_size]], {}, DataError, f"prompt 0 .* id {MODEL.vocab_size}; ids run from 0 to"),
        ([[-1]], {}, DataError, "id -1"),
        ([[5]], {"max_new_tokens": 0}, ConfigError, "max_new_tokens"),
    ],
)
def test_bad_input_is_refused(
    params: Params, prompts: Answers, changes: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        greedy.greedy_decode(params, MODEL, prompts, **{**SETTINGS, **changes})


def test_broken_weights_are_an_error_not_an_answer(params: Params) -> None:
    broken = {**params, "final_norm": {**params["final_norm"], "bias": jnp.full(MODEL.embed, jnp.nan)}}
    with pytest.raises(DataError, match="not finite"):
        greedy.greedy_decode(broken, MODEL, PROMPTS[:2], **SETTINGS)


def test_no_prompts_give_no_answers(params: Params) -> None:
    assert greedy.greedy_decode(params, MODEL, [], **SETTINGS) == []
