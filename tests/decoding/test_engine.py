import dataclasses
import hashlib
import itertools
import json
import os
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bloom
from tiny_bloom import MODEL, SETTINGS

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.decoding import engine, forward
from ecomgpt_jax.decoding.greedy import Slots
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.instruct.task_folder import load_tasks
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf, save_hf
from ecomgpt_jax.model.parameters import Params, param_shardings
from ecomgpt_jax.parallel.mesh import make_mesh
from tests.model import hf_cases

Answers = list[list[int]]
EVAL = os.environ.get("ECOMGPT_EVAL", "")

PROMPTS = tiny_bloom.random_prompts()
READERS = ("start", "branch")  # run a program per block


@pytest.fixture(scope="module")
def params() -> Params:
    return tiny_bloom.random_params()


@pytest.fixture(scope="module")
def answers(params: Params) -> Answers:
    return tiny_bloom.decode_without_cache(params, PROMPTS)


def sha256(answers: Answers) -> str:
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()


def compiled(model: ModelConfig = MODEL) -> dict[str, int]:
    programs = engine._programs(dataclasses.astuple(model))
    sizes = {name: program._cache_size() for name, program in programs._asdict().items() if name not in READERS}
    return {**sizes, "read_block": forward.read_block._cache_size()}  # of all models


@pytest.mark.parametrize(
    ("mesh", "batch"),
    [
        *itertools.product((None, MeshConfig(data=8)), (1, 8)),
        (None, 32),
        pytest.param(MeshConfig(data=8), 32, marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), 8, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_answers_do_not_hang_on_batch_order_or_devices(
    params: Params, answers: Answers, mesh: MeshConfig | None, batch: int
) -> None:
    if mesh is not None:
        mesh = make_mesh(mesh)
        params = jax.device_put(params, param_shardings(MODEL, mesh))
    given = list(range(len(PROMPTS)))
    for order in (given, random.Random(batch).sample(given, len(given))):
        found = engine.generate_tokens(params, MODEL, [PROMPTS[i] for i in order], batch=batch, mesh=mesh, **SETTINGS)
        assert sha256(found) == sha256([answers[i] for i in order])


def test_equals_hugging_face_on_left_padded_batches(tmp_path: Path) -> None:
    """`generate(do_sample=False)` in float32, 64 prompts of mixed length in batches of 8."""
    prompts = tiny_bloom.random_prompts(64)
    eos = 42  # which these weights choose sometimes
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.BloomConfig(
        hidden_size=MODEL.embed, n_layer=2, n_head=MODEL.heads, vocab_size=MODEL.vocab_size, use_cache=True,
        bos_token_id=1, eos_token_id=eos, pad_token_id=3,
    )  # fmt: skip
    network, random = transformers.BloomForCausalLM(config).eval(), np.random.RandomState(5)
    for name, weight in network.named_parameters():
        spread = 0.25 if "query_key_value.weight" in name else 0.4 if "word_embeddings.w" in name else 0.8
        spread, centre = (spread, 0) if weight.ndim == 2 else (0.1, int("layernorm.weight" in name or "ln_f.w" in name))
        weight.data = torch.from_numpy(centre + spread * random.standard_normal(weight.shape)).float()
    network.save_pretrained(tmp_path)

    expected = []
    for first in range(0, len(prompts), 8):
        group = prompts[first : first + 8]
        longest = max(map(len, group))
        padded = torch.tensor([[3] * (longest - len(prompt)) + prompt for prompt in group])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in group])
        rows = network.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=tiny_bloom.MAX_NEW_TOKENS)
        for row in rows[:, longest:].tolist():
            end = row.index(eos) if eos in row else len(row)
            expected.append(row[:end])
    assert 8 <= sum(len(answer) < tiny_bloom.MAX_NEW_TOKENS for answer in expected) <= 56

    model = model_config_from_hf(tmp_path)
    model.compute_dtype = "float32"
    params = load_hf(tmp_path, model, make_mesh(MeshConfig(), jax.devices()[:1]))
    settings = {**SETTINGS, "eos_ids": [eos], "allowed_ids": range(MODEL.vocab_size)}
    assert engine.generate_tokens(params, model, prompts, batch=8, **settings) == expected
    other = jax.tree.map(jnp.roll, params, jax.tree.map(lambda _: 1, params))  # negative control
    assert engine.generate_tokens(other, model, prompts, batch=8, **settings) != expected


