import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest
from toy import toy_config

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, ModelConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.training import checkpoint, resume, saving
from ecomgpt_jax.training.train_step import TrainState

RUN = {"data": "d", "total_steps": 9, "rows_per_step": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("resume")
    meta = {"config": config_lib.to_dict(toy_config()), "run": RUN, "next_row": 0}
    with saving.Checkpoints(workdir, 9) as checkpoints:
        for step in (3, 7):
            checkpoints.save(TrainState(jnp.int32(step), {"w": jnp.arange(4.0)}, {}), meta | {"next_row": 4 * step})
        checkpoints.wait()
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def drifted(path: str, value: object) -> Config:
    config = toy_config()
    section, _, field = path.rpartition(".")
    setattr(getattr(config, section) if section else config, field, value)
    return config


def test_the_newest_is_taken_with_its_cursor(workdir: Path) -> None:
    start = resume.find_start(workdir, toy_config(), RUN)
    assert (start.directory.name, start.meta["next_row"]) == ("7", 28)
    assert resume.find_start(workdir / "nowhere", toy_config(), RUN) is None


def other(path: str) -> object:
    """Returns another value for a field, of its type."""
    value = config_lib.field_paths(toy_config())[path]
    if isinstance(value, bool):
        return not value
    return {int: 7, float: 0.77, str: "elsewhere", tuple: ("elsewhere",)}[type(value)]


def fields(kind: str) -> list[str]:
    return [path for path, its in resume.FIELDS.items() if its == kind and path not in RUN]


def test_every_field_is_classed() -> None:
    assert set(resume.FIELDS) == {*config_lib.field_paths(Config()), *RUN}
    assert set(resume.FIELDS.values()) == {resume.HARD, resume.FIXED, resume.DATA, resume.SOFT}


@pytest.mark.parametrize("path", fields(resume.HARD))
def test_a_hard_field_is_refused_unless_allowed(workdir: Path, path: str) -> None:
    value = other(path)
    config = drifted(path, value)
    with pytest.raises(ConfigError) as caught:
        resume.find_start(workdir, config, RUN)
    old = config_lib.field_paths(toy_config())[path]
    assert f"{path}={old}, this run has {value}; restore" in str(caught.value)
    assert f"--allow_drift={path}," in str(caught.value)
    assert resume.find_start(workdir, config, RUN, [path]).directory.name == "7"
    another = "optimizer.epsilon" if path != "optimizer.epsilon" else "optimizer.b2"
    with pytest.raises(ConfigError):
        resume.find_start(workdir, config, RUN, [another])


@pytest.mark.parametrize("path", fields(resume.SOFT) + fields(resume.DATA))
def test_a_soft_field_is_mentioned_and_so_is_one_of_the_same_data(
    workdir: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    assert resume.find_start(workdir, drifted(path, other(path)), RUN).directory.name == "7"
    assert f"{path}=" in caplog.text


@pytest.mark.parametrize("path", fields(resume.DATA))
def test_a_field_that_changed_the_data_is_refused_by_name(workdir: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=f"{path}=.*--allow_drift=.*{path}"):
        resume.find_start(workdir, drifted(path, other(path)), RUN | {"data": "e"})


@pytest.mark.parametrize("path", fields(resume.FIXED))
def test_a_fixed_field_cannot_be_allowed(workdir: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=f"{path}=.*; restore the old settings, or use another"):
        resume.find_start(workdir, drifted(path, other(path)), RUN)
    with pytest.raises(ConfigError, match="cannot go on with another"):
        resume.check_drift_names([path])


def test_where_the_data_is_made_by_how_many_and_from_where_is_no_drift(workdir: Path) -> None:
    """These cannot change what the run learns."""
    config = toy_config()
    config.data.workers, config.data.beam_options = 0, ("--runner=DirectRunner",)
    config.data.files, config.data.sources_dir = ("moved/to/mine.jsonl",), "moved"
    assert resume.find_start(workdir, config, RUN).directory.name == "7"


def test_nothing_is_said_where_nothing_changed(workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    resume.find_start(workdir, toy_config(), RUN)
    assert caplog.text == ""


def test_other_data_is_refused_unless_allowed(workdir: Path) -> None:
    with pytest.raises(ConfigError, match="data=d, this run has e; restore the old settings, allow it with"):
        resume.find_start(workdir, toy_config(), RUN | {"data": "e"})
    assert resume.find_start(workdir, toy_config(), RUN | {"data": "e"}, ["data"])


def test_shapes_and_rows_a_step_cannot_be_allowed(workdir: Path) -> None:
    with pytest.raises(ConfigError, match="embed=32, this run has 64; restore the old settings, or use another"):
        resume.find_start(workdir, drifted("model.embed", 64), RUN)
    with pytest.raises(ConfigError, match="rows_per_step=4, this run has 8"):
        resume.find_start(workdir, toy_config(), RUN | {"rows_per_step": 8})
    with pytest.raises(ConfigError, match="cannot go on with another rows_per_step"):
        resume.check_drift_names(["rows_per_step"])
    with pytest.raises(ConfigError, match=r"no such field, did you mean 'train\.seed'"):
        resume.check_drift_names(["train.sed"])


def test_a_field_younger_than_the_checkpoint_had_its_default() -> None:
    values = config_lib.to_dict(toy_config())
    del values["train"]["skip_nonfinite"]
    assert resume.find_drift({"config": values, "run": RUN}, toy_config(), RUN) == {}


def damage(step: Path, kind: str) -> None:
    array = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if kind == "truncated":
        array.write_bytes(array.read_bytes()[:-1])
    elif kind == "file gone":
        array.unlink()
    elif kind == "manifest gone":
        (step / "manifest.json").unlink()
    elif kind == "metadata gone":
        (step / "params" / "_METADATA").unlink()
    else:
        shutil.rmtree(step)
        step.mkdir()


@pytest.mark.parametrize("kind", ["truncated", "file gone", "manifest gone", "metadata gone", "empty"])
def test_a_damaged_step_is_moved_aside_for_the_one_before(
    workdir: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(workdir / "checkpoints" / "7", kind)
    assert resume.find_start(workdir, toy_config(), RUN).directory.name == "3"
    assert (workdir / "quarantine" / "7").is_dir()
    assert f"{workdir / 'checkpoints' / '7'}: " in caplog.text
    damage(workdir / "checkpoints" / "3", kind)
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        resume.find_start(workdir, toy_config(), RUN)


def test_strangers_are_passed_over(workdir: Path) -> None:
    (workdir / "checkpoints" / "9").mkdir()
    (workdir / "checkpoints" / "11.txt").write_text("mine")
    (workdir / "checkpoints" / "7" / "notes.txt").write_text("mine")
    assert resume.find_start(workdir, toy_config(), RUN).directory.name == "7"


def test_resume_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        resume.prepare_workdir(tmp_path / "new", "require")
    assert not (tmp_path / "new").exists()


def test_never_puts_the_earlier_run_aside(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "checkpoints" / "5").mkdir(parents=True)
        (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": number}))
        resume.prepare_workdir(tmp_path, "require")
        resume.prepare_workdir(tmp_path, "auto")
        assert (tmp_path / "metrics.jsonl").is_file()
        resume.prepare_workdir(tmp_path, "never")
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"previous-{n}" for n in range(1, number + 1)]
        assert (tmp_path / f"previous-{number}" / "checkpoints" / "5").is_dir()


def test_never_moves_all_that_the_earlier_run_left_and_its_number_is_free(tmp_path: Path) -> None:
    left = {"tokenizer/tokenizer.json", "config.json", "trained_on.json", "quarantine/5/meta", "profile/trace"}
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "previous-2").mkdir()  # the first was deleted
    (tmp_path / "previous-best").mkdir()  # somebody's own
    (tmp_path / "notes.txt").write_text("mine")
    resume.prepare_workdir(tmp_path, "never")
    moved = tmp_path / "previous-3"
    assert {str(path.relative_to(moved)) for path in moved.rglob("*") if path.is_file()} == left
    assert {path.name for path in tmp_path.iterdir()} == {"previous-2", "previous-3", "previous-best", "notes.txt"}


def test_never_refuses_to_move_what_the_run_reads(tmp_path: Path) -> None:
    for model in (ModelConfig(init_from=str(tmp_path)), ModelConfig(tokenizer=str(tmp_path / "tokenizer"))):
        with pytest.raises(ConfigError, match=r"^model\.\w+=.*: --resume=never would move it aside"):
            resume.check_inputs_stay(tmp_path, model)
    resume.check_inputs_stay(tmp_path, ModelConfig(init_from=str(tmp_path / "previous-1")))


def test_every_process_refuses_where_process_0_found_nothing_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 0 may have moved the last damaged step aside before another process looks."""
    told = {0: 2, None: None}  # this process sees no step; process 0 saw two, and none of them whole
    monkeypatch.setattr(resume, "from_first", lambda make: told[make()])
    monkeypatch.setattr(checkpoint.processes, "from_first", lambda make: told[make()])
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        resume.find_start(tmp_path, toy_config(), RUN)
