import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def test_random_weights_go_in_and_out_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # the script sets it for its own process
    spec = importlib.util.spec_from_file_location("weights_at_size", ROOT / "scripts" / "weights_at_size.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "MODEL_SHAPES", {"560m": {"embed": 16, "layers": 2, "heads": 2, "vocab_size": 64}})
    monkeypatch.setattr(sys, "argv", ["weights_at_size.py", "--folder", str(tmp_path)])
    script.main()
    result = json.loads(capsys.readouterr().out)
    assert result["bit_equal"] is True
    assert result["size"] == "560m"
    assert not list(tmp_path.iterdir())

    written = tmp_path / "one"
    model = script.ModelConfig(size="560m", **script.MODEL_SHAPES["560m"])
    script.make(model, written)
    changed = tmp_path / "other"
    script.make(model, changed)
    assert script.same(written, changed)
    weights = sorted(changed.glob("part-*"))[0]
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert not script.same(written, changed)
