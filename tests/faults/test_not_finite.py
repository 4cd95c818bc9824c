"""A batch whose loss is NaN, through the real train step: nothing that is not finite ever reaches the parameters."""

from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from loaded import load_checkpoint
from survivor import losses, run
from toy import toy_config

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model import step_files
from ecomgpt_jax.training.progress import read_metrics


def saved(workdir: Path, step: int) -> list[np.ndarray]:
    params = load_checkpoint(epath.Path(workdir / "checkpoints" / str(step)))[0]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_a_bad_step_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_FAULT", "nan@step3")
    config = toy_config(max_steps=5, keep=9)
    run(tmp_path, config, devices=2)
    assert sorted(losses(tmp_path)) == [1, 2, 4, 5]
    assert [line["train/skipped"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 0, 1, 1, 1]
    assert all(map(np.array_equal, saved(tmp_path, 2), saved(tmp_path, 3)))
    assert not all(map(np.array_equal, saved(tmp_path, 3), saved(tmp_path, 4)))
    for step in range(1, 6):
        assert all(np.isfinite(leaf).all() for leaf in saved(tmp_path, step))


def test_too_many_in_a_row_stop_with_finite_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_FAULT", "nan@step3,nan@step4,nan@step5,nan@step6")
    config = toy_config(max_steps=6, keep=9, skip_nonfinite=2)
    with pytest.raises(DataError, match=r"step 5, rows 16 to 19: .* 3 steps in a row"):
        run(tmp_path, config, devices=2)
    dumped = np.load(tmp_path / "bad_batch-5.npz", allow_pickle=False)
    assert dumped["rows"].tolist() == [16, 17, 18, 19]
    newest = step_files.list_steps(tmp_path)[-1]
    assert newest in (5, 6)
    assert all(map(np.array_equal, saved(tmp_path, 2), saved(tmp_path, newest)))
    monkeypatch.delenv("ECOMGPT_FAULT")
    run(tmp_path, config, devices=2)  # goes on behind the bad rows
    assert all(np.isfinite(leaf).all() for leaf in saved(tmp_path, 6))
