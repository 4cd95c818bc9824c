"""Mean log-probabilities of answers."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.decoding import scoring
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import param_shardings
from ecomgpt_jax.parallel.mesh import make_mesh
from tests.decoding.tiny_bloom import MODEL, random_params, random_prompts

PROMPTS = random_prompts(11, longest=40)
ANSWERS = random_prompts(11, longest=9, seed=5)


def alone(prompt: list[int], answer: list[int]) -> float:
    """The same for one answer without padding, from all logits."""
    row = np.array([[*prompt, *answer]])
    params = random_params()
    logits = decoder.logits(params, decoder.forward(params, row[:, :-1], None, MODEL), MODEL)
    chances = np.asarray(jax.nn.log_softmax(logits))[0]
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return float(np.mean([chances[place, row[0, place + 1]] for place in places]))


def test_each_answer_has_the_mean_that_it_has_alone() -> None:
    found = mean_log_probabilities(random_params(), MODEL, PROMPTS, ANSWERS, batch=4)
    np.testing.assert_allclose(
        found[:3] + found[-1:], [alone(PROMPTS[i], ANSWERS[i]) for i in (0, 1, 2, 10)], atol=2e-5
    )
    assert len(set(np.round(found, 3))) > 5
    other = mean_log_probabilities(random_params(), MODEL, PROMPTS, ANSWERS[::-1], batch=4)
    assert abs(other[0] - found[0]) > 0.01, "the answers count"


def test_one_long_answer_does_not_widen_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are made for 8 positions of a short answer, where one of 17 answers has 60 tokens."""
    prompts, answers = random_prompts(17, longest=40), [*random_prompts(16, longest=5, seed=5), [7] * 60]
    positions, score = [], scoring._score

    def counted(fields: tuple) -> Callable[..., jax.Array]:
        def run(*arrays: Any) -> jax.Array:
            positions.append(arrays[3].size)
            return score(fields)(*arrays)

        return run

    monkeypatch.setattr(scoring, "_score", counted)
    found = mean_log_probabilities(random_params(), MODEL, prompts, answers, batch=1)
    assert sum(positions) == 16 * 8 + 64
    np.testing.assert_allclose(found[-2:], [alone(prompts[i], answers[i]) for i in (15, 16)], atol=2e-5)


def test_nothing_to_score() -> None:
    assert mean_log_probabilities(random_params(), MODEL, [], [], batch=4) == []


def test_eight_devices_and_a_batch_that_they_do_not_divide_give_the_same() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = jax.device_put(random_params(), param_shardings(MODEL, mesh))
    found = mean_log_probabilities(params, MODEL, PROMPTS, ANSWERS, batch=3, mesh=mesh)
    np.testing.assert_allclose(
        found, mean_log_probabilities(random_params(), MODEL, PROMPTS, ANSWERS, batch=4), atol=2e-5
    )