@pytest.mark.parametrize(
    ("name", "num_beams"),
    [
        ("gemma", 1),
        ("qwen3", 4),
        *(
            pytest.param(name, beams, marks=pytest.mark.slow)
            for name in hf_cases.FAMILIES[1:]
            for beams in (1, 4)
            if (name, beams) not in (("gemma", 1), ("qwen3", 4))
        ),
    ],
)
def test_every_family_answers_as_hugging_face(name: str, num_beams: int, tmp_path: Path) -> None:
    """32 prompts of mixed length, left-padded there, greedily or by four beams, in float32 and across windows."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, new = hf_cases.case_model(name), 16
    params = jax.tree.map(lambda leaf: 2 * leaf if leaf.ndim > 2 else leaf, hf_cases.random_params(model, seed=2))
    prompts, eos = tiny_bloom.random_prompts(longest=30, seed=4), list(range(6, 128, 3))
    save_hf(params, model, tmp_path / "hf")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    longest = max(map(len, prompts))
    padded = torch.tensor([[3] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    rows = network.generate(
        padded, attention_mask=mask, do_sample=False, num_beams=num_beams, early_stopping=False, max_new_tokens=new,
        eos_token_id=eos, pad_token_id=3,
    )[:, longest:].tolist()  # fmt: skip
    ends = [next((i for i, token in enumerate(row) if token in eos), len(row)) for row in rows]
    expected = [row[:end] for row, end in zip(rows, ends, strict=True)]
    assert sum(end < new for end in ends) >= 4
    assert len({tuple(answer) for answer in expected}) > 12
    settings = {"max_new_tokens": new, "eos_ids": eos, "allowed_ids": range(model.vocab_size)}
    found = engine.generate_tokens(params, model, prompts, batch=32, num_beams=num_beams, **settings)
    assert found == expected


def test_other_prompts_change_the_hash(params: Params, answers: Answers) -> None:
    """Negative control of the comparison above."""
    other = [[*prompt[:-1], prompt[-1] ^ 1] for prompt in PROMPTS]
    assert sha256(engine.generate_tokens(params, MODEL, other, batch=8, **SETTINGS)) != sha256(answers)


def test_few_programs_are_compiled_and_none_again(params: Params) -> None:
    model = dataclasses.replace(MODEL, layer_norm_epsilon=1.1e-5)  # a model that no other test has compiled for
    prompts, before = [PROMPTS[i % 32][: 1 + i] * 4 for i in range(60)], compiled(model)
    engine.generate_tokens(params, model, prompts, batch=8, **SETTINGS)
    first = compiled(model)
    assert 1 <= first["read_block"] - before["read_block"] <= 6, "one for a length, whatever the number of blocks"
    assert first["decode"] <= 3
    assert first["empty"] == 1
    assert first["insert"] <= 8
    engine.generate_tokens(params, model, prompts[::-1], batch=8, **{**SETTINGS, "max_new_tokens": 9, "eos_ids": [5]})
    again = compiled(model)
    assert again.pop("insert") <= 8
    assert again == {name: first[name] for name in again}, "limits and order are no reason to compile"


def test_each_answer_is_handed_over_once_as_soon_as_it_is_known(params: Params, answers: Answers) -> None:
    seen = []
    engine.generate_tokens(
        params, MODEL, PROMPTS, batch=8, on_finished=lambda index, tokens: seen.append((index, tokens)), **SETTINGS
    )
    assert sorted(seen) == list(enumerate(answers))
    assert len(PROMPTS[seen[0][0]]) > len(PROMPTS[seen[-1][0]]), "long prompts go first"


def test_the_batch_is_halved_when_memory_runs_out(
    params: Params, answers: Answers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    programs, calls = engine._programs(dataclasses.astuple(MODEL)), itertools.count()

    def decode(weights: Params, slots: Slots, *rest: object) -> Slots:
        # Some answers are finished before the error: they are kept.
        if slots.active.shape[0] > 8 and next(calls) >= 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return programs.decode(weights, slots, *rest)

    monkeypatch.setattr(engine, "_programs", lambda fields: programs._replace(decode=decode))
    seen = []
    found = engine.generate_tokens(
        params, MODEL, PROMPTS, batch=16, on_finished=lambda index, _: seen.append(index), **SETTINGS
    )
    assert found == answers
    assert sorted(seen) == list(range(len(PROMPTS)))
    assert "batch of 8" in caplog.text


def test_no_memory_for_the_smallest_batch_is_an_error(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, sizes = engine._programs(dataclasses.astuple(MODEL)), []

    def decode(weights: Params, slots: Slots, *rest: object) -> Slots:
        sizes.append(slots.active.shape[0])
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(engine, "_programs", lambda fields: programs._replace(decode=decode))
    with pytest.raises(ConfigError, match="out of device memory with 1 prompts"):
        engine.generate_tokens(params, MODEL, PROMPTS[:3], batch=1, **SETTINGS)
    assert sizes == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("prompts", "changes", "error", "words"),
    [
        ([[5], []], {}, DataError, "prompt 1 .* is empty"),
        ([[5, MODEL.vocab_size]], {}, DataError, "prompt 0 .* id 128"),
        ([[5]], {"batch": 0}, ConfigError, "batch"),
        ([[5]], {"max_new_tokens": 0}, ConfigError, "max_new_tokens"),
    ],
)
def test_bad_input_is_refused(
    params: Params, prompts: Answers, changes: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        engine.generate_tokens(params, MODEL, prompts, **{"batch": 8, **SETTINGS, **changes})


def test_no_prompts_give_no_answers(params: Params) -> None:
    assert engine.generate_tokens(params, MODEL, [], batch=8, **SETTINGS) == []


def test_a_row_for_no_slot_changes_none() -> None:
    slots, new = (
        {"cache": np.zeros((4, 6)), "tokens": np.zeros(4)},
        {"cache": np.ones((3, 5)), "tokens": np.arange(1, 4)},
    )
    found = engine.put_rows(jax.tree.map(jnp.asarray, slots), new, np.array([2, 4, 0]))
    assert found["tokens"].tolist() == [3, 0, 1, 0], "row 1 is dropped; the last slot is as it was"
    assert found["cache"].sum(axis=1).tolist() == [5, 0, 5, 0]
    assert found["cache"][:, 5:].sum() == 0


class Counting:
    """Programs without a model: a prompt's first id is the length of its answer. Counts the steps."""

    def __init__(self) -> None:
        self.steps = self.read = self.rows = 0

    def empty(self, batch: int, length: int, width: int) -> Slots:
        zeros = np.zeros(batch, np.int32)
        return Slots((), zeros, zeros, np.zeros((batch, width), np.int32), zeros, zeros > 0)

    def start(
        self, params: Params, inputs: np.ndarray, lengths: np.ndarray, starts: np.ndarray, *_: object, **sizes: int
    ) -> Slots:
        self.read += inputs.size
        answers = np.where(lengths > 0, inputs[0, np.minimum(starts, inputs.size - 1)], 0)
        first = np.minimum(answers, 1)
        output = np.zeros((len(lengths), sizes["width"]), np.int32)
        return Slots((), answers, lengths, output, first, (lengths > 0) & (first > 0))

    def insert(self, slots: Slots, new: Slots, rows: np.ndarray) -> Slots:
        kept = rows < len(slots.tokens)

        def put(old: np.ndarray, fresh: np.ndarray) -> np.ndarray:
            old = old.copy()
            old[rows[kept]] = fresh[kept]
            return old

        return Slots((), *map(put, slots[1:], new[1:]))

    def shorten(self, slots: Slots, length: int) -> Slots:
        return slots

    def gather(self, slots: Slots, rows: np.ndarray) -> Slots:
        return Slots((), *(leaf[rows] for leaf in slots[1:]))

    def decode(self, params: Params, slots: Slots, stop: object, until_active: int) -> Slots:
        active, counts = slots.active.copy(), slots.counts.copy()
        while active.sum() > until_active:
            self.steps += 1
            self.rows += len(active)
            active &= counts < slots.tokens  # a step says one more token, or ends the row
            counts += active
        return slots._replace(active=active, counts=counts)


