import collections
import dataclasses
import itertools
import random
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bloom
from tiny_bloom import EOS, MAX_NEW_TOKENS, MODEL, SETTINGS, VOCAB_LIMIT

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.decoding import engine, forward, greedy
from ecomgpt_jax.decoding.beam import Beams
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.parameters import Params, param_shardings
from ecomgpt_jax.parallel.mesh import make_mesh

Answers = list[list[int]]

PROMPTS = tiny_bloom.random_prompts()


@pytest.fixture(scope="module")
def params() -> Params:
    return tiny_bloom.random_params()


@dataclasses.dataclass
class Search:
    """One prompt's two-beam search, with plain lists; a beam is (sum of log-probabilities, tokens)."""

    penalty: float = 1.0  # power of the length that a finished beam's sum is divided by
    counted: int = 2  # of the best continuations, how many may finish
    kept: int = 4  # and among how many the two that run on are found
    early: bool = False  # ends as soon as two are finished
    running: list = dataclasses.field(default_factory=lambda: [(0.0, ())])
    finished: list = dataclasses.field(default_factory=list)
    over: bool = False

    def step(self, log_probs: np.ndarray) -> None:
        """Takes log-probabilities [running beams, allowed ids]."""
        every = [
            (total + float(row[token]), (*tokens, token))
            for (total, tokens), row in zip(self.running, log_probs, strict=True)
            for token in range(len(row))
        ]
        ranked = sorted(every, reverse=True)[:4]
        length = len(ranked[0][1])
        for total, tokens in ranked[: self.counted]:
            if tokens[-1] == EOS or length == MAX_NEW_TOKENS:
                self.finished.append((total / length**self.penalty, tokens))
        self.finished = sorted(self.finished, reverse=True)[:2]
        self.running = [beam for beam in ranked[: self.kept] if beam[1][-1] != EOS][:2]
        self.over = not self.running or length == MAX_NEW_TOKENS
        if len(self.finished) == 2 and not self.over:
            self.over = self.early or self.running[0][0] / length**self.penalty <= self.finished[1][0]


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})  # run often enough to be worth it
def after(params: Params, rows: jax.Array, at: jax.Array) -> jax.Array:
    """The training forward's log-probabilities [prompts, beams, vocab] after position `at` [prompts] of each row."""
    hidden = decoder.forward(params, rows.reshape(-1, rows.shape[-1]), None, MODEL)
    last = hidden.reshape(*rows.shape, -1)[jnp.arange(len(rows)), :, at]
    return jax.nn.log_softmax(decoder.logits(params, last, MODEL))


Known = dict[tuple[int, ...], np.ndarray]


def search_without_cache(params: Params, prompts: Answers, known: Known, **variant: float) -> Answers:
    """Two-beam search by the training forward over every whole row at every step.

    `known` keeps the log-probabilities after each prompt and its beams' tokens, for searches that read the same rows.
    """
    searches = [Search(**variant) for _ in prompts]
    rows = np.zeros((len(prompts), 2, max(map(len, prompts)) + MAX_NEW_TOKENS), np.int32)

    for step in range(MAX_NEW_TOKENS):
        wanted = {}
        for index, (prompt, search) in enumerate(zip(prompts, searches, strict=True)):
            if not search.over:
                wanted[index] = (index, step, *(token for _, tokens in search.running for token in tokens))
                for beam, (_, tokens) in enumerate(search.running):
                    rows[index, beam, : len(prompt) + step] = [*prompt, *tokens]
        if not known.keys() >= {*wanted.values()}:
            log_probs = np.asarray(after(params, rows, np.array([len(prompt) + step - 1 for prompt in prompts])))
            known.update((key, log_probs[index]) for index, key in wanted.items())
        for index, key in wanted.items():
            searches[index].step(known[key][: len(searches[index].running), :VOCAB_LIMIT])
    return [[token for token in search.finished[0][1] if token != EOS] for search in searches]


def hugging_face(directory: Path, num_beams: int, settings: dict = SETTINGS) -> Answers:
    """`generate` of the checkpoint on left-padded batches of 8 prompts."""
    suppressed = sorted({*range(MODEL.vocab_size)} - {*settings["allowed_ids"]})
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(1)
    network = transformers.BloomForCausalLM.from_pretrained(directory).eval()
    answers = []
    for first in range(0, len(PROMPTS), 8):
        group = PROMPTS[first : first + 8]
        longest = max(map(len, group))
        padded = torch.tensor([[3] * (longest - len(prompt)) + prompt for prompt in group])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in group])
        rows = network.generate(
            padded, attention_mask=mask, do_sample=False, max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=settings["eos_ids"],
            pad_token_id=3, early_stopping=False, suppress_tokens=suppressed, length_penalty=1.0, num_beams=num_beams,
        )  # fmt: skip
        for row in rows[:, longest:].tolist():
            ends = [at for at, token in enumerate(row) if token in settings["eos_ids"]]
            answers.append(row[: ends[0]] if ends else row)
    return answers


@pytest.fixture(scope="module")
def answers(params: Params) -> Answers:
    """Of four beams."""
    return engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=4, **SETTINGS)


def test_equals_hugging_face_on_left_padded_batches(params: Params, answers: Answers, tmp_path: Path) -> None:
    save_hf(params, MODEL, tmp_path / "hf")
    lengths = [len(answer) for answer in answers]
    assert 8 <= sum(length == MAX_NEW_TOKENS for length in lengths) <= 24
    assert len(set(lengths)) >= 8, "answers must end at various steps"
    assert answers == hugging_face(tmp_path / "hf", num_beams=4)
    two = engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=2, **SETTINGS)
    assert two == hugging_face(tmp_path / "hf", num_beams=2)
    assert two != answers  # negative control


