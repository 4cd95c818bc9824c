import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ecomgpt_jax.config import LoraConfig, ModelConfig, OptimizerConfig
from ecomgpt_jax.model.lora import adapter_shapes
from ecomgpt_jax.model.parameters import Params, leaf_of, parameter_table, to_tree
from ecomgpt_jax.training.optimizer import decay_mask, make_optimizer, make_schedule

MODEL = ModelConfig(size="custom", embed=16, layers=2, heads=2, vocab_size=24)


def hf_rates(total: int, warmup: int, peak: float = 2e-5) -> list[float]:
    """Learning rate at each step of `get_cosine_schedule_with_warmup`, which the authors' recipe names."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, total)
    rates = []
    for _ in range(total + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("total", [2, 10, 33, 100, 1000])
def test_warm_up_then_cosine_to_zero_as_in_transformers(total: int) -> None:
    schedule = make_schedule(OptimizerConfig(), total)
    ours = [float(schedule(step)) for step in range(0, total + 1, max(1, total // 100))]
    theirs = hf_rates(total, -(-3 * total // 100))[:: max(1, total // 100)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-11)
    longer = hf_rates(total, -(-3 * total // 100) + 1)[:: max(1, total // 100)]
    assert not np.allclose(ours, longer, rtol=1e-4, atol=1e-11), "a warm-up one step longer is noticed"


def test_known_rates() -> None:
    """Of ten steps with two of warm-up, worked out by hand: cos(0), cos(pi/4), cos(pi/2), cos(3pi/4), cos(pi)."""
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_fraction=0.2), 10)
    found = [float(schedule(step)) for step in (0, 1, 2, 4, 6, 8, 10)]
    np.testing.assert_allclose(found, [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0], atol=1e-6)


def test_the_decay_covers_the_last_share_of_the_steps() -> None:
    """Ten steps: one of warm-up, five at the peak, and four of cosine; two shares that leave no constant part."""
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1, decay_fraction=0.4)
    rates = [float(make_schedule(config, 10)(step)) for step in range(11)]
    np.testing.assert_allclose(rates, [0, 1, 1, 1, 1, 1, 1, 0.853553, 0.5, 0.146447, 0], atol=1e-6)
    for share in (0.9, 1.0):
        schedule = make_schedule(dataclasses.replace(config, decay_fraction=share), 10)
        usual = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1), 10)
        assert [schedule(step) for step in range(11)] == [usual(step) for step in range(11)]


def test_runs_of_two_lengths_are_equal_until_the_shorter_one_decays() -> None:
    """So that a shorter run can branch off a longer one's checkpoint; with the cosine over all steps they differ."""
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.0, decay_fraction=0.2)
    short, long = make_schedule(config, 50), make_schedule(config, 200)
    assert [float(short(step)) for step in range(40)] == [float(long(step)) for step in range(40)]
    assert float(short(45)) == pytest.approx(0.5)
    assert float(short(50)) == pytest.approx(0, abs=1e-6)
    usual = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.0)
    assert float(make_schedule(usual, 50)(30)) != float(make_schedule(usual, 200)(30))


def test_a_run_that_is_all_warm_up_reaches_the_peak_at_its_last_step() -> None:
    """Where transformers' schedule would end a step before it, and give a run of one step the rate 0."""
    for fraction in (0.03, 1.0):
        assert float(make_schedule(OptimizerConfig(learning_rate=1.0, warmup_fraction=fraction), 1)(0)) == 1.0
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_fraction=1.0), 5)
    np.testing.assert_allclose([float(schedule(step)) for step in range(5)], [0, 0.25, 0.5, 0.75, 1.0])


def test_the_update_is_adamw_by_hand() -> None:
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_fraction=0.0, max_grad_norm=0.0)
    optimizer = make_optimizer(config, 1000)
    params, gradient = {"w": jnp.array([2.0, -3.0])}, {"w": jnp.array([0.5, -4.0])}
    state = optimizer.init(params)
    m = v = np.zeros(2)
    w = np.array([2.0, -3.0])
    for step in range(3):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        g = np.array([0.5, -4.0])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 1000))
        corrected = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w = w - rate * (corrected + 0.5 * w)
        np.testing.assert_allclose(params["w"], w, rtol=1e-5)


