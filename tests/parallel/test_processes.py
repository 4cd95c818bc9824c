import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecomgpt_jax.errors import ConfigError, StorageError
from ecomgpt_jax.parallel import processes


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def test_alone_without_a_coordinator() -> None:
    processes.join("", None, None, 10)


@pytest.mark.parametrize(
    ("coordinator", "count", "number", "words"),
    [
        ("", 2, 0, "--coordinator=host:port"),
        ("somewhere", 2, 0, "host:port"),
        ("a b:80", 2, 0, "host:port"),
        ("host:8476", None, 0, "--num_processes"),
        ("host:8476", 2, None, "--process_id"),
        ("host:8476", 2, 2, "--process_id"),
    ],
)
def test_flags_that_do_not_fit_together(coordinator: str, count: int | None, number: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        processes.join(coordinator, count, number, 10)


@pytest.mark.parametrize(("number", "words"), [(0, "missing: process 1, 2"), (1, "process 0 does not answer")])
def test_a_process_that_stays_alone_says_so(number: int, words: str) -> None:
    with pytest.raises(StorageError, match=f"not all processes met within 1 s .*{words}"):
        processes.join(f"localhost:{free_port()}", 3, number, 1)


def test_a_port_in_use() -> None:
    with socket.create_server(("", 0)) as taken, pytest.raises(StorageError, match="in use"):
        processes.join(f"localhost:{taken.getsockname()[1]}", 2, 0, 1)


JOIN = """
import sys
from ecomgpt_jax.parallel import processes
processes.join(sys.argv[1], 2, int(sys.argv[2]), 60)
import jax
processes.wait_for_all("here")
found = processes.broadcast_json({"from": jax.process_index(), "text": "ü" * (3 - jax.process_index())})
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
    said = [process.communicate(timeout=120)[0].splitlines()[-1] for process in pair]  # gloo speaks before
    assert said == [f"{i} 2 2 {{'from': 0, 'text': 'üüü'}}" for i in range(2)]


def test_alone_a_value_is_its_own() -> None:
    assert processes.broadcast_json({"a": [1, None]}) == {"a": [1, None]}


COMPILE = """
import sys, jax
from pathlib import Path
from ecomgpt_jax.parallel import processes
processes.keep_compiled(Path(sys.argv[1]))
print(float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.eye(8))))
"""


def test_compiled_programs_are_kept_and_found(tmp_path: Path) -> None:
    def run() -> set[str]:
        result = subprocess.run([sys.executable, "-c", COMPILE, tmp_path], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "8.0"
        return {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")}

    first = run()
    assert first
    assert run() == first


TURN = """
import sys, time
from pathlib import Path
from ecomgpt_jax.parallel import processes
with processes.one_at_a_time(Path(sys.argv[1])):
    made = Path(sys.argv[1]) / "made"
    print("found" if made.exists() else "makes", flush=True)
    time.sleep(0.5)
    made.touch()
"""


def test_processes_take_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TURN, tmp_path]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    started = time.monotonic()
    assert sorted(process.communicate(timeout=120)[0].strip() for process in both) == ["found", "makes"]
    assert time.monotonic() - started > 0.9
