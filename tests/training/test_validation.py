import json
import logging
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from test_loop import MESH, start
from toy import toy_config, toy_rows

from ecomgpt_jax.config import Config, LoraConfig, MeshConfig
from ecomgpt_jax.data.pipeline import make_rows
from ecomgpt_jax.errors import ConfigError, PreemptedError
from ecomgpt_jax.model import decoder, lora
from ecomgpt_jax.model.step_files import read_meta
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import loop, validation
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.progress import read_metrics
from ecomgpt_jax.training.train_step import TrainState, init_state

GROUPS = {("en", "CLS"): range(0, 6), ("zh", "CLS"): range(6, 8), ("zh", "NER"): range(8, 18)}
NAMES = ["val/loss", "val/loss/CLS", "val/loss/NER", "val/loss/en", "val/loss/zh"]
STORE = toy_rows(4, 18).store


def held_back(rows_per_batch: int) -> validation.HeldBack:
    config = toy_config()
    return {
        group: make_rows(STORE.take(list(members)), config.data, 1, rows_per_batch) for group, members in GROUPS.items()
    }


def plain_losses(config: Config, params: object) -> dict[str, float]:
    """The same losses instance by instance: no packing, no batch, logits and softmax written out."""
    forward = jax.jit(lambda params, inputs, segments: decoder.forward(params, inputs, segments, config.model))
    sums = {name: np.zeros(2) for name in NAMES}
    for group, members in GROUPS.items():
        for i in members:
            tokens = np.asarray(STORE.tokens[STORE.offsets[i] : STORE.offsets[i + 1]])
            length = len(tokens) - 1
            row, segments = np.zeros((2, 1, 32), np.int32)
            row[0, :length], segments[0, :length] = tokens[:-1], 1
            hidden = np.asarray(forward(params, row, segments)[0, :length], np.float64)
            logits = hidden @ np.asarray(params["embedding"]["table"], np.float64).T
            losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), tokens[1:]]
            answer = losses[STORE.prompt_lengths[i] - 1 :]
            for name in ("val/loss", *(f"val/loss/{part}" for part in group)):
                sums[name] += answer.sum(), len(answer)
    return {name: total / count for name, (total, count) in sums.items()}


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2)])
def test_losses_by_language_and_family_on_any_mesh(shape: tuple[int, int, int]) -> None:
    config, mesh = toy_config(), make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    config.model.initializer_range = 0.3
    with jax.set_mesh(mesh):
        state = init_state(config, make_optimizer(config.optimizer, 10), mesh)
        rows = loop.micro_batch_rows(config, mesh)
        found = validation.make_validate(config, held_back(rows), rows, mesh)(state)
    expected = plain_losses(config, jax.device_get(state.params))
    assert sorted(found) == validation.metric_names(held_back(rows)) == NAMES
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert abs(found["val/loss/en"] - found["val/loss/zh"]) > 1e-3


def test_adapters_count_and_nothing_is_dropped() -> None:
    config = toy_config()
    config.lora = LoraConfig(rank=2, dropout=0.9)
    config.model.initializer_range = 0.3
    with jax.set_mesh(MESH):
        state = init_state(config, make_optimizer(config.optimizer, 10), MESH)
        rows = loop.micro_batch_rows(config, MESH)
        validate = validation.make_validate(config, held_back(rows), rows, MESH)
        plain = validate(state)
        trained = state._replace(params=jax.tree.map(lambda leaf: leaf + 0.1, state.params))
        found = validate(trained)
        assert found == validate(trained)
        merged = lora.merge(trained.base, lora.make_adapters(trained.params, config.lora), "float32")
        expected = plain_losses(config, jax.device_get(merged))
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=1e-4)
    assert found["val/loss"] != plain["val/loss"]


