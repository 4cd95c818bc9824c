import math
import random
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bloom
from tiny_bloom import EOS, MAX_NEW_TOKENS, MODEL, VOCAB_LIMIT

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.decoding import continuous, engine, forward
from ecomgpt_jax.decoding.continuous import ENDED, Request, SlotBatch, Token
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import Params, param_shardings
from ecomgpt_jax.parallel.mesh import make_mesh
from tests.model import hf_cases

PROMPTS = tiny_bloom.random_prompts()
WARM = {"temperature": 0.9, "top_p": 0.8}


@pytest.fixture(scope="module")
def params() -> Params:
    return tiny_bloom.random_params()


def make_batch(
    params: Params, mesh: MeshConfig | None = None, context: int = 96, eos_ids: Sequence[int] = (EOS,)
) -> SlotBatch:
    where = None if mesh is None else make_mesh(mesh)
    if where is not None:
        params = jax.device_put(params, param_shardings(MODEL, where))
    return SlotBatch(
        params, MODEL, slots=8, context=context, eos_ids=eos_ids, allowed_ids=range(VOCAB_LIMIT), mesh=where
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch(params: Params) -> Iterator[SlotBatch]:
    made = make_batch(params)
    made.warm_up()
    return made


def serve(batch: SlotBatch, requests: Sequence[Request], at_once: int = 3) -> list[list[Token]]:
    """Feeds requests in, at most `at_once` between two steps, and returns each one's tokens."""
    queue, owner, told = list(enumerate(requests)), {}, [[] for _ in requests]

    def keep(tokens: list[Token]) -> None:
        for token in tokens:
            told[owner[token.slot]].append(token._replace(slot=0))

    while queue or len(batch.free) < 8:
        group = [queue.pop(0) for _ in range(min(at_once, len(batch.free), len(queue)))]
        if group:
            for (index, _), token in zip(group, batch.admit([request for _, request in group]), strict=True):
                owner[token.slot] = index
                told[index].append(token._replace(slot=0))
        keep(batch.step())
    assert all(tokens[-1].last and not any(token.last for token in tokens[:-1]) for tokens in told)
    return told


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens if token.id != ENDED]


