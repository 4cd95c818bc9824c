import errno
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import StorageError
from ecomgpt_jax.model import manifest
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import checkpoint, saving
from ecomgpt_jax.training.train_step import TrainState


def state(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {"w": jnp.arange(4.0)}, {"m": jnp.zeros(4)})


def names(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def save(workdir: Path, steps: dict[int, dict[str, float]], keep: int = 2, best: str = "") -> None:
    with saving.Checkpoints(workdir, keep, best) as checkpoints:
        for step, metrics in steps.items():
            checkpoints.save(state(step), {"metrics": metrics})
        checkpoints.wait()


def test_the_newest_are_kept_sealed(tmp_path: Path) -> None:
    save(tmp_path, {3: {}, 7: {}, 12: {}})
    assert names(tmp_path) == ["12", "7"]
    for name in names(tmp_path):
        assert manifest.find_damage(epath.Path(tmp_path / "checkpoints" / name)) == ""


@pytest.mark.parametrize(
    ("metric", "kept"),
    [
        ("train/loss", "2"),
        ("val/loss/en", "2"),
        ("eval/all/score", "3"),
        ("eval/EN-glosses-CLS-x/score", "3"),
        ("never/seen", None),
    ],
)
def test_the_best_is_kept_too(tmp_path: Path, metric: str, kept: str | None) -> None:
    scores = {1: (math.nan, math.nan), 2: (1, 0.2), 3: (2, 0.9), 4: (2.5, 0.3), 5: (2.6, 0.2)}
    named = {
        step: {
            "train/loss": a, "val/loss": 3 - a, "val/loss/en": a, "eval/all/score": b, "eval/EN-glosses-CLS-x/score": b
        }
        for step, (a, b) in scores.items()
    }  # fmt: skip
    save(tmp_path, named, 1, metric)
    assert names(tmp_path) == [name for name in (kept, "5") if name]


def test_what_process_0_does_alone_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing the manifest, renaming and removing: a barrier of orbax or jax there would hang alone."""
    alone, reached = [], []
    prune, seal = saving.Checkpoints._prune, manifest.seal

    def watched(function: Callable) -> Callable:
        def call(*arguments: object) -> None:
            alone.append(True)
            try:
                function(*arguments)
            finally:
                alone.pop()

        return call

    def barrier(*arguments: object, **named: object) -> None:
        reached.append(bool(alone))

    monkeypatch.setattr(saving.Checkpoints, "_prune", watched(prune))
    monkeypatch.setattr(manifest, "seal", watched(seal))
    monkeypatch.setattr(multihost, "sync_global_processes", barrier)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", barrier)
    save(tmp_path, {1: {"score": 3}, 2: {"score": 1}, 3: {"score": 2}}, 1, "score")
    assert names(tmp_path) == ["1", "3"]
    assert reached  # a save itself does wait
    assert not any(reached)


@pytest.mark.parametrize(("slice_bytes", "cut"), [(saving._SLICE_BYTES, False), (8, True)])
def test_only_large_arrays_are_cut_among_their_replicas(
    slice_bytes: int, cut: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cut compiles a program, which made the first save of a small run its slowest part."""
    cuts, slice_in_dim = [], jax.lax.slice_in_dim
    monkeypatch.setattr(
        jax.lax, "slice_in_dim", lambda *given, **named: cuts.append(1) or slice_in_dim(*given, **named)
    )
    monkeypatch.setattr(saving, "_SLICE_BYTES", slice_bytes)
    whole = NamedSharding(make_mesh(MeshConfig()), PartitionSpec())
    saved = TrainState(jnp.int32(1), jax.device_put({"w": jnp.arange(16.0)}, whole), {})
    with saving.Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(saved, {})
        checkpoints.wait()
    assert bool(cuts) == cut
    restored = checkpoint.restore(epath.Path(tmp_path / "checkpoints" / "1"), saved)
    assert restored.params["w"].tolist() == list(range(16))


def test_leftovers_of_a_killed_run_are_removed_and_strangers_stay(tmp_path: Path) -> None:
    save(tmp_path, {3: {}})
    for name in ("4.partial", "4.partial.orbax-checkpoint-tmp", "mine", "9"):
        (tmp_path / "checkpoints" / name / "params").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    save(tmp_path, {5: {}, 6: {}, 7: {}}, keep=1)
    assert names(tmp_path) == ["7", "9", "mine", "notes.txt"]


def test_a_failed_save_is_one_warning_and_the_third_in_a_row_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ECOMGPT_TESTING", "1")
    monkeypatch.setenv("ECOMGPT_FAULT", "full@save2,full@save4,full@save5,full@save6")
    with saving.Checkpoints(tmp_path, 9) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(state(step), {})
        with pytest.raises(StorageError, match=r"no space left on the disk.*older steps are intact"):
            checkpoints.save(state(7), {})
    assert [record.message.count("the run continues") for record in caplog.records] == [1, 1, 1]
    assert names(tmp_path) == ["1", "3"]


def test_the_last_save_must_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_TESTING", "1")
    monkeypatch.setenv("ECOMGPT_FAULT", "full@save1")
    with pytest.raises(StorageError, match="no space left"):
        save(tmp_path, {1: {}})
    assert names(tmp_path) == []


def test_a_full_disk_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, {1: {}})
    monkeypatch.setattr(saving, "free_bytes", lambda folder: 1024.0 if "none" not in str(folder) else 0.0)
    save(tmp_path, {2: {}})
    monkeypatch.setattr(saving, "free_bytes", lambda folder: 20.0)
    with pytest.raises(StorageError, match=r"no space: 0\.0 MiB needed, 0\.0 MiB free"):
        save(tmp_path, {3: {}})
    assert names(tmp_path) == ["1", "2"]


def test_the_disk_itself_may_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(directory: epath.Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(manifest, "seal", refuse)
    with pytest.raises(StorageError, match="Read-only"):
        save(tmp_path, {1: {}})
    monkeypatch.undo()
    save(tmp_path, {1: {}})
    assert checkpoint.newest_valid(tmp_path).name == "1"