def test_it_comes_every_so_many_steps_and_at_the_last_and_changes_nothing(tmp_path: Path) -> None:
    config = toy_config(max_steps=5, validate_every=2, log_every=3)
    rows = loop.micro_batch_rows(config, MESH)
    start(tmp_path / "w", config, held_back=held_back(rows), evaluate=lambda params: {})
    lines = {line["step"]: line for line in read_metrics(tmp_path / "w" / "metrics.jsonl")}
    assert [step for step, line in lines.items() if set(NAMES) <= set(line)] == [2, 4, 5]
    assert not any(name in lines[3] for name in NAMES)
    start(tmp_path / "plain", toy_config(max_steps=5, validate_every=0), held_back=held_back(rows))
    plain = {line["step"]: line for line in read_metrics(tmp_path / "plain" / "metrics.jsonl")}
    assert not any(name in line for line in plain.values() for name in NAMES)
    assert lines[5]["train/loss"] == pytest.approx((plain[5]["train/loss"]), rel=1e-6)


def test_a_checkpoint_has_the_loss_of_its_own_step_and_the_best_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(max_steps=6, save_every=1, validate_every=2, keep=2, best_metric="val/loss")
    losses = {2: 1.0, 4: 3.0, 6: 2.0}
    monkeypatch.setattr(validation, "make_validate", lambda *_: lambda state: {"val/loss": losses[int(state.step)]})
    start(tmp_path, config, held_back=held_back(loop.micro_batch_rows(config, MESH)))
    kept = {int(path.name): epath.Path(path) for path in (tmp_path / "checkpoints").iterdir()}
    found = {step: read_meta(path)["metrics"].get("val/loss") for step, path in sorted(kept.items())}
    assert found == {2: 1.0, 5: None, 6: 2.0}


def test_a_step_whose_loss_the_next_start_measured_can_be_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(max_steps=6, save_every=1, validate_every=2, keep=1, best_metric="val/loss")
    losses, signals = {2: 1.0, 4: 3.0, 6: 2.0}, [2]

    def validate(state: TrainState) -> dict[str, float]:
        if int(state.step) in signals:
            signals.clear()
            signal.raise_signal(signal.SIGTERM)
        return {"val/loss": losses[int(state.step)]}

    monkeypatch.setattr(validation, "make_validate", lambda *_: validate)
    rows = held_back(loop.micro_batch_rows(config, MESH))
    with pytest.raises(PreemptedError, match="saved at step 2;"):
        start(tmp_path, config, held_back=rows)
    start(tmp_path, config, held_back=rows)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "6"]


