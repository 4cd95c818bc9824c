import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TINY = ("embed=32", "layers=1", "heads=2")


@pytest.mark.slow
def test_the_tour_runs_to_its_end(tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable, "scripts/tour.py", f"--out={tmp_path}", "--config.train.max_steps=6",
            "--config.data.instances_per_task=5", "--config.eval.limit=1", "--config.data.tokenizer_vocab=600",
            *(f"--config.model.{setting}" for setting in TINY),
        ],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for part in (" training instances", "\n>>> ", "loss ", "best baseline", "better than before training on"):
        assert part in result.stdout
    assert (tmp_path / "loss.svg").read_text().count("<path") > 2
    assert (tmp_path / "answers.jsonl").read_text().count("\n") == 1
