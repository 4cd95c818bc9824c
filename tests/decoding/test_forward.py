import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bloom
from tiny_bloom import MODEL

from ecomgpt_jax.decoding import forward
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import Params, split_layers
from tests.model import hf_cases


@pytest.mark.parametrize("name", hf_cases.families("mistral", "gemma"))
def test_every_family_steps_as_its_training_forward(name: str) -> None:
    """A prompt of 21 tokens and three steps, across the window of 6; its rotation counts from the row's beginning."""
    model = hf_cases.case_model(name)
    params, ids = hf_cases.random_params(model), np.random.RandomState(3).randint(4, 128, (2, 24)).astype(np.int32)

    @jax.jit
    def both(params: Params) -> tuple[jax.Array, jax.Array]:
        layered, lengths, steps, by_vocab = split_layers(params, model), jnp.array([21, 5]), [], []
        cache, logits = forward.prefill(layered, ids[:, :21], lengths, model, 40)
        for step in range(3):
            steps.append(logits)
            tokens = jnp.asarray(ids)[jnp.arange(2), lengths + step]
            by_vocab.append(forward.decode_step(layered, cache, tokens, lengths + step, model, by_vocab=True)[1].T)
            cache, logits = forward.decode_step(layered, cache, tokens, lengths + step, model)
        whole = decoder.logits(params, decoder.forward(params, ids, None, model), model)
        expected = [whole[jnp.arange(2), lengths - 1 + step] for step in range(4)]
        return jnp.stack([*steps, logits, *by_vocab]), jnp.stack([*expected, *expected[1:]])

    np.testing.assert_allclose(*both(params), atol=5e-5, equal_nan=False)


def test_decoding_runs_the_blocks_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both call `decoder.block`: a change to it changes decoding too."""
    params, calls = tiny_bloom.random_params(), []
    block = decoder.block
    monkeypatch.setattr(decoder, "block", lambda *arguments: calls.append(1) or block(*arguments))
    inputs, lengths = forward.pad_prompts(tiny_bloom.random_prompts(1), 1, 64)
    layered = split_layers(params, MODEL)
    cache, _ = jax.eval_shape(lambda: forward.prefill(layered, inputs, lengths, MODEL, 72))  # a length of no other test
    assert len(calls) == 3, "prefill runs one program for all blocks but the last, whose last tokens are a step"
    tokens = jax.ShapeDtypeStruct((1,), jnp.int32)
    jax.eval_shape(lambda c, t: forward.decode_step(layered, c, t, t, MODEL), cache, tokens)
    assert len(calls) == 3 + MODEL.layers


@pytest.mark.parametrize("name", ["heads8_padded", *hf_cases.families("gemma")])
def test_packed_prompts_are_read_as_if_each_were_alone(name: str) -> None:
    """Five prompts in two rows, across a window of 6, one of them the whole row's rest; the cache is equal too."""
    model, random = hf_cases.case_model(name), np.random.RandomState(6)
    params = split_layers(hf_cases.random_params(model), model)
    prompts = [random.randint(0, 128, size).tolist() for size in (13, 9, 2, 21, 3)]
    inputs, lengths, starts = forward.pack_prompts([prompts[:3], prompts[3:]], 24, 4)
    assert lengths.tolist() == [13, 9, 2, 0, 21, 3, 0, 0]
    cache, logits = forward.prefill(params, inputs, lengths, model, 32, starts)
    moved = forward.prefill(params, inputs, lengths, model, 32, np.maximum(starts - 1, 0))  # negative control
    for row, prompt in zip((0, 1, 2, 4, 5), prompts, strict=True):
        alone, expected = forward.prefill(params, *forward.pad_prompts([prompt], 1, 32), model, 32)
        np.testing.assert_allclose(logits[row], expected[0], atol=5e-5)
        for leaf, one in zip(jax.tree.leaves(cache), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(leaf[row, :, : len(prompt)], one[0, :, : len(prompt)], atol=5e-5)
            assert not np.asarray(leaf[row, :, len(prompt) :]).any(), "no prompt's keys lie in another's row"
    assert abs(moved[1][1] - logits[1]).max() > 0.1
