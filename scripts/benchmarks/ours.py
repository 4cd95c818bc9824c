"""This project's side of a benchmark, run by `work.serve`. Does not import packages of the data pipeline."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import work

from ecomgpt_jax.config import Config, MeshConfig, ModelConfig, resolve
from ecomgpt_jax.decoding import engine, forward, greedy
from ecomgpt_jax.model import attention, decoder, fused_attention, head
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf, save_hf
from ecomgpt_jax.model.parameters import Params, flops_per_token, split_layers
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import global_batch, init_state, make_train_step

Case = dict[str, Any]
Prepared = tuple[Callable[[], dict[str, Any]], dict[str, Any]]


def model_of(case: Case) -> ModelConfig:
    """Returns the model of a case, with its shape filled in."""
    return config_of(case).model


def config_of(case: Case) -> Config:
    """Returns the configuration of a case; with `rank` it trains adapters."""
    config = Config()
    config.data.length = case.get("length", config.data.length)
    config.train.rows_per_device, config.train.accumulation = case.get("rows", 1), 1
    config.optimizer.learning_rate, config.optimizer.moment_dtype = 1e-4, case.get("moment_dtype", "float32")
    if "weights" in case:
        config.model = model_config_from_hf(case["weights"])
    for name, value in case["model"].items():
        setattr(config.model, name, value)
    if rank := case.get("rank", 0):
        config.lora.rank, config.lora.alpha = rank, float(rank)
    return resolve(config)


def countdown(model: ModelConfig) -> Params:
    """Returns weights whose answers have a given number of tokens, at the same cost as other weights.

    Token n > EOS + 1 is followed by n - 1, and EOS + 1 by EOS: embeddings are on circles of several frequencies, and
    the first block's mlp, which gelu(x) - gelu(-x) = x makes linear, rotates them by one step. Other blocks add zero.
    """
    params = jax.tree.map(np.array, jax.device_get(decoder.init_params(model, jax.random.key(0))))
    embed, ids = model.embed, np.arange(model.vocab_size)
    turns = 2 * np.pi * np.random.default_rng(0).random(embed // 4)
    angles = ids[:, None] * turns
    circle = [np.cos(angles), np.sin(angles), -np.cos(angles), -np.sin(angles)]  # mean 0 and constant length
    params["embedding"]["table"] = np.concatenate(circle, 1).astype(np.float32)
    back = np.cos(turns) - 1, np.sin(turns)  # the change of (cos, sin) by one step
    turn = np.zeros((embed, embed))
    quarter = np.arange(embed // 4)
    for half in (0, embed // 2):
        cos, sin = half + quarter, half + embed // 4 + quarter
        turn[cos, cos] = turn[sin, sin] = back[0]
        turn[sin, cos], turn[cos, sin] = back[1], -back[1]
    blocks = params["blocks"]
    for name in ("attention_out", "mlp_down"):
        blocks[name]["kernel"][:] = 0
    # The embedding's norm makes the mean of squares 1, and so does the norm before the mlp: both scales are 1.
    blocks["mlp_up"]["kernel"][0, :, : 2 * embed] = np.concatenate([np.eye(embed), -np.eye(embed)], 1)
    blocks["mlp_down"]["kernel"][0, : 2 * embed] = np.concatenate([turn, -turn])
    return jax.tree.map(jnp.asarray, params)


def weights(case: Case) -> Prepared:
    """Writes the weights that both sides load: random ones, and of a BLOOM those that count down."""
    model = model_of(case)
    save_hf(decoder.init_params(model, jax.random.key(0)), model, Path(case["to"]) / "random")
    if model.family == "bloom":
        save_hf(countdown(model), model, Path(case["to"]) / "countdown")
    return dict, {}


def _batches(case: Case) -> list[dict[str, np.ndarray]]:
    if "instances" not in case:
        return [work.full_batch(case["rows"], case["length"], model_of(case).vocab_size, case["share"])]
    # First fit in the given order: simpler than packing.py, without the data pipeline's packages.
    rows: list[list[tuple[np.ndarray, int]]] = []
    for tokens, prompt in sorted(
        work.instances(case["instances"], model_of(case).vocab_size, longest=case["length"]), key=lambda i: -len(i[0])
    ):
        fits = (row for row in rows if sum(len(t) - 1 for t, _ in row) + len(tokens) - 1 <= case["length"])
        row = next(fits, None)
        if row is None:
            rows.append(row := [])
        row.append((tokens, prompt))
    rows += [[]] * (-len(rows) % case["rows"])
    packed = {name: np.zeros((len(rows), case["length"]), np.int32) for name in ("inputs", "targets", "segment_ids")}
    packed["loss_mask"] = np.zeros((len(rows), case["length"]), bool)
    for index, row in enumerate(rows):
        start = 0
        for segment, (tokens, prompt) in enumerate(row, 1):
            stop = start + len(tokens) - 1
            packed["inputs"][index, start:stop], packed["targets"][index, start:stop] = tokens[:-1], tokens[1:]
            packed["loss_mask"][index, start + prompt - 1 : stop] = True
            packed["segment_ids"][index, start:stop] = segment
            start = stop
    return [
        {name: array[first : first + case["rows"]] for name, array in packed.items()}
        for first in range(0, len(rows), case["rows"])
    ]


def train(case: Case) -> Prepared:
    """Prepares optimizer steps over the case's batches, one per batch."""
    config, mesh = config_of(case), make_mesh(MeshConfig())
    optimizer = make_optimizer(config.optimizer, 1000)
    jax.set_mesh(mesh)
    params = load_hf(case["weights"], config.model, mesh) if "weights" in case else None
    state = init_state(config, optimizer, mesh, params)
    step = make_train_step(config, optimizer, mesh)
    batches = _batches(case) * case.get("steps", 1)
    placed = [global_batch(batch, 1, mesh) for batch in batches]
    compiled = step.lower(state, placed[0]).compile()
    facts = {
        "useful": int(sum((batch["segment_ids"] > 0).sum() for batch in batches)),
        "targets": int(sum(batch["loss_mask"].sum() for batch in batches)),
        "positions": sum(batch["inputs"].size for batch in batches),
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
    }

    def run() -> dict[str, Any]:
        nonlocal state
        losses = []
        for batch in placed:
            state, metrics = compiled(state, batch)
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        return {"loss": float(losses[0])}

    return run, facts


