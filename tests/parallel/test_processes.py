import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ecomgpt_jax import waiting
from ecomgpt_jax.errors import ConfigError, StorageError
from ecomgpt_jax.parallel import processes


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def test_alone_without_a_coordinator() -> None:
    processes.init_distributed("", None, None, 10)


@pytest.mark.parametrize(
    ("coordinator", "count", "number", "words"),
    [
        ("", 2, 0, "--coordinator=host:port"),
        ("somewhere", 2, 0, "host:port"),
        ("a b:80", 2, 0, "host:port"),
        ("host:8476", None, 0, "--num_processes"),
        ("host:8476", 2, None, "--process_id"),
        ("host:8476", 2, 2, "--process_id"),
        ("auto", 2, None, "--coordinator=auto"),
    ],
)
def test_flags_that_do_not_fit_together(coordinator: str, count: int | None, number: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        processes.init_distributed(coordinator, count, number, 10)


@pytest.mark.parametrize(("number", "words"), [(0, "missing: process 1, 2"), (1, "process 0 does not answer")])
def test_a_process_that_stays_alone_says_so(number: int, words: str) -> None:
    with pytest.raises(StorageError, match=f"not all processes met within 1 s .*{words}"):
        processes.init_distributed(f"localhost:{free_port()}", 3, number, 1)


def test_a_port_in_use() -> None:
    with socket.create_server(("", 0)) as taken, pytest.raises(StorageError, match="in use"):
        processes.init_distributed(f"localhost:{taken.getsockname()[1]}", 2, 0, 1)


JOIN = """
import sys
from ecomgpt_jax.errors import ConfigError, EcomError
from ecomgpt_jax.parallel import processes
processes.init_distributed(sys.argv[1], 2, int(sys.argv[2]), 1800)
import jax
found = processes.from_first(lambda: {"from": jax.process_index(), "text": "ü" * 3})

def fail(error):
    assert jax.process_index() == 0
    raise error

for error in (ConfigError("ä" * 90), OSError(28, "full")):
    try:
        processes.from_first(lambda: fail(error))
    except EcomError as raised:
        print(type(raised).__name__, raised)
print(processes.any_process(False), processes.any_process(jax.process_index() == 1))
print(jax.process_index(), jax.process_count(), len(jax.devices()), found)
"""


def test_two_processes_meet() -> None:
    address = f"localhost:{free_port()}"
    environment = {**os.environ, "XLA_FLAGS": ""}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, address, str(i)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for i in range(2)
    ]
    said = [process.communicate()[0].splitlines() for process in pair]
    said = [[line for line in lines if "[Gloo]" not in line] for lines in said]
    both = [f"ConfigError {'ä' * 90}", "StorageError [Errno 28] full", "False True"]
    assert said == [[*both, f"{i} 2 2 {{'from': 0, 'text': 'üüü'}}"] for i in range(2)]


def test_alone_a_value_is_its_own() -> None:
    assert processes.from_first(lambda: {"a": [1, None]}) == {"a": [1, None]}
    assert [processes.any_process(flag) for flag in (False, True)] == [False, True]


COMPILE = """
import sys, jax
from pathlib import Path
from ecomgpt_jax.parallel import processes
processes.enable_compilation_cache(Path(sys.argv[1]))
print(float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.eye(8))))
"""


@pytest.mark.parametrize("named", ["", "elsewhere"])
def test_compiled_programs_are_kept_and_found(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named and str(tmp_path / named))
    folders = [tmp_path / "usual", tmp_path / "elsewhere"]

    def run() -> list[set[str]]:
        command = [sys.executable, "-c", COMPILE, folders[0]]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "8.0"
        return [{path.name for path in folder.glob("*-cache")} for folder in folders]

    first = run()
    assert [bool(names) for names in first] == [not named, bool(named)]
    assert run() == first


COMPILING = """
import sys, threading
from pathlib import Path
import jax
from ecomgpt_jax import waiting
from ecomgpt_jax.parallel import processes

class Told(waiting.Notice):
    open = 0
    def __init__(self, what):
        waiting.PATIENCE = 0.0
        Told.open += 1
        super().__init__(what)
        self._timer.join()  # the line is there before the compiler begins
    def end(self):
        Told.open -= 1

processes.Notice = Told
processes.enable_compilation_cache(Path(sys.argv[1]))
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
print(Told.open, "left")
"""


@pytest.mark.parametrize("number", [0, 1])
def test_who_waits_for_the_others_says_for_whom(
    number: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    address = f"localhost:{free_port()}"
    with pytest.raises(StorageError):
        processes.init_distributed(address, 3, number, 1)
    whom = f"process 1, 2 at port {address.split(':')[1]}" if number == 0 else f"process 0 at {address}"
    assert f"waiting for {whom}, up to 1 s" in caplog.messages


def test_a_long_compilation_is_told(tmp_path: Path) -> None:
    """Heard from jax itself, so a jax that no longer tells of compilations fails here."""
    done = subprocess.run([sys.executable, "-c", COMPILING, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr.count("waiting for programs to be compiled") == 1
    assert done.stdout == "0 left\n"
