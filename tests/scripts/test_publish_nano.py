import importlib
import json
from pathlib import Path
from types import ModuleType

import jax
import pytest
from loaded import load_checkpoint

from ecomgpt_jax.config import EvalConfig, MeshConfig
from ecomgpt_jax.data.tokenizer import load_tokenizer
from ecomgpt_jax.evaluation.harness import answer_losses
from ecomgpt_jax.instruct.instructions import HEAD, fill
from ecomgpt_jax.model.decoder import init_params
from ecomgpt_jax.parallel.mesh import make_mesh

ROOT = Path(__file__).parents[2]
NANO = ROOT / "configs" / "nano"


@pytest.fixture
def publish_nano(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("publish_nano")


def test_the_log_of_a_run_has_its_size_and_a_thinned_curve(publish_nano: ModuleType, tmp_path: Path) -> None:
    def line(step: int) -> dict[str, float]:
        return {
            "step": step, "train/loss": 10 / step, "train/learning_rate": 1e-3, "train/tokens": 20.0,
            "train/targets": 5.0,
        }  # fmt: skip

    lines = [line(step) for step in range(10, 310, 10)] + [{"step": 300, "eval/loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    (tmp_path / "config.json").write_text(json.dumps({"name": "small"}))
    log = publish_nano.training_log(tmp_path, points=10)
    assert (log["config"], log["steps"], log["tokens"], log["targets"]) == ("small", 300, 600, 150)
    assert log["curve"][:2] == [
        {"step": 10, "loss": 1.0, "learning_rate": 1e-3},
        {"step": 40, "loss": 0.25, "learning_rate": 1e-3},
    ]
    assert len(log["curve"]) == 10


def test_the_log_of_an_evaluation_has_both_sides_and_the_baselines(publish_nano: ModuleType, tmp_path: Path) -> None:
    for name, score in (("before", 0.1), ("after", 0.4)):
        entry = {
            "rows": 7,
            "corrected": {"score": score},
            "official": {"micro-f1": 0.0},
            "baselines": {"majority": {"corrected": {"score": 0.3}}},
        }
        scores = {"protocol": {"sha256": "ab"}, "averages": {"All tasks": score}, "tasks": {"EN-a-CLS-b": entry}}
        folder = tmp_path / "evaluation" / name
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps(scores))
    assert publish_nano.evaluation_log(tmp_path) == {
        "protocol": {"sha256": "ab"},
        "averages": {"before": {"All tasks": 0.1}, "after": {"All tasks": 0.4}},
        "tasks": {
            "EN-a-CLS-b": {
                "rows": 7,
                "before": {"score": 0.1},
                "after": {"score": 0.4},
                "baselines": {"majority": 0.3},
            }
        },
    }


@pytest.mark.parametrize(("after", "words"), [(0.4, "above `majority`"), (0.2, "below `majority`")])
def test_the_card_says_what_it_is_worth(publish_nano: ModuleType, after: float, words: str) -> None:
    task = {
        "before": {"score": 0.1},
        "after": {"score": after},
        "baselines": {"majority": 0.3, "random": 0.2, "copy": 0.0},
    }
    averages = {name: {"All tasks": {"corrected": task[name]}} for name in ("before", "after")}
    section = publish_nano.limits({"protocol": {"limit": 24}, "averages": averages, "tasks": {"a": task, "b": task}})
    assert words in section
    assert f"24 rows each: 0.100 before tuning, {after:.3f} after" in section
    assert "(0.300)" in section


def test_a_failed_command_ends_it(publish_nano: ModuleType) -> None:
    assert set(publish_nano.command("score", "--help")) == {"wall_seconds", "cpu_seconds"}
    with pytest.raises(Exception, match="exit status"):
        publish_nano.command("score", "--no_such_flag")


def test_the_published_weights_are_what_their_logs_say(publish_nano: ModuleType) -> None:
    assert (NANO / "model.safetensors").stat().st_size <= 12_000_000
    params, model = load_checkpoint(NANO, make_mesh(MeshConfig(), jax.devices("cpu")[:1]))
    tokenizer = load_tokenizer(NANO)
    assert (model.embed, model.layers, model.vocab_size) == (192, 6, tokenizer.size)
    prompt = fill(HEAD, {"defi": "product matching"}) + "Item 1: Acme red drill\nItem 2: Acme drill, red\n"
    prompt += "Do the two items match? Candidates: match, not match\n### Response:\n"
    losses = [
        sum(answer_losses(each, model, tokenizer, [prompt] * 2, ["match", "not match"], EvalConfig(max_new_tokens=8)))
        for each in (params, init_params(model, jax.random.key(0)))
    ]
    assert losses[0] < losses[1] / 3  # fresh weights know nothing
    training, evaluation, families = (
        json.loads((NANO / name).read_text()) for name in ("training.json", "evaluation.json", "losses.json")
    )
    stages = [training[stage] for stage in publish_nano.STAGES]
    assert sum(stage["wall_seconds"] for stage in stages) < 30 * 60
    assert all(stage["curve"][0]["loss"] > stage["curve"][-1]["loss"] for stage in stages)
    assert len(evaluation["tasks"]) == 13
    assert any(row["after"] < row["before"] for row in families.values())
    card = (NANO / "README.md").read_text()
    assert f"{evaluation['averages']['after']['All tasks']['corrected']['score']:.3f} after" in card
    assert "synthetic_items_zh" in card


def test_the_published_base_repeats_a_text_and_shares_the_tokenizer(publish_nano: ModuleType) -> None:
    base = NANO.with_name("nano_base")
    assert (base / "model.safetensors").stat().st_size <= 12_000_000
    assert load_tokenizer(base).fingerprint == load_tokenizer(NANO).fingerprint
    assert (base / "README.md").read_text().endswith(publish_nano.BASE_CARD)
    params, model = load_checkpoint(base, make_mesh(MeshConfig(), jax.devices("cpu")[:1]))
    tokenizer, settings = load_tokenizer(base), EvalConfig(max_new_tokens=40)
    text, other = "红色纯棉短袖衬衫 Acme XL", "Two filters and a spare strap"
    copied, control = (
        answer_losses(params, model, tokenizer, [f"{shown}\n"], [text], settings)[0] for shown in (text, other)
    )
    assert copied < 1 < control / 4
