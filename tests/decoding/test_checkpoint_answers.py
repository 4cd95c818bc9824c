"""Checkpoints decoded as the commands do it: Hugging Face's ids in float32, one answer on every mesh, weights once."""

import dataclasses
import gc
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.decoding import engine, forward, greedy
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.model import decoder, loading
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.parameters import Params, parameter_table, to_tree
from ecomgpt_jax.parallel.mesh import make_mesh

EOS, LIMIT, VOCAB, NEW = 42, 230, 256, 16
SETTINGS = {"max_new_tokens": NEW, "eos_ids": [EOS], "allowed_ids": range(LIMIT)}


def prompts_of(count: int) -> list[list[int]]:
    random = np.random.RandomState(3)
    return [random.randint(4, LIMIT, random.randint(1, 60)).tolist() for _ in range(count)]


def write(directory: Path, heads: int, dtype: str = "float32", **shape: Any) -> ModelConfig:
    """Writes weights whose answers depend on the whole prompt; rows past the tokenizer's ids have the top logits."""
    shape = {"embed": 8 * heads, "layers": 2, "vocab_size": VOCAB} | shape
    model, random, leaves = ModelConfig(size="custom", heads=heads, **shape), np.random.RandomState(heads), {}
    spreads = {"scale": 0.2, "bias": 0.05, "table": 0.4, "kernel": 0.8 * (48 / model.embed) ** 0.5}
    for parameter in parameter_table(model):
        spread = 0.25 if parameter.name == "blocks/qkv/kernel" else spreads[parameter.path[-1]]
        leaves[parameter.path] = (parameter.path[-1] == "scale") + spread * random.standard_normal(parameter.shape)
    table = leaves["embedding", "table"]
    table[LIMIT:VOCAB] = 3 * table[4 : 4 + VOCAB - LIMIT]
    params = to_tree({path: jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items()})
    save_hf(params, model, directory, dtype)
    return model


def decode(directory: Path, prompts: list[list[int]], mesh: MeshConfig, dtype: str = "") -> list[list[int]]:
    found = loading.find_checkpoint(directory, dtype)
    devices = make_mesh(mesh, jax.devices()[: abs(mesh.data) * mesh.fsdp * mesh.tensor])
    params = loading.load_params(found, devices)
    return engine.generate_tokens(params, found.model, prompts, batch=72, mesh=devices, **SETTINGS)