def hf_decayed(model: object) -> set[str]:
    """Names of the parameters that transformers' Trainer decays."""
    transformers = pytest.importorskip("transformers")
    return set(transformers.Trainer.get_decay_parameter_names(None, model))


def test_weights_decay_as_in_hugging_faces_trainer() -> None:
    """Three steps of torch's AdamW over the Trainer's two groups, from the same weights and gradients."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = OptimizerConfig(learning_rate=0.05, weight_decay=0.3, warmup_fraction=0.0, max_grad_norm=0.0)
    theirs = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=24, hidden_size=16, n_layer=2, n_head=2))
    named = dict(theirs.named_parameters())
    decayed = hf_decayed(theirs) & set(named)  # the tied head counts once
    assert 0 < len(decayed) < len(named)
    table, random = parameter_table(MODEL), np.random.default_rng(0)
    params = to_tree({p.path: random.normal(size=p.shape).astype(np.float32) for p in table})
    gradients = to_tree({p.path: random.normal(size=p.shape).astype(np.float32) for p in table})

    def tensors(tree: Params) -> dict[str, np.ndarray]:
        found = {}
        for p in table:
            leaf = np.asarray(leaf_of(tree, p.path))
            for layer, name in enumerate(p.hf_names):
                found[f"transformer.{name}"] = p.to_hf(leaf[layer] if p.stacked else leaf)
        return found

    assert set(tensors(params)) == set(named)
    for name, value in tensors(params).items():
        named[name].data, named[name].grad = torch.tensor(value), torch.tensor(tensors(gradients)[name])
    groups = [
        {"params": [named[name] for name in sorted(decayed)], "weight_decay": 0.3},
        {"params": [named[name] for name in sorted(set(named) - decayed)], "weight_decay": 0.0},
    ]
    reference, optimizer = torch.optim.AdamW(groups, lr=0.05), make_optimizer(config, 10**6)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        reference.step()
    for name, value in tensors(params).items():
        np.testing.assert_allclose(value, named[name].detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


def test_adapters_decay_as_in_hugging_faces_trainer() -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=24, hidden_size=16, n_layer=2, n_head=2))
    targets = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained <= hf_decayed(adapted)
    assert all(jax.tree.leaves(decay_mask(adapter_shapes(MODEL, LoraConfig(rank=2)))))


def test_gradients_are_clipped_by_their_global_norm() -> None:
    seen = []
    for limit in (1.0, 0.0):
        optimizer = make_optimizer(OptimizerConfig(max_grad_norm=limit, epsilon=1.0, warmup_fraction=0.0), 10)
        params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
        gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        seen.append(float(updates["b"][0]))
    clipped, whole = seen
    assert clipped == pytest.approx(-2e-5 * 0.8 / 1.8, rel=1e-4)
    assert whole == pytest.approx(-2e-5 * 4 / 5, rel=1e-4)


def test_a_bfloat16_first_moment_halves_its_bytes_and_trains_alike() -> None:
    params, state, ends = {"w": jnp.linspace(-2.0, 2.0, 64)}, {}, {}
    for dtype in ("float32", "bfloat16"):
        optimizer = make_optimizer(OptimizerConfig(learning_rate=0.05, warmup_fraction=0.0, moment_dtype=dtype), 100)
        now, state[dtype] = params, optimizer.init(params)
        for _ in range(20):
            updates, state[dtype] = optimizer.update(now, state[dtype], now)  # of the loss w * w / 2
            now = optax.apply_updates(now, updates)
        ends[dtype] = now["w"]
    dtypes = {name: optax.tree.get(part, "mu")["w"].dtype for name, part in state.items()}
    assert dtypes == {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    assert optax.tree.get(state["bfloat16"], "nu")["w"].dtype == jnp.float32
    np.testing.assert_allclose(ends["bfloat16"], ends["float32"], atol=3e-2)  # of a way of 1
    assert np.any(ends["bfloat16"] != ends["float32"])
