import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def publish_nano(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    spec = importlib.util.spec_from_file_location("publish_nano", ROOT / "scripts" / "publish_nano.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_a_failed_command_ends_it(publish_nano: ModuleType) -> None:
    assert set(publish_nano.command("score", "--help")) == {"wall_seconds", "cpu_seconds"}
    with pytest.raises(Exception, match="exit status"):
        publish_nano.command("score", "--no_such_flag")