def hugging_face_ids(network: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers of a transformers model, ids that no token of the tokenizer has suppressed."""
    torch, found = pytest.importorskip("torch"), []
    for first in range(0, len(prompts), 24):
        group = prompts[first : first + 24]
        longest = max(map(len, group))
        padded = torch.tensor([[3] * (longest - len(prompt)) + prompt for prompt in group])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in group])
        rows = network.generate(
            padded, attention_mask=mask, do_sample=False, max_new_tokens=NEW, eos_token_id=EOS, pad_token_id=3,
            suppress_tokens=list(range(LIMIT, VOCAB)),
        )[:, longest:].tolist()  # fmt: skip
        found += [row[: row.index(EOS)] if EOS in row else row for row in rows]
    return found


@pytest.mark.parametrize("heads", [12, 16, 20])
def test_a_float32_checkpoint_gives_hugging_face_s_ids(tmp_path: Path, heads: int) -> None:
    """72 prompts; ids that no token of the tokenizer has are suppressed on both sides."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write(tmp_path / "hf", heads)
    network = transformers.BloomForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto").eval()
    assert network.dtype == torch.float32
    prompts = prompts_of(72)
    expected = hugging_face_ids(network, prompts)
    assert len({tuple(answer) for answer in expected}) > 60, "the answers must vary"
    found = decode(tmp_path / "hf", prompts, MeshConfig(data=1))
    assert sum(map(list.__eq__, found, expected)) == 72
    if heads == 12:  # the earlier one
        rounded = decode(tmp_path / "hf", prompts, MeshConfig(data=1), "bfloat16")
        assert sum(map(list.__eq__, rounded, expected)) < 72


def test_a_bfloat16_checkpoint_is_nearer_to_its_float32_values_than_hugging_face(tmp_path: Path) -> None:
    """Logits after each token of float32's answers; the same id where float32's lead is more than rounding."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write(tmp_path / "hf", 16, "bfloat16")
    exact, rounded = (
        transformers.BloomForCausalLM.from_pretrained(tmp_path / "hf", dtype=dtype).eval()
        for dtype in (torch.float32, "auto")
    )
    assert rounded.dtype == torch.bfloat16
    prompts = prompts_of(72)
    texts = [prompt + answer for prompt, answer in zip(prompts, hugging_face_ids(exact, prompts), strict=True)]
    inputs = np.stack([np.pad(text, (0, 60 + NEW - len(text))) for text in texts])
    within = np.arange(60 + NEW) < [[len(text)] for text in texts]
    read = within & (np.arange(60 + NEW) >= [[len(prompt) - 1] for prompt in prompts])
    with torch.no_grad():
        wanted, theirs = (
            network(torch.tensor(inputs), attention_mask=torch.tensor(within, dtype=torch.long)).logits.float().numpy()
            for network in (exact, rounded)
        )
    found = loading.find_checkpoint(tmp_path / "hf")
    assert found.model.compute_dtype == "bfloat16"
    params = loading.load_params(found, make_mesh(MeshConfig(data=1), jax.devices()[:1]), layered=False)
    hidden = decoder.forward(params, jnp.asarray(inputs), jnp.asarray(within, jnp.int32), found.model)
    ours = np.asarray(decoder.logits(params, hidden, found.model))
    wanted, theirs, ours = (logits[read][:, :LIMIT] for logits in (wanted, theirs, ours))

    def error(logits: np.ndarray) -> float:
        return float(np.sqrt(np.mean((logits - wanted) ** 2) / np.mean(wanted**2)))

    first, second = np.sort(wanted, axis=-1)[:, :-3:-1].T
    sure = first - second > 4 * 2**-8 * np.abs(wanted).max(-1)
    assert error(ours) < error(theirs)
    assert sure.mean() > 0.5
    assert (ours.argmax(-1) == wanted.argmax(-1))[sure].all()


FAMILIES = {
    "bloom": {},
    "llama": {"family": "llama", "kv_heads": 4, "mlp": 256, "qk_norm": True, "tied_head": False},
    "gemma": {"family": "gemma", "kv_heads": 1, "mlp": 256, "window": 9, "layer_kinds": "sf"},
}


@pytest.mark.parametrize(
    "family", ["bloom", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "gemma"))]
)
def test_every_mesh_gives_one_sha256(tmp_path: Path, family: str) -> None:
    write(tmp_path / "hf", 16, **FAMILIES[family])
    prompts, seen = prompts_of(24), {}
    for mesh in (MeshConfig(data=1), MeshConfig(data=1, fsdp=8), MeshConfig(data=1, tensor=2)):
        answers = decode(tmp_path / "hf", prompts, mesh)
        seen[str(mesh)] = hashlib.sha256(json.dumps(answers).encode()).hexdigest()
    assert len(set(seen.values())) == 1, seen


def sizes(params: Params) -> dict[jax.Device, int]:
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return held


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_device_holds_its_eighth_and_no_program_gathers_the_weights(tmp_path: Path, dtype: str) -> None:
    """Memory of the compiled programs beside their arguments: without the split of `embed` it is all the weights."""
    model = write(tmp_path / "hf", 16, dtype, embed=128, layers=6, vocab_size=2048)
    found, mesh = loading.find_checkpoint(tmp_path / "hf"), make_mesh(MeshConfig(data=1, fsdp=8))
    assert found.model.compute_dtype == dtype
    params = loading.load_params(found, mesh)
    width = jnp.dtype(dtype).itemsize
    whole = sum(p.size for p in parameter_table(model)) * width
    vectors = sum(p.size for p in parameter_table(model) if "embed" not in p.axes) * width
    assert set(sizes(params).values()) == {(whole - vectors) // 8 + vectors}
    fields = dataclasses.astuple(found.model)
    with jax.set_mesh(mesh):
        slots = engine._programs(fields).empty(batch=8, length=32, width=32)
        stop = greedy.DecodeLimits(EOS, LIMIT, NEW)
        decode = engine._programs(fields).decode.lower(params, slots, stop, 0).compile().memory_analysis()
        rows = jax.ShapeDtypeStruct((8, 32, 128), "float32", sharding=slots.tokens.sharding.update(spec=("fsdp",)))
        lengths, top = jax.ShapeDtypeStruct((8,), jnp.int32), {**params, "blocks": params["blocks"][-1:]}
        last = forward._read_last_block.lower(top, rows, lengths, None, fields, 32).compile().memory_analysis()
    assert decode.temp_size_in_bytes < 0.2 * whole
    assert last.temp_size_in_bytes < 0.2 * whole


def live_bytes() -> int:
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_held_once_from_loading_to_the_last_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Live bytes at every call of a decoding program, against 1.2 x the weights in their dtype beyond the cache."""
    model = write(tmp_path / "hf", 8, dtype, embed=128, layers=4, vocab_size=512)
    before, seen = live_bytes(), []
    found, mesh = loading.find_checkpoint(tmp_path / "hf"), make_mesh(MeshConfig(data=1), jax.devices()[:1])
    params = loading.load_params(found, mesh)
    whole = sum(p.size for p in parameter_table(model)) * jnp.dtype(dtype).itemsize
    programs = engine._programs(dataclasses.astuple(found.model))

    def decode(params: Params, slots: greedy.Slots, *rest: object) -> greedy.Slots:
        cache = sum(leaf.nbytes for leaf in jax.tree.leaves(slots))
        seen.append(live_bytes() - before - cache)
        return programs.decode(params, slots, *rest)

    monkeypatch.setattr(engine, "_programs", lambda fields: programs._replace(decode=decode))
    prompts = prompts_of(8)
    engine.generate_tokens(params, found.model, prompts, batch=8, mesh=mesh, **SETTINGS)
    mean_log_probabilities(params, found.model, prompts, prompts, batch=8, mesh=mesh)
    seen.append(live_bytes() - before)
    assert whole <= max(seen) <= 1.2 * whole
    copy = loading.split_layers(loading.load_params(found, mesh, layered=False), found.model)  # the earlier one
    assert live_bytes() - before > 1.9 * whole
    del copy
