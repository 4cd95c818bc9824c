import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import PARAMS, toy_config, toy_rows

from ecomgpt_jax.config import Config, MeshConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model import decoder
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import loop
from ecomgpt_jax.training.progress import Progress, read_metrics
from ecomgpt_jax.training.step_clock import StepClock

INSTANCES = 52
MESH = make_mesh(MeshConfig(2, 1, 1), jax.devices()[:2])


class Killed(BaseException):
    """Ends a run as a signal would: no handler of the code under test catches it."""


def losses(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["train/loss"] for line in read_metrics(workdir / "metrics.jsonl")}


def start(workdir: Path, config: Config | None = None, **kwargs: object) -> object:
    config = config or toy_config()
    workdir.mkdir(exist_ok=True)
    return loop.train(config, toy_rows(loop.rows_per_step(config, MESH), INSTANCES), MESH, workdir, **kwargs)


@pytest.fixture(scope="module", params=PARAMS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def whole(family: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, float], list[np.ndarray]]:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    params = start(workdir, toy_config(family))
    return losses(workdir), [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_the_run_learns_and_logs_each_step(whole: tuple[dict, list], family: str) -> None:
    values = list(whole[0].values())
    assert list(whole[0]) == list(range(1, len(values) + 1))
    assert len(values) >= 6
    assert values[-1] < 0.8 * values[0]


def test_killed_at_every_step_the_losses_stay_the_same(
    whole: tuple[dict, list], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, config, made, make = Progress.log, toy_config(family), [], loop.make_train_step
    # One program for all lives, since tracing it is half of such a run; `whole` made its own.
    monkeypatch.setattr(
        loop, "make_train_step", lambda *given: made[0] if made else made.append(make(*given)) or made[0]
    )
    for step in range(1, len(whole[0]) + 1):
        workdir = tmp_path / f"killed-{step}"

        def log(self: Progress, at: int, *rest: object, step: int = step) -> None:
            if at == step:
                raise Killed
            write(self, at, *rest)

        monkeypatch.setattr(Progress, "log", log)
        with pytest.raises(Killed):
            start(workdir, config)
        assert sorted(losses(workdir)) == list(range(1, step))
        monkeypatch.setattr(Progress, "log", write)
        params = start(workdir, config)
        assert losses(workdir) == whole[0]
        assert all(map(np.array_equal, jax.tree.leaves(params), whole[1]))


def test_another_order_would_be_seen(
    whole: tuple[dict, list], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a resume that starts the data over gives other losses."""
    config = toy_config(family)
    config.train.save_every = 2

    def log(self: Progress, at: int, *rest: object) -> None:
        if at == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "log", log)
        with pytest.raises(Killed):
            start(tmp_path, config)
    batches = loop.batches
    monkeypatch.setattr(loop, "batches", lambda rows, per_step, row, *host: batches(rows, per_step, 0, *host))
    start(tmp_path, config)
    resumed = losses(tmp_path)
    assert resumed[3] != whole[0][3]


def test_a_finished_run_is_not_trained_further(whole: tuple[dict, list], family: str, tmp_path: Path) -> None:
    start(tmp_path, toy_config(family))
    again = start(tmp_path, toy_config(family))
    assert losses(tmp_path) == whole[0]
    assert all(map(np.array_equal, jax.tree.leaves(again), whole[1]))


def test_train_step_compiles_once_resume_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = loop.make_train_step
    monkeypatch.setattr(loop, "make_train_step", lambda *args: made.append(make(*args)) or made[-1])
    config = toy_config(max_steps=5)
    start(tmp_path, config)
    (tmp_path / "checkpoints" / "5").rename(tmp_path / "gone")
    start(tmp_path, config)
    assert [step._cache_size() for step in made] == [1, 1]


def test_pretrained_weights_are_started_from(tmp_path: Path) -> None:
    config = toy_config(max_steps=1, log_every=5)
    params = decoder.init_params(config.model, jax.random.key(7))
    params["final_norm"]["scale"] *= 0  # every logit is zero, so the loss is log(vocab)
    with jax.set_mesh(MESH):
        params = jax.device_put(params, decoder.param_shardings(config.model, MESH))
    start(tmp_path, config, initial_params=lambda: params)
    assert losses(tmp_path)[1] == pytest.approx(np.log(64), rel=1e-5)


def test_a_run_of_another_shape_is_refused(tmp_path: Path) -> None:
    start(tmp_path, toy_config(max_steps=2))
    with pytest.raises(ConfigError, match=r"train\.max_steps=2, this run has 3; total_steps=2, this run has 3"):
        start(tmp_path, toy_config(max_steps=3))
    wider = toy_config(max_steps=2)
    wider.model.embed = 64
    with pytest.raises(ConfigError, match="embed=32, this run has 64"):
        start(tmp_path, wider)


def test_evaluation_comes_every_so_many_steps_and_changes_nothing(
    tmp_path: Path, family: str, whole: tuple[dict, list]
) -> None:
    config, seen = toy_config(family, max_steps=5), []
    config.eval.every = 2
    start(tmp_path / "w", config, evaluate=lambda params: seen.append(params) or {"eval/t/score": 1.0})
    lines = read_metrics(tmp_path / "w" / "metrics.jsonl")
    assert [line["step"] for line in lines if "eval/t/score" in line] == [2, 4]
    assert len(seen) == 2


def test_each_line_has_the_seconds_of_its_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th step takes n seconds here, however fast the machine is and whenever the host reads its metrics."""
    numbers = itertools.count(1)

    def read(clock: StepClock) -> dict[str, float]:
        seconds = next(numbers)
        return {"seconds": seconds, "data": seconds / 8, "step": seconds / 2, "host": seconds * 3 / 8, "checkpoint": 0}

    monkeypatch.setattr(StepClock, "read", read)
    start(tmp_path / "w", toy_config(max_steps=5, log_every=2, save_every=100))
    lines = read_metrics(tmp_path / "w" / "metrics.jsonl")
    assert [(line["step"], line["perf/seconds"]) for line in lines] == [(2, 1 + 2), (4, 3 + 4), (5, 5)]
    assert [line["perf/step_seconds"] for line in lines] == [0.75, 1.75, 2.5]
    assert all(line["perf/tokens_per_second"] == line["train/tokens"] / line["perf/seconds"] for line in lines)
