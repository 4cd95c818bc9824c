"""Locks between processes, and notices about waits: for locks, other processes, downloads, compilations."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ecomgpt_jax.errors import EcomError, StorageError

PATIENCE = 2.0  # seconds of a wait before a line is printed
_POLL = 0.2  # seconds between two checks of a lock


class Notice:
    """One line about a wait, printed once it has taken `PATIENCE` seconds."""

    def __init__(self, what: str | Callable[[], str]) -> None:
        """Starts the timer; `what` is the reason for the wait, or a function called for it when the line is printed."""
        self._what = what
        self._timer = threading.Timer(PATIENCE, self._say)
        self._timer.daemon = True
        self._timer.start()

    def _say(self) -> None:
        logging.warning("waiting for %s", self._what() if callable(self._what) else self._what)

    def end(self) -> None:
        """Ends the wait; a line not printed yet is cancelled."""
        self._timer.cancel()


@contextlib.contextmanager
def notice(what: str | Callable[[], str]) -> Iterator[None]:
    """Prints a line with the reason for the wait if the block takes longer than `PATIENCE` seconds."""
    started = Notice(what)
    try:
        yield
    finally:
        started.end()


def _own_place() -> str:
    """Returns a name that distinguishes this host's or container's process ids from those of others."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _holder(path: Path) -> dict[str, Any]:
    """Returns {"pid", "thread", "place"} of the process that holds a lock; empty until it has written them."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return holder if isinstance(holder["pid"], int) and isinstance(holder["place"], str) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _named(holder: dict[str, Any]) -> str:
    """Returns "process 12", with its host if that is another one; "" where the holder is not known."""
    if not holder:
        return ""
    here = holder["place"] == _own_place()
    return f"process {holder['pid']}" + ("" if here else f" on {holder['place'].split()[0]}")


def _take(file: TextIO, path: Path, what: str) -> None:
    begin, told, doubted = time.monotonic(), None, (0, 0.0)
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(path)
        pid, here = holder.get("pid", 0), holder.get("place") == _own_place()
        if here and (pid, holder.get("thread")) == (os.getpid(), threading.get_ident()):
            raise StorageError(f"{path}: this process holds the lock already and would wait for itself ({what})")
        if here and not _runs(pid):  # or the next holder has not written its id yet
            if doubted[0] != pid:
                doubted = pid, time.monotonic()
            elif time.monotonic() - doubted[1] >= 5 * PATIENCE:
                raise StorageError(
                    f"{path}: held for process {pid}, which has ended, by a process that it started ({what}); end that "
                    "one, or remove the file"
                )
        if time.monotonic() - begin >= PATIENCE and told != pid:
            told = pid
            logging.warning("waiting for %s: %s is held by %s", what, path, _named(holder) or "another process")
        time.sleep(_POLL)


@contextlib.contextmanager
def file_lock(path: str | os.PathLike[str], what: str, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock between processes, which is released when its process ends.

    Args:
      path: a file, created if needed; holds the id of the process that has the lock.
      what: names the lock in the line that is printed when another process holds it for longer than `PATIENCE` seconds.
      wait: False: raise at once if another process holds it.

    Raises:
      BlockingIOError: it is held, and `wait` is off.
      StorageError: the wait cannot end: this thread holds the lock itself, or the process that acquired it has ended.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        if wait:
            _take(file, path, what)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        json.dump({"pid": os.getpid(), "thread": threading.get_ident(), "place": _own_place()}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextlib.contextmanager
def only_one(folder: Path, what: str, error: type[EcomError], advice: str) -> Iterator[None]:
    """Holds the lock `.lock` of a folder against a second process; without effect on mounts that have no locks.

    Args:
      folder: created if needed.
      what: the work, such as "fetch"; the message is "<folder>: another <what> (process <id>) runs here; <advice>".
      error: raised where another process holds the lock.
      advice: what to do then.
    """
    path = folder / ".lock"
    with contextlib.ExitStack() as held:  # the body is outside the `try`, so its errors pass
        try:
            held.enter_context(file_lock(path, what, wait=False))
        except BlockingIOError:
            by = _named(_holder(path))
            raise error(f"{folder}: another {what}{by and f' ({by})'} runs here; {advice}") from None
        except OSError as failed:
            if failed.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # of mounts that have no locks
                raise
        yield