def steps_of(
    lengths: list[tuple[int, int]], batch: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Counting, list[list[int]]]:
    programs, model = Counting(), dataclasses.replace(MODEL, vocab_size=2000)
    monkeypatch.setattr(engine, "_programs", lambda fields: programs)
    monkeypatch.setattr(engine, "split_layers", lambda params, model: params)
    prompts = [[answer, *[0] * (size - 1)] for size, answer in lengths]
    settings = {"max_new_tokens": max(answer for _, answer in lengths), "eos_ids": [1], "allowed_ids": range(2000)}
    return programs, engine.generate_tokens({}, model, prompts, batch=batch, **settings)


@pytest.mark.parametrize("batch", [8, 16, 64])
def test_slots_are_kept_full(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    random = np.random.default_rng(0)
    lengths = [(int(random.integers(1, 200)), int(random.integers(0, 60))) for _ in range(50 * batch)]
    programs, answers = steps_of(lengths, batch, monkeypatch)
    assert [len(tokens) for tokens in answers] == [answer for _, answer in lengths]
    floor = sum(answer for _, answer in lengths) / batch
    assert floor <= programs.steps <= 1.08 * floor
    assert programs.read <= 1.1 * sum(size for size, _ in lengths), "prompts are read without padding"


def test_the_slots_are_halved_when_the_last_prompts_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [(100 - i, 5 if i % 3 else 100 + i) for i in range(64)]
    programs, answers = steps_of(lengths, 64, monkeypatch)
    assert [len(tokens) for tokens in answers] == [answer for _, answer in lengths]
    last = max(answer for _, answer in lengths)
    assert programs.steps == last
    # 22 of 64 are left after five steps, 16 after 115, 8 after 139
    assert programs.rows == 64 * 5 + 32 * (115 - 5) + 16 * (139 - 115) + 8 * (last - 139)
    few, _ = steps_of(lengths[:8], 64, monkeypatch)
    assert few.rows == 8 * few.steps  # fewer rows than eight would be rounded otherwise


@pytest.mark.skipif(not EVAL, reason="ECOMGPT_EVAL is not set")
def test_decode_steps_on_the_released_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """6,000 prompts, 64 slots, each answer as long as the gold one; tokens are estimated from characters."""

    def size(text: str) -> int:
        chinese = sum("\u3400" <= character <= "\u9fff" for character in text)
        return max(1, round(chinese + (len(text) - chinese) / 4.1))

    parts = [build_prompts(task) for task in load_tasks(EVAL) if "query_item_matching" not in task.name]
    lengths = [[(size(p), size(g)) for p, g in zip(part.prompts, part.golds, strict=True)] for part in parts]
    flat = list(itertools.chain(*lengths))
    assert len(flat) == 6000
    total = sum(answer for _, answer in flat)
    assert 118_000 < total < 126_000
    ordered = sum(
        max(answer for _, answer in task[first : first + 64]) for task in lengths for first in range(0, len(task), 64)
    )
    programs, _ = steps_of(flat, 64, monkeypatch)
    print(f"{programs.steps} steps, {total / 64:.0f} at least, {ordered} in task-ordered batches")
    assert programs.steps <= 2000 < 4000 < ordered


def test_rows_for_the_slot_past_the_last_are_dropped() -> None:
    slots, new = {"x": jnp.zeros((4, 3))}, {"x": jnp.arange(1.0, 9.0).reshape(4, 2)}
    found = engine.put_rows(slots, new, jnp.array([4, 1, 4, 0]))["x"]
    assert found.tolist() == [[7, 8, 0], [3, 4, 0], [0, 0, 0], [0, 0, 0]], "the last slot too is as it was"
