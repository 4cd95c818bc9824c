import errno
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ecomgpt_jax import waiting
from ecomgpt_jax.errors import ConfigError, StorageError

LONG = 900  # seconds after which a line that does not come is a failure
HOLD = """
import sys
from ecomgpt_jax.waiting import file_lock
with file_lock(sys.argv[1], "nothing"):
    print("held", flush=True)
    sys.stdin.read()
"""
# Takes the lock, passes its file to a process that outlives it, and exits.
LEAVE = """
import fcntl, os, subprocess, sys
from ecomgpt_jax import waiting
lock = waiting.file_lock(sys.argv[1], "nothing")
lock.__enter__()
descriptor = next(n for n in map(int, os.listdir("/proc/self/fd")) if os.path.realpath(f"/proc/self/fd/{n}") == sys.argv[1])
child = subprocess.Popen(["sleep", "1000"], pass_fds=[descriptor], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
os._exit(0)
"""  # noqa: E501


class Lines(logging.Handler):
    """Collects what is logged and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.came.set()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Every wait prints its line at once, so that no test depends on time."""
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    handler, logger = Lines(), logging.getLogger()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def run(program: str, path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_who_waits_says_for_what_and_for_whom(tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "folder" / "a.lock"
    other = run(HOLD, path)
    assert other.stdout.readline() == "held\n"
    threading.Thread(target=lambda: (lines.came.wait(LONG), other.stdin.close())).start()
    with waiting.file_lock(path, "the other's work"):
        assert lines.lines == [f"waiting for the other's work: {path} is held by process {other.pid}"]
    assert other.wait() == 0
    assert path.read_text() == ""


def test_a_lock_without_waiting(tmp_path: Path, lines: Lines) -> None:
    other = run(HOLD, tmp_path / "a.lock")
    assert other.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), waiting.file_lock(tmp_path / "a.lock", "x", wait=False):
        pass
    other.communicate()
    with waiting.file_lock(tmp_path / "a.lock", "x", wait=False):
        assert str(os.getpid()) in (tmp_path / "a.lock").read_text()
    assert lines.lines == []


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    other = run(HOLD, tmp_path / ".lock")
    assert other.stdout.readline() == "held\n"
    words = f"{tmp_path}: another fetch (process {other.pid}) runs here; wait for it"
    with (
        pytest.raises(ConfigError, match=f"^{re.escape(words)}$"),
        waiting.only_one(tmp_path, "fetch", ConfigError, "wait for it"),
    ):
        pass
    other.communicate()
    with (
        pytest.raises(BlockingIOError, match="the body's"),
        waiting.only_one(tmp_path / "new", "fetch", ConfigError, "wait for it"),
    ):
        raise BlockingIOError("the body's")


def test_a_mount_without_locks_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(waiting.fcntl, "flock", flock)
    number = errno.ENOLCK
    with waiting.only_one(tmp_path, "training", StorageError, "wait for it"):
        pass
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"), waiting.only_one(tmp_path, "training", StorageError, "wait"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path, lines: Lines) -> None:
    other = run(HOLD, tmp_path / "a.lock")
    assert other.stdout.readline() == "held\n"
    other.kill()
    other.wait()
    with waiting.file_lock(tmp_path / "a.lock", "x"):
        assert lines.lines == []


def test_nobody_waits_for_himself(tmp_path: Path) -> None:
    with waiting.file_lock(tmp_path / "a.lock", "x"):  # noqa: SIM117
        with pytest.raises(StorageError, match=r"a\.lock: this process holds the lock already .*\(x\)"):
            with waiting.file_lock(tmp_path / "a.lock", "x"):
                pass


def test_another_thread_of_this_process_may_wait(tmp_path: Path, lines: Lines) -> None:
    took = threading.Event()

    def take() -> None:
        with waiting.file_lock(tmp_path / "a.lock", "x"):
            took.set()

    with waiting.file_lock(tmp_path / "a.lock", "x"):
        thread = threading.Thread(target=take)
        thread.start()
        assert lines.came.wait(LONG)
        assert not took.is_set()
    thread.join()
    assert took.is_set()
    assert f"held by process {os.getpid()}" in lines.lines[0]


def test_a_holder_that_has_ended_and_left_the_lock_to_a_child_is_an_error(tmp_path: Path, lines: Lines) -> None:
    path = (tmp_path / "a.lock").resolve()
    other = run(LEAVE, path)
    child = int(other.stdout.readline())
    other.wait()
    try:
        with pytest.raises(StorageError, match=f"process {other.pid}, which has ended"), waiting.file_lock(path, "x"):
            pass
    finally:
        os.kill(child, 9)
    with waiting.file_lock(path, "x"):
        pass


def test_a_notice_comes_once_and_only_where_it_takes_long(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting.notice(lambda: "process 1"):
        assert lines.came.wait(LONG)
    assert lines.lines == ["waiting for process 1"]
    monkeypatch.setattr(waiting, "PATIENCE", 1e6)
    with waiting.notice("the end of days"):
        pass
    assert lines.lines == ["waiting for process 1"]
