import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMAND = "import sys; from ecomgpt_jax import cli, errors; cli.run(lambda arguments: {})"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("statement", "code", "line"),
    [
        ("None", 0, ""),
        ("(_ for _ in ()).throw(errors.DataError('rows.jsonl:3:1:\\nbad'))", 65, "error: rows.jsonl:3:1: bad"),
        ("(_ for _ in ()).throw(errors.MissingInputError('x'))", 66, "error: x"),
        ("(_ for _ in ()).throw(errors.PreemptedError('x'))", 75, "error: x"),
        ("open('/nowhere/at/all')", 74, "error: No such file or directory: /nowhere/at/all"),
    ],
)
def test_expected_failures_are_one_line_and_a_code(statement: str, code: int, line: str) -> None:
    result = python(COMMAND.format(statement))
    assert (result.returncode, result.stderr.strip()) == (code, line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("stray", "--out=x"), "error: unexpected argument 'stray'; copy --out F"),
        ((), "error: --out is missing; copy --out F"),
        (("--out=x",), ""),
    ],
)
def test_stray_arguments_and_missing_flags_are_refused(arguments: tuple[str, ...], line: str) -> None:
    code = "from absl import flags; from ecomgpt_jax import cli; out = flags.DEFINE_string('out', '', '')"
    result = python(f"{code}\ncli.run(lambda arguments: cli.check_usage('copy --out F', arguments, out))", *arguments)
    assert (result.returncode, result.stderr.strip()) == (2 if line else 0, line)


def test_sigterm_ends_a_command_with_its_own_code_and_cleans_up(tmp_path: Path) -> None:
    work = f"""
import tempfile, time
from ecomgpt_jax import cli
def main(arguments):
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        print("at work", flush=True)
        time.sleep(600)
cli.run(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", work], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "at work\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert (process.returncode, errors.count("\n")) == (75, 1)
    assert errors.startswith("error: stopped by SIGTERM; start the same command again")
    assert list(tmp_path.iterdir()) == []


def test_sigterm_within_a_callback_of_the_garbage_collector_is_not_lost() -> None:
    """Python prints and drops an error that is raised there; other errors of callbacks are still printed."""
    work = """
import gc, signal, time
from ecomgpt_jax import cli
def main(arguments):
    gc.callbacks.append(lambda phase, info: signal.raise_signal(signal.SIGTERM) if phase == "stop" else 1 / 0)
    gc.collect()
    gc.callbacks.clear()
    time.sleep(60)
cli.run(main)
"""
    result = python(work)
    assert result.returncode == 75
    assert "ZeroDivisionError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: stopped by SIGTERM; start the same command again")


def test_a_bug_keeps_its_traceback() -> None:
    result = python(COMMAND.format("1 / 0"))
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


TRAIN = """
from ecomgpt_jax import cli
from ml_collections import config_flags
config = config_flags.DEFINE_config_file('config')
cli.run(lambda arguments: cli.load_config(config))
"""


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--config.optimizer.learning_rat=1",), "did you mean 'optimizer.learning_rate'?"),
        (("--config.model.sise=560m",), "did you mean 'model.size'?"),
        (("--confg=x",), "no such flag, did you mean 'config'?"),
        (("--config.train.epochs=many",), "invalid literal"),
        (("--config=configs/nothing_here.py",), "nothing_here.py"),
    ],
)
def test_what_is_misspelt_is_named_with_the_nearest(arguments: tuple[str, ...], hint: str) -> None:
    config = () if arguments[0].startswith("--config=") else ("--config=configs/demo.py",)
    result = python(TRAIN, *config, *arguments)
    assert result.returncode == 2
    assert hint in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_lists_take_texts_with_blanks_and_commas(tmp_path: Path) -> None:
    names = ("with blank.jsonl", "a, b.jsonl", "红 色.jsonl", "it's.jsonl", "2024.jsonl", "c.jsonl")
    for name in names:
        (tmp_path / name).write_text("{}")
    show = TRAIN.replace("cli.load_config(config))", "print(resolve(cli.load_config(config)).data.files))")
    show = f"from ecomgpt_jax.config import resolve{show}"
    asked = {name: ("=" + str(tmp_path / name), [name]) for name in names}
    asked["two"] = (f"={tmp_path / names[1]},{tmp_path / names[0]}, {tmp_path / names[5]}", [*names[1::-1], names[5]])
    asked["literal"] = (f"={(str(tmp_path / names[0]), str(tmp_path / names[1]))!r}", names[:2])
    asked["apart"] = (str(tmp_path / names[0]), names[:1])
    for given, expected in asked.values():
        arguments = [f"--config.data.files{given}"] if given[0] == "=" else ["--config.data.files", given]
        result = python(show, "--config=configs/own_data.py", *arguments)
        assert result.stdout == f"{tuple(str(tmp_path / name) for name in expected)}\n", result.stderr


def test_a_config_file_with_a_typo_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "typo.py"
    file.write_text(
        "from ecomgpt_jax.config import Config\n"
        "def get_config():\n    config = Config()\n    config.data.lenght = 3\n    return config\n"
    )
    result = python(TRAIN, f"--config={file}")
    assert result.returncode == 2
    assert "DataConfig has no field 'lenght', did you mean 'length'?" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_shows_an_example_and_ends_well() -> None:
    result = python(
        "import sys; sys.modules['__main__'].__doc__ = 'Does: `python -m x --y`.'\n"
        "from ecomgpt_jax import cli; cli.run(lambda arguments: 1 / 0)",
        "--help",
    )
    assert result.returncode == 0
    assert "python -m x --y" in result.stdout