@pytest.mark.parametrize("num_beams", [1, 2])
def test_several_ends_and_ids_that_no_token_has(params: Params, num_beams: int, tmp_path: Path) -> None:
    plain = engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=num_beams, **SETTINGS)
    said = collections.Counter(itertools.chain(*plain)).most_common(6)
    holes, other = {token for token, _ in said[:5]}, said[5][0]
    settings = {**SETTINGS, "eos_ids": [other, EOS], "allowed_ids": sorted({*range(VOCAB_LIMIT)} - holes)}
    found = engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=num_beams, **settings)
    save_hf(params, MODEL, tmp_path / "hf")
    assert found == hugging_face(tmp_path / "hf", num_beams, settings)
    assert found != plain
    assert not {*holes, other} & {*itertools.chain(*found)}


def test_equals_a_search_over_the_training_forward(params: Params) -> None:
    found, known = engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=2, **SETTINGS), {}
    assert found == search_without_cache(params, PROMPTS, known)
    assert max(itertools.chain(*found)) < VOCAB_LIMIT
    for variant in ({"penalty": 0.0}, {"counted": 4}, {"kept": 2}, {"early": True}):  # negative controls
        assert search_without_cache(params, PROMPTS, known, **variant) != found, variant


def test_one_beam_is_greedy(params: Params) -> None:
    """The search itself: `generate_tokens` takes the greedy program for one beam."""
    programs = engine._programs(dataclasses.astuple(MODEL))
    inputs, lengths = forward.pad_prompts(PROMPTS, 32, 64)
    stop = greedy.make_limits(**SETTINGS, vocab_size=MODEL.vocab_size)
    layered = greedy.split_layers(params, MODEL)
    beams = programs.branch(layered, inputs, lengths, stop, cache_length=96, width=32, num_beams=1)
    beams = programs.search(layered, beams, stop)
    found = [
        greedy.new_tokens(row, count) for row, count in zip(*jax.device_get((beams.answer, beams.counts)), strict=True)
    ]
    assert found == engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=1, **SETTINGS)


@pytest.mark.parametrize(
    ("mesh", "batch"),
    [
        (None, 32),
        (MeshConfig(data=8), 8),
        pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), 8, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_answers_do_not_hang_on_groups_order_or_devices(
    params: Params, answers: Answers, mesh: MeshConfig | None, batch: int
) -> None:
    if mesh is not None:
        mesh = make_mesh(mesh)
        params = jax.device_put(params, param_shardings(MODEL, mesh))
    order = random.Random(batch).sample(range(32), 32)
    prompts = [PROMPTS[i] for i in order]
    found = engine.generate_tokens(params, MODEL, prompts, batch=batch, num_beams=4, mesh=mesh, **SETTINGS)
    assert found == [answers[i] for i in order]


def test_limits_and_order_are_no_reason_to_compile(params: Params) -> None:
    programs = engine._programs(dataclasses.astuple(MODEL))
    engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=2, **SETTINGS)
    sizes = forward.read_block._cache_size(), programs.search._cache_size()
    assert min(sizes) > 0
    other = {"max_new_tokens": 9, "eos_ids": [5], "allowed_ids": range(100)}
    engine.generate_tokens(params, MODEL, PROMPTS[::-1], batch=8, num_beams=2, **other)
    assert (forward.read_block._cache_size(), programs.search._cache_size()) == sizes


def test_the_batch_is_halved_when_memory_runs_out(
    params: Params, answers: Answers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    programs, calls, seen = engine._programs(dataclasses.astuple(MODEL)), itertools.count(), []

    def search(weights: Params, beams: Beams, stop: greedy.DecodeLimits) -> Beams:
        # The first group is finished before it happens: its answers are kept.
        if beams.active.shape[0] > 8 and next(calls) >= 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return programs.search(weights, beams, stop)

    monkeypatch.setattr(engine, "_programs", lambda fields: programs._replace(search=search))
    found = engine.generate_tokens(
        params, MODEL, PROMPTS, batch=16, num_beams=4, on_finished=lambda index, _: seen.append(index), **SETTINGS
    )
    assert found == answers
    assert sorted(seen) == list(range(32))
    assert len(PROMPTS[seen[0]]) > len(PROMPTS[seen[-1]]), "long prompts go first"
    assert "batch of 8" in caplog.text


@pytest.mark.parametrize(
    ("num_beams", "limit", "words"), [(0, 120, "at least 1, not 0"), (-1, 120, "not -1"), (4, 7, "vocabulary of 7")]
)
def test_an_impossible_number_of_beams_is_refused(params: Params, num_beams: int, limit: int, words: str) -> None:
    settings = {**SETTINGS, "allowed_ids": range(limit)}
    with pytest.raises(ConfigError, match=words):
        engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=num_beams, **settings)


def test_broken_weights_are_an_error_not_an_answer(params: Params) -> None:
    broken = {**params, "final_norm": {**params["final_norm"], "bias": params["final_norm"]["bias"] * jnp.nan}}
    with pytest.raises(DataError, match="not finite"):
        engine.generate_tokens(broken, MODEL, PROMPTS[:2], batch=8, num_beams=4, **SETTINGS)