def loss_head(case: Case) -> Prepared:
    """Prepares the loss and its gradients, from hidden states and the table."""
    model = model_of(case)
    batch = work.full_batch(case["rows"], case["length"], model.vocab_size, case["share"])
    random = np.random.default_rng(5)
    hidden = jnp.asarray(random.standard_normal((case["rows"], case["length"], model.embed)), model.compute_dtype)
    table = jnp.asarray(0.02 * random.standard_normal((model.vocab_size, model.embed)), jnp.float32)

    def mean(table: jax.Array, hidden: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
        total, count = head.loss_sum(table, hidden, targets, mask, model)
        return total / count

    arguments = (table, hidden, batch["targets"], batch["loss_mask"])
    program = jax.jit(jax.value_and_grad(mean, argnums=(0, 1))).lower(*arguments).compile()

    def once() -> Any:
        return jax.block_until_ready(program(*arguments))

    outputs = (table.nbytes + hidden.nbytes) / 2**20
    compiled = program.memory_analysis().temp_size_in_bytes / 2**20
    growth = work.peak_growth(once) if jax.default_backend() == "cpu" else outputs + compiled
    facts = {"targets": int(batch["loss_mask"].sum()), "temporary_mib": growth - outputs, "compiled_mib": compiled}
    return lambda: {"loss": float(once()[0])}, facts


def exact_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, segments: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Returns one row's context [length, heads, head_dim] and the gradients of its sum of squares by q, k, v; float64.

    Args:
      q: [length, heads, head_dim], as k and v.
      k: keys.
      v: values.
      segments: int [length].
      slopes: ALiBi's, [heads].
    """
    q, k, v = (np.asarray(x, np.float64).swapaxes(0, 1) for x in (q, k, v))
    places, scale = np.arange(len(segments)), 1 / np.sqrt(q.shape[-1])
    scores = scale * q @ k.swapaxes(1, 2) + slopes[:, None, None] * (places - places[:, None])
    scores[:, (places > places[:, None]) | (segments != segments[:, None])] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = weights @ v
    d_context = 2 * context
    d_weights = d_context @ v.swapaxes(1, 2)
    d_scores = scale * weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True))
    gradients = d_scores @ k, d_scores.swapaxes(1, 2) @ q, weights.swapaxes(1, 2) @ d_context
    return tuple(x.swapaxes(0, 1) for x in (context, *gradients))


def fused_and_plain(case: Case) -> Prepared:
    """Prepares attention in bfloat16 over packed rows, forward and backward, in three ways; errors of the first row.

    `cudnn without ALiBi` shows the cost of ALiBi. On a CPU XLA computes the calls of cuDNN. `failed` has the reason of
    each way that fails.
    """
    shape = (case["rows"], case["length"], case["heads"], case["head_dim"])
    q, k, v = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(3))
    segments = jnp.broadcast_to(1 + jnp.arange(case["length"]) // 208, shape[:2])
    slopes = attention.alibi_slopes(case["heads"])
    cudnn = partial(fused_attention.cudnn, implementation="cudnn" if jax.default_backend() == "gpu" else "xla")
    ways = {
        "cudnn without ALiBi": partial(cudnn, slopes=None),
        "cudnn": partial(cudnn, slopes=slopes),
        "xla": partial(attention.attend, implementation="xla", slopes=slopes),
    }
    exact = exact_attention(*(np.asarray(x[0], np.float64) for x in (q, k, v)), np.asarray(segments[0]), slopes)
    programs, errors, failed = {}, {}, {}
    for name, way in ways.items():

        def total(q: jax.Array, k: jax.Array, v: jax.Array, way: Callable = way) -> tuple[jax.Array, jax.Array]:
            context = way(q, k, v, segments)
            return jnp.sum(context.astype(jnp.float32) ** 2), context

        program = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
        try:
            gradients, context = program(q, k, v)
            off = [
                np.abs(np.asarray(made[0], np.float64) - wanted)
                for made, wanted in zip((context, *gradients), exact, strict=True)
            ]
        except (RuntimeError, NotImplementedError, ValueError) as error:  # a kernel may not support the head dimension
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:300]
            continue
        of_gradients = max(x.max() / np.abs(wanted).max() for x, wanted in zip(off[1:], exact[1:], strict=True))
        programs[name], errors[name] = program, (float(off[0].max()), float(of_gradients))

    def run() -> dict[str, Any]:
        milliseconds = {}
        for name, program in programs.items():
            begun = time.perf_counter()
            for _ in range(case["calls"]):
                done = program(q, k, v)
            jax.block_until_ready(done)
            milliseconds[name] = 1e3 * (time.perf_counter() - begun) / case["calls"]
        return milliseconds

    return run, {"errors": errors, "failed": failed}


def generate(case: Case) -> Prepared:
    """Prepares greedy decoding: one batch of equal prompts, or the tasks' prompts with the engine."""
    model = model_of(case)
    params = load_hf(case["weights"], model)
    if "task_rows" not in case:
        prompts = work.full_batch(case["rows"], case["length"], model.vocab_size, 0)["inputs"].tolist()
        never = model.vocab_size
        settings = {"max_new_tokens": case["new"], "eos_ids": [never], "allowed_ids": range(model.vocab_size)}
        return lambda: {"tokens": greedy.greedy_decode(params, model, prompts, **settings)}, {}
    prompts, answers = work.counting_prompts(case["task_rows"], model.vocab_size, case.get("shrink", 1))
    steps = [0]
    one_step = greedy.decode_step

    def counted(*arguments: Any) -> Any:
        jax.debug.callback(lambda: steps.__setitem__(0, steps[0] + 1))
        return one_step(*arguments)

    if case.get("count_steps"):
        greedy.decode_step = counted

    def run() -> dict[str, Any]:
        steps[0] = 0
        tokens = engine.generate_tokens(
            params, model, prompts, max_new_tokens=max(answers) + 1, eos_ids=[work.EOS],
            allowed_ids=range(model.vocab_size),
            batch=case["slots"],
        )  # fmt: skip
        jax.effects_barrier()
        wrong = sum(len(row) != answer for row, answer in zip(tokens, answers, strict=True))
        assert not wrong, f"{wrong} answers have another length than requested"
        return {"tokens": tokens if len(tokens) < 1000 else [], "steps": steps[0], "prompts": len(prompts)}

    return run, {}


def decode(case: Case) -> Prepared:
    """Prepares greedy decoding of random weights as in the engine: prompts of one length, all slots to the last token.

    `step_bytes` is what a step must read: each weight once, and on average the keys and values so far.
    """
    model, width = model_of(case), case["new"]
    params = decoder.init_sharded_params(model, make_mesh(MeshConfig()), jax.random.key(0), model.compute_dtype)
    params = split_layers(params, model, consume=True)
    inputs = work.full_batch(case["rows"], case["length"], model.vocab_size, 0)["inputs"]
    lengths = np.full(case["rows"], case["length"], np.int32)
    stop = greedy.make_limits([model.vocab_size], range(model.vocab_size), width, model.vocab_size)
    start = jax.jit(greedy.start, static_argnames="width", donate_argnames="cache")
    steps = jax.jit(partial(greedy.decode, model=model), donate_argnames="slots")

    def run() -> dict[str, Any]:
        begun = time.perf_counter()
        read = forward.prefill(params, inputs, lengths, model, case["length"] + width)
        slots = jax.block_until_ready(start(*read, lengths, stop, width=width))
        ready = time.perf_counter()
        slots = jax.block_until_ready(steps(params, slots, stop, 0))
        done = time.perf_counter()
        assert (np.asarray(slots.counts) == width).all(), "a row ended early"
        return {"prefill": ready - begun, "decode": done - ready}

    weight_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    token_bytes = 2 * model.layers * model.key_heads * model.head_width * jnp.dtype(model.compute_dtype).itemsize
    flops = flops_per_token(model, case["length"], 1 / case["length"]) / 3  # the forward pass: a third
    return run, {
        "steps": width - 1,  # prefill gives the first token
        "step_bytes": weight_bytes + case["rows"] * (case["length"] + width / 2) * token_bytes,
        "prefill_flops": case["rows"] * case["length"] * flops,
    }


KINDS = {
    "weights": weights, "train": train, "head": loss_head, "generate": generate, "attention": fused_and_plain,
    "decode": decode,
}  # fmt: skip

if __name__ == "__main__":
    work.serve(lambda case: KINDS[case["kind"]](case))