@pytest.mark.parametrize(("kind", "at"), [("val", 2), ("val", 5), ("eval", 4)])
def test_a_signal_ends_a_measurement_which_the_next_start_repeats(
    kind: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines that are taken back leave half a minute, and measurements take many."""
    config = toy_config(max_steps=5, validate_every=2, save_every=5, log_every=1)
    config.eval.every, config.lora = 2, LoraConfig(rank=2) if kind == "eval" else config.lora
    rows = held_back(loop.micro_batch_rows(config, MESH))
    make, came, signals = validation.make_validate, [], [at]

    def measured(name: str, step: int) -> None:
        came.append((name, step))
        if name == kind and step in signals:
            signals.remove(step)
            signal.raise_signal(signal.SIGTERM)
            came.append("went on")

    def make_validate(*given: object) -> object:
        validate = make(*given)
        return lambda state: measured("val", int(state.step)) or validate(state)

    def evaluate(params: object) -> dict[str, float]:
        measured("eval", came[-1][1])  # the validation of the same step came before
        return {"eval/sum": float(sum(abs(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(params)))}

    monkeypatch.setattr(validation, "make_validate", make_validate)
    with pytest.raises(PreemptedError, match=f"saved at step {at};"):
        start(tmp_path / "w", config, held_back=rows, evaluate=evaluate)
    assert [line["step"] for line in read_metrics(tmp_path / "w" / "metrics.jsonl")] == list(range(1, at))
    for _ in range(2):  # the second start finds a finished run
        start(tmp_path / "w", config, held_back=rows, evaluate=evaluate)
    found = read_metrics(tmp_path / "w" / "metrics.jsonl")
    assert came.count((kind, at)) == 2
    assert "went on" not in came
    monkeypatch.setattr(validation, "make_validate", make)
    start(tmp_path / "whole", config, held_back=rows, evaluate=evaluate)
    whole = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    names = {"step", "train/loss", *NAMES, "eval/sum"}
    assert [{name: line[name] for name in names & set(line)} for line in found] == [
        {name: line[name] for name in names & set(line)} for line in whole
    ]
    assert {name for line in found for name in line} > names


def check(metric: str, **train: int) -> None:
    config = toy_config(best_metric=metric, **{"save_every": 4, "validate_every": 2} | train)
    config.eval.every = 2
    validation.check_best_metric(config, held_back(2), ["eval/T/score", "eval/average/score"])


@pytest.mark.parametrize("metric", ["", "train/loss", *NAMES])
def test_metrics_that_steps_have(metric: str, caplog: pytest.LogCaptureFixture) -> None:
    check(metric)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("metric", "train", "words"),
    [
        ("train/los", {}, "no measure of this run's steps, did you mean 'train/loss'"),
        ("loss", {}, "no measure of this run's steps"),
        ("perf/mfu", {}, "no measure"),
        *((f"train/{name}", {}, "no measure") for name in ("grad_norm", "learning_rate", "tokens", "skipped")),
        ("val/loss/Extract", {}, "no measure"),
        ("val/loss", {"validate_every": 0}, r"train\.validate_every=0"),
        ("eval/U/score", {}, "did you mean 'eval/T/score'"),
        ("val/loss", {"save_every": 3}, r"every 2 steps .* every 3; make train\.save_every a multiple"),
        ("eval/T/score", {"save_every": 5}, r"multiple of eval\.every"),
    ],
)
def test_a_metric_that_saved_steps_lack_is_refused(metric: str, train: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(metric, **train)


def test_choosing_by_a_held_out_task_is_said_to_be_selection_on_the_test_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        check("eval/T/score")
    assert "selection on the test set" in caplog.text


def test_a_large_split_is_sampled_alike_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecomgpt_jax.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a b c d e f"] * 9, 300, tmp_path / "tokenizer")
    config = toy_config()
    config.data.cache_dir = str(tmp_path)
    split = [
        {"prompt": f"p {i}", "response": f"r {i}", "language": "zh" if i % 3 else "en", "family": "CLS"}
        for i in range(40)
    ]
    every = validation.hold_back(split, "f", tokenizer, config, 2)
    assert {group: len(rows.store) for group, rows in every.items()} == {("en", "CLS"): 14, ("zh", "CLS"): 26}
    monkeypatch.setattr(validation, "INSTANCES", 10)
    few = [validation.hold_back(split, "f", tokenizer, config, 2) for _ in range(2)]
    assert sum(len(rows.store) for rows in few[0].values()) == 10
    taken = [json.dumps([rows.store.tokens.tolist() for rows in each.values()]) for each in few]
    assert taken[0] == taken[1]
    assert validation.hold_back([], "f", tokenizer, config, 2) == {}


def test_unseen_tasks_have_a_loss_of_their_own_that_is_in_no_other(tmp_path: Path) -> None:
    from ecomgpt_jax.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a b c d e f"] * 9, 300, tmp_path / "tokenizer")
    config = toy_config()
    config.data.cache_dir = str(tmp_path)
    config.model.vocab_size = 512
    split = [
        {"prompt": f"p {i}", "response": f"r {i}", "language": "en", "family": "CLS", "task": "ab"[i % 2]}
        for i in range(12)
    ]
    alone = validation.hold_back(split[::2], "alone", tokenizer, config, 2)
    both = validation.hold_back(split, "both", tokenizer, config, 2, ["b"])
    assert {group: len(rows.store) for group, rows in both.items()} == {("en", "CLS"): 6, validation.UNSEEN: 6}
    names = ["val/loss", "val/loss/CLS", "val/loss/en"]
    assert (validation.metric_names(alone), validation.metric_names(both)) == (names, [*names, "val/loss/unseen"])
    with jax.set_mesh(MESH):
        state = init_state(config, make_optimizer(config.optimizer, 2), MESH)
        found = [validation.make_validate(config, held, 2, MESH)(state) for held in (alone, both)]
    assert found[0] == {name: found[1][name] for name in names}
    assert found[1]["val/loss/unseen"] != found[1]["val/loss"]