def test_nothing_is_compiled_after_the_warm_up(batch: SlotBatch) -> None:
    """Comes first, so that no other test has compiled anything for this model."""
    programs = [*batch._programs, forward.read_block, forward.embed, forward._read_last_block]
    before = [program._cache_size() for program in programs]
    limits = range(1, 21)
    requests = [
        Request((PROMPTS[i] * 40)[: 4 * limit - 3], limit, temperature=limit % 2, seed=limit, logprobs=limit % 3 == 0)
        for i, limit in enumerate(limits)
    ]
    answers = serve(batch, requests)
    assert [len(tokens) for tokens in answers if tokens[-1].id != ENDED]
    assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize(
    "mesh",
    [
        None,
        pytest.param(MeshConfig(data=8), marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_greedy_answers_are_those_of_the_forward_whoever_else_is_there(
    params: Params, batch: SlotBatch, mesh: MeshConfig | None
) -> None:
    expected = tiny_bloom.decode_without_cache(params, PROMPTS)
    batch = batch if mesh is None else make_batch(params, mesh)
    order = random.Random(3).sample(range(len(PROMPTS)), len(PROMPTS))
    others = [Request(PROMPTS[i], MAX_NEW_TOKENS, seed=i, **WARM) for i in order[:6]]  # sampled ones in between
    wanted = [Request(PROMPTS[i], MAX_NEW_TOKENS) for i in order]
    found = serve(batch, [*wanted[:9], *others, *wanted[9:]])
    found = [*found[:9], *found[9 + len(others) :]]
    assert [ids(tokens) for tokens in found] == [expected[i] for i in order]
    assert {len(answer) < MAX_NEW_TOKENS for answer in expected} == {True, False}
    assert [tokens[-1].id == ENDED for tokens in found] == [len(expected[i]) < MAX_NEW_TOKENS for i in order]


@pytest.mark.parametrize(
    "case", ["gemma", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "qwen2", "mistral"))]
)
def test_every_family_answers_as_the_other_engine_does(case: str) -> None:
    """Windows, grouped heads and rotation, at rows longer than the window."""
    model = hf_cases.case_model(case)
    params = hf_cases.random_params(model)
    prompts = [prompt[:20] for prompt in PROMPTS[:12]]
    settings = {"eos_ids": [EOS], "allowed_ids": range(4, VOCAB_LIMIT)}
    expected = engine.generate_tokens(params, model, prompts, max_new_tokens=12, batch=8, **settings)
    slots = SlotBatch(params, model, slots=8, context=32, **settings)
    assert [ids(tokens) for tokens in serve(slots, [Request(prompt, 12) for prompt in prompts])] == expected
    assert max(map(len, expected)) == 12


def test_a_sampled_answer_depends_on_its_own_settings_only(batch: SlotBatch) -> None:
    request = Request(PROMPTS[0], 12, seed=-7, **WARM)
    alone = serve(batch, [request])[0]
    others = [Request(prompt, 1 + 5 * (i % 4), seed=i, logprobs=True, **WARM) for i, prompt in enumerate(PROMPTS[1:20])]
    for place in (0, 5, 19):
        found = serve(batch, [*others[:place], request, *others[place:]], at_once=1 + place)
        assert found[place] == alone
    assert serve(batch, [request._replace(seed=-8)])[0] != alone
    assert serve(batch, [request._replace(seed=2**64 - 7)])[0] == alone, "the same 64 bits"


def test_draws_follow_the_probabilities_and_top_p(params: Params) -> None:
    batch, prompt = make_batch(params, eos_ids=[VOCAB_LIMIT]), PROMPTS[0]
    row = jnp.array([prompt])
    logits = jax.jit(
        lambda: decoder.logits(params, decoder.forward(params, row, None, MODEL), MODEL)[0, -1, :VOCAB_LIMIT]
    )()
    chances = np.asarray(jax.nn.softmax(logits / 2.5))
    order = np.argsort(-chances)
    kept = order[: 1 + int(np.searchsorted(np.cumsum(chances[order]), 0.7))]
    assert 3 < len(kept) < VOCAB_LIMIT // 2
    draws = 1200
    requests = [Request(prompt, 1, temperature=2.5, top_p=0.7, seed=seed) for seed in range(draws)]
    drawn = [token.id for start in range(0, draws, 8) for token in batch.admit(requests[start : start + 8])]
    counts = np.bincount(drawn, minlength=VOCAB_LIMIT)
    assert set(np.flatnonzero(counts)) <= set(kept.tolist())
    expected = draws * chances[kept] / chances[kept].sum()
    assert np.abs(counts[kept] - expected).max() < 5 * math.sqrt(draws / 4)
    assert ((counts[kept] - expected) ** 2 / expected).sum() < 3 * len(kept), "chi squared"
    likeliest = {batch.admit([Request(prompt, 1, temperature=2.5, top_p=0, seed=seed)])[0].id for seed in range(5)}
    assert likeliest == {int(order[0])} == {batch.admit([Request(prompt, 1, temperature=1e-30)])[0].id}


def test_each_place_of_an_answer_and_each_seed_draws_anew() -> None:
    flat, count = jnp.zeros(1000), 200

    def draw(seeds: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.asarray(jax.jit(jax.vmap(continuous._draw, (None, None, None, 0, 0)))(flat, 1.0, 1.0, seeds, counts))

    same, changing = np.zeros((count, 2), np.uint32), np.arange(count)
    for column in (0, 1):
        seeds = same.copy()
        seeds[:, column] = changing
        assert len(set(draw(seeds, same[:, 0]).tolist())) > 0.8 * count, "181 are expected of 200"
    assert len(set(draw(same, changing).tolist())) > 0.8 * count
    assert len(set(draw(same, same[:, 0]).tolist())) == 1


def test_log_probabilities_are_those_of_the_forward(params: Params, batch: SlotBatch) -> None:
    forward = jax.jit(lambda row: decoder.logits(params, decoder.forward(params, row, None, MODEL), MODEL)[0])
    for request in (Request(PROMPTS[4], 6, logprobs=True), Request(PROMPTS[4], 6, seed=1, logprobs=True, **WARM)):
        row, tokens = list(request.prompt), serve(batch, [request, Request(PROMPTS[5], 9)])[0]
        for token in tokens:
            logits = forward(np.array([row + [0] * (80 - len(row))]))[len(row) - 1]
            known = np.asarray(jax.nn.log_softmax(logits[:VOCAB_LIMIT]))
            best = np.argsort(-known)[:20]
            assert [index for index, _ in token.likeliest] == best.tolist()
            np.testing.assert_allclose([chance for _, chance in token.likeliest], known[best], atol=1e-4)
            if token.id != ENDED:
                assert token.logprob == pytest.approx(known[token.id], abs=1e-4)
                row.append(token.id)
    assert serve(batch, [Request(PROMPTS[4], 2)])[0][0].likeliest == ()


def test_a_released_slot_takes_the_next_request_at_once(params: Params, batch: SlotBatch) -> None:
    expected = tiny_bloom.decode_without_cache(params, PROMPTS[:9])
    slots = [token.slot for token in batch.admit([Request([5], 90, seed=i, temperature=3.0) for i in range(8)])]
    assert batch.free == []
    batch.step()
    for slot in slots:
        batch.release(slot)
        batch.release(slot)
    assert sorted(batch.free) == sorted(slots)
    assert batch.step() == []
    assert not np.asarray(batch._rows.active).any(), "the device does not go on with them"
    assert [ids(tokens) for tokens in serve(batch, [Request(p, MAX_NEW_TOKENS) for p in PROMPTS[:9]])] == expected


def test_after_an_error_that_took_the_slots_they_are_made_anew(
    params: Params, batch: SlotBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(params: Params, rows: continuous.Rows, *_: object) -> None:
        jax.tree.map(lambda leaf: leaf.delete(), rows)  # as a program does that took its donated arguments
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    expected = tiny_bloom.decode_without_cache(params, PROMPTS[:1])
    batch.admit([Request(PROMPTS[2], 9)])
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_programs", batch._programs._replace(steps=steps))
        with pytest.raises(jax.errors.JaxRuntimeError):
            batch.step()
    batch.reset()
    assert [ids(tokens) for tokens in serve(batch, [Request(PROMPTS[0], MAX_NEW_TOKENS)])] == expected


def test_logits_that_are_not_finite_end_their_own_answer_only(params: Params) -> None:
    broken = jax.tree.map(lambda leaf: leaf, params)
    broken["embedding"] = {"table": params["embedding"]["table"].at[7].set(jnp.nan)}  # logit 7 of every row
    batch = make_batch(broken)
    found = serve(batch, [Request([4, 5], 5, temperature=1.0), Request([4, 5], 5)])
    assert [[token.id for token in tokens] for tokens in found] == [[-1], [-1]]
    assert len(batch.free) == 8
