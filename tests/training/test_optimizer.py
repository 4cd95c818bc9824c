import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ecomgpt_jax.config import OptimizerConfig
from ecomgpt_jax.training.optimizer import make_optimizer, make_schedule


def paper_rate(step: int, total: int, peak: float = 2e-5) -> float:
    warmup = math.ceil(0.03 * total)
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize("total", [10, 100, 1000])
def test_warm_up_then_cosine_to_zero(total: int) -> None:
    schedule = make_schedule(OptimizerConfig(), total)
    for step in range(0, total + 1, max(1, total // 20)):
        assert float(schedule(step)) == pytest.approx(paper_rate(step, total), rel=1e-4, abs=1e-11)
    assert float(schedule(total)) == 0


def test_one_step_runs_are_possible() -> None:
    assert float(make_schedule(OptimizerConfig(), 1)(0)) > 0


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
