import contextlib
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_bloom
from tiny_bloom import EOS, MODEL

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.decoding import choices
from ecomgpt_jax.decoding.choices import log_probabilities
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model import decoder, head
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.mesh import make_mesh

PROMPTS = tiny_bloom.random_prompts(7, longest=40)
RANDOM = np.random.RandomState(2)
ANSWERS = [
    [[*RANDOM.randint(4, 120, RANDOM.randint(0, 6)).tolist(), EOS] for _ in range(count)]
    for count in (2, 5, 1, 9, 3, 2, 4)
]


@pytest.fixture(scope="module")
def params() -> Params:
    return tiny_bloom.random_params()


@pytest.fixture(scope="module")
def found(params: Params) -> list[np.ndarray]:
    return log_probabilities(params, MODEL, PROMPTS, ANSWERS, batch=8)


def test_sums_equal_the_whole_forward_s(params: Params, found: list[np.ndarray]) -> None:
    """Each prompt with each answer by itself; one token late or early, the sums are others (negative control)."""
    forward = jax.jit(
        lambda inputs: jax.nn.log_softmax(decoder.logits(params, decoder.forward(params, inputs, None, MODEL), MODEL))
    )
    wrong = []
    for prompt, answers, totals in zip(PROMPTS, ANSWERS, found, strict=True):
        for answer, total in zip(answers, totals, strict=True):
            row = np.zeros((1, 64), np.int32)
            row[0, : len(prompt) + len(answer)] = [*prompt, *answer]
            chances = np.asarray(forward(row))[0]
            places = np.arange(len(answer)) + len(prompt)
            assert abs(chances[places - 1, answer].sum() - total) < 1e-4
            wrong.append(abs(chances[places, answer].sum() - total))
    assert np.median(wrong) > 1


def test_sums_and_ranks_are_those_of_hugging_face(params: Params, found: list[np.ndarray], tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    save_hf(params, MODEL, tmp_path / "hf", "float32")
    network = transformers.BloomForCausalLM.from_pretrained(tmp_path / "hf", dtype="float32").eval()
    for prompt, answers, totals in zip(PROMPTS, ANSWERS, found, strict=True):
        theirs = []
        for answer in answers:
            with torch.no_grad():
                chances = network(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            theirs.append(sum(chances[len(prompt) + at - 1, token].item() for at, token in enumerate(answer)))
        np.testing.assert_allclose(totals, theirs, atol=1e-4)
        assert np.argsort(totals).tolist() == np.argsort(theirs).tolist()


def test_a_sum_is_minus_the_loss_of_training(params: Params, found: list[np.ndarray]) -> None:
    for prompt, answers, totals in zip(PROMPTS[:3], ANSWERS[:3], found[:3], strict=True):
        for answer, total in zip(answers, totals, strict=True):
            row = np.array([[*prompt, *answer]])
            mask = np.arange(row.shape[1] - 1)[None] >= len(prompt) - 1
            hidden = decoder.forward(params, row[:, :-1], None, MODEL)
            loss, count = head.loss_sum(params["embedding"]["table"], hidden, row[:, 1:], mask, MODEL)
            assert count == len(answer)
            assert float(loss) == pytest.approx(-total, rel=1e-5)


def test_sums_are_means_times_the_number_of_tokens(params: Params, found: list[np.ndarray]) -> None:
    pairs = [(prompt, answer) for prompt, answers in zip(PROMPTS, ANSWERS, strict=True) for answer in answers]
    prompts, answers = zip(*pairs, strict=True)
    means = mean_log_probabilities(params, MODEL, prompts, answers, batch=8)
    expected = [mean * len(answer) for mean, answer in zip(means, answers, strict=True)]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


@pytest.mark.parametrize(("batch", "mesh"), [(1, None), (64, None), (8, MeshConfig(data=8))], ids=str)
def test_neither_batch_nor_order_nor_devices_matter(
    params: Params, found: list[np.ndarray], batch: int, mesh: MeshConfig | None
) -> None:
    devices = mesh and make_mesh(mesh)
    other = log_probabilities(
        params, MODEL, PROMPTS[::-1], [answers[::-1] for answers in ANSWERS[::-1]], batch=batch, mesh=devices
    )
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(other)[::-1], atol=1e-4)


def test_empty_answers_and_foreign_ids_are_refused(params: Params) -> None:
    for answers in ([[[]]], [[[MODEL.vocab_size]]]):
        with pytest.raises(DataError):
            log_probabilities(params, MODEL, [[5, 6]], answers, batch=8)
    assert log_probabilities(params, MODEL, [], [], batch=8) == []


def test_weights_that_are_not_finite_are_reported(params: Params) -> None:
    """The largest of values that are nan would be the first, so every row would have an answer."""
    broken = {**params, "final_norm": jax.tree.map(lambda leaf: leaf * np.nan, params["final_norm"])}
    with pytest.raises(DataError, match="logits are not finite"):
        log_probabilities(broken, MODEL, PROMPTS, ANSWERS, batch=8)


def test_a_batch_takes_as_many_steps_as_its_own_longest_answer_and_counts_its_answers(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, told, step = [], [], choices.forward.decode_step

    def counted(*given: object) -> object:
        jax.debug.callback(lambda: steps.append(1))
        return step(*given)

    class Bar(contextlib.nullcontext):
        update = told.append

    monkeypatch.setattr(choices.forward, "decode_step", counted)
    monkeypatch.setattr(choices.tqdm, "tqdm", lambda **given: told.append((given["total"], given["disable"])) or Bar())
    choices._score.cache_clear()
    answers = [[[5] * length + [EOS]] for length in (1, 9, 1)]
    for title in ("rank", ""):
        log_probabilities(params, MODEL, PROMPTS[:3], answers, batch=1, title=title)
    choices._score.cache_clear()
    jax.effects_barrier()
    assert len(steps) == 2 * (1 + 9 + 1)
    assert told == [(3, None), 1, 1, 1, (3, True), 1, 1, 1]
