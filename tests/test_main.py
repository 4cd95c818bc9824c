import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ecomgpt_jax import __main__ as overview

PACKAGE = Path(overview.__file__).parent


def test_every_command_is_listed_with_what_it_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ecomgpt_jax"])
    overview.main()
    text = capsys.readouterr().out
    for path in PACKAGE.glob("*.py"):
        is_command = "if __name__ ==" in path.read_text() and path.name != "__main__.py"
        assert bool(re.search(rf"ecomgpt_jax\.{path.stem} +[A-Z]", text)) == is_command, path.name


@pytest.mark.parametrize("name", sorted(overview.commands()))
def test_help_of_every_command_begins_with_an_example(name: str) -> None:
    """`--help` prints the docstring (tests/test_cli.py), so the example has to stand there."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / f"{name}.py").read_text())) or ""
    assert re.search(rf"`python -m ecomgpt_jax\.{name} ", docstring)


def test_listing_imports_nothing_heavy() -> None:
    code = "import runpy, sys; sys.argv = ['x']; runpy.run_module('ecomgpt_jax'); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_command_as_an_argument_is_answered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ecomgpt_jax", "train"])
    with pytest.raises(SystemExit, match="2"):
        overview.main()
    assert "python -m ecomgpt_jax.train" in capsys.readouterr().err
