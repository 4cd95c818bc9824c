"""The same seed gives the same data, prompts, losses and predictions in any folder and for any way of starting."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    f"--config={ROOT / 'configs' / 'demo.py'}",
    "--config.data.synthetic_records=60",
    "--config.data.instances_per_task=8",
    "--config.data.tokenizer_vocab=600",
    "--config.model.embed=32",
    "--config.model.layers=1",
    "--config.model.heads=2",
    "--config.model.initializer_range=0.5",  # so that answers depend on their prompts
    "--config.train.rows_per_device=1",
    "--config.train.max_steps=20",
    "--config.train.log_every=1",
    "--config.eval.limit=3",
    "--config.eval.max_new_tokens=12",
)


def run(folder: Path, *arguments: str, **environment: str) -> dict[str, str]:
    """Trains from nothing in a folder of its own; returns the hash of each thing the run made."""
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("ECOMGPT_")}
    places = (f"--workdir={folder / 'w'}", f"--config.data.cache_dir={folder / 'cache'}")
    command = [sys.executable, "-m", "ecomgpt_jax.train", *SMALL, *places, *arguments]
    result = subprocess.run(
        command, cwd=folder, env=env | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [json.loads(line) for line in (folder / "w" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 20
    (built,) = (folder / "cache").glob("datasets/*/built.json")
    predictions = sorted((folder / "w" / "evaluation").glob("*/predictions/*.jsonl"))
    assert len(predictions) == 2 * 12  # before training too, when answers differ most
    scores = json.loads((folder / "w" / "evaluation" / "after" / "scores.json").read_text())
    return {
        "data": json.loads(built.read_text())["fingerprint"],
        "prompts": scores["protocol"]["sha256"],
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest(),
        "predictions": hashlib.sha256(b"".join(path.read_bytes() for path in predictions)).hexdigest(),
    }


@pytest.mark.slow
def test_one_hash_for_everything(tmp_path: Path) -> None:
    first = run(tmp_path / "first", PYTHONHASHSEED="0", LC_ALL="C.UTF-8")
    # jaxlib cannot be imported from a path that the locale cannot write.
    locale = "C" if f"{ROOT}{sys.executable}".isascii() else "C.UTF-8"
    elsewhere = {"PYTHONHASHSEED": "1", "LC_ALL": locale, "PYTHONUTF8": "0", "TZ": "Asia/Tokyo"}
    assert run(tmp_path / "a second folder", "--config.data.workers=4", **elsewhere) == first
    other = run(tmp_path / "another seed", "--config.data.seed=2", PYTHONHASHSEED="0")
    assert all(other[name] != first[name] for name in ("data", "losses", "predictions"))
