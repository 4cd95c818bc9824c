"""A command in forks of one process, for tests that run it many times: importing it costs more than such a run.

As a program, `forked.py MODULE` imports a command, uses no device, and runs it in a fork for each line it reads: a JSON
list of a folder, which gets `stdout` and `stderr`, and the arguments. It answers with the exit code.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ecomgpt_jax import cli

ROOT = Path(__file__).parent.parent


class Command:
    """`command(*arguments)` runs `python -m MODULE *arguments` without an input; ends as a context manager."""

    def __init__(self, module: str, environment: Mapping[str, str] = os.environ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, module], cwd=ROOT, env={"PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            self._process.stdin.write(json.dumps([folder, [*map(str, arguments)]]) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            said = [Path(folder, name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(arguments, code, *said)


def main() -> None:
    """Serves until its input ends."""
    module = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        folder, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
            sys.argv = [module.__file__, *arguments]
            cli.run(module.main)  # ends the process
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
