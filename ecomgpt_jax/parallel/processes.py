"""Setup of a process before its first array: it connects to the run's other processes and enables the compile cache."""

import contextlib
import functools
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ecomgpt_jax import errors
from ecomgpt_jax.errors import ConfigError, EcomError, StorageError
from ecomgpt_jax.waiting import Notice, notice

_COMPILED = "/jax/core/compile/backend_compile_duration"  # event of jax.monitoring after each compilation
AUTOMATIC = "auto"  # jax finds the coordinator itself, as on TPU slices


def init_distributed(coordinator: str, num_processes: int | None, process_id: int | None, timeout: int) -> None:
    """Connects this process to the others of a run; without a coordinator does nothing. Call it before any use of jax.

    Args:
      coordinator: `host:port` that process 0 listens on, `auto` if jax can find the other machines (a TPU slice), or
        empty.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ConfigError: the three do not fit together.
      StorageError: the others did not connect in time, or the port is taken.
    """
    if not coordinator:
        if num_processes is not None or process_id is not None:
            raise ConfigError("--num_processes and --process_id need --coordinator=host:port")
        return
    if coordinator == AUTOMATIC:
        if num_processes is not None or process_id is not None:
            raise ConfigError("--coordinator=auto finds --num_processes and --process_id itself; leave them out")
        address = num_processes = process_id = None
    else:
        address = coordinator
        if not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address):
            raise ConfigError(f"--coordinator={address!r} is not host:port; port 8476 is a usual choice")
        if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--coordinator needs --num_processes and --process_id below it, not {num_processes} and {process_id}"
            )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if address is not None:
            _rendezvous(address, num_processes, process_id, timeout)
        with notice(f"the other processes, up to {timeout} s"):
            jax.distributed.initialize(address, num_processes, process_id, initialization_timeout=timeout)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise StorageError(
            f"--coordinator={coordinator}: not all processes met within {timeout} s ({reason}); "
            "start every process, with one address that all can reach"
        ) from error


def _rendezvous(address: str, num_processes: int, process_id: int, timeout: int) -> None:
    """Returns in every process once all are connected; jax itself would abort a process that waits too long.

    Raises:
      OSError: the port is taken, or the timeout has passed.
    """
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + timeout
    if process_id > 0:
        why = ""
        with notice(f"process 0 at {address}, up to {timeout} s"):
            while (left := end - time.monotonic()) > 0:
                try:
                    with socket.create_connection((host.strip("[]"), int(port)), left) as link:
                        link.sendall(b"%d\n" % process_id)
                        if link.recv(2) == b"go":
                            return
                except OSError as error:
                    why = f" ({error.strerror or error})"
                time.sleep(min(0.2, max(0.0, left)))
        raise TimeoutError(f"process 0 does not answer at {address}{why}")
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    links: dict[int, socket.socket] = {}

    def missing() -> str:
        return ", ".join(str(number) for number in range(1, num_processes) if number not in links)

    with contextlib.ExitStack() as stack:
        stack.enter_context(notice(lambda: f"process {missing()} at port {port}, up to {timeout} s"))
        server = stack.enter_context(socket.create_server(("", int(port)), family=family, dualstack_ipv6=both))
        while missing():
            server.settimeout(max(0.001, end - time.monotonic()))
            try:
                link = stack.enter_context(server.accept()[0])
            except TimeoutError:
                raise TimeoutError(f"missing: process {missing()}") from None
            link.settimeout(5)
            with contextlib.suppress(OSError, ValueError):  # a connection from elsewhere
                links[int(link.recv(16))] = link
        for link in links.values():
            link.sendall(b"go")


def from_first(make: Callable[[], Any]) -> Any:
    """Returns process 0's `make()`, a JSON value, in every process; all must call it from the main thread.

    Raises:
      EcomError: `make` raised it in process 0, and every process raises it; an OSError becomes a StorageError.
    """
    if jax.process_count() == 1:
        return make()
    found, error = None, ""
    if jax.process_index() == 0:
        try:
            found = make()
        except (EcomError, OSError) as raised:
            error, found = type(raised).__name__ if isinstance(raised, EcomError) else "StorageError", str(raised)
    text = json.dumps([error, found]).encode()
    with notice("a message of process 0"):
        size = int(multihost_utils.broadcast_one_to_all(np.int64(len(text))))
        buffer = np.frombuffer(text.ljust(size)[:size], np.uint8)
        error, found = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes())
    if error:
        raise getattr(errors, error)(found)
    return found


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process; all must call it from the main thread."""
    if jax.process_count() == 1:
        return flag
    with notice("the status of every process"):
        return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def enable_compilation_cache(folder: Path) -> None:
    """Caches every compiled program in `folder`, for later runs with the same shapes.

    If `JAX_COMPILATION_CACHE_DIR` is set, that folder is used instead.
    Prints one line when the first program takes longer than `waiting.PATIENCE` to compile or load.
    """
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _say_compilations()


@functools.cache  # listeners are registered once per process
def _say_compilations() -> None:
    running: dict[int, Notice] = {}  # by thread
    said = threading.Event()

    def what() -> str:
        said.set()
        return "programs to be compiled; the next start finds them in the cache"

    def begin(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/compile_requests_use_cache" and not said.is_set():
            running[threading.get_ident()] = Notice(what)

    def end(event: str, seconds: float, **_: Any) -> None:
        found = running.pop(threading.get_ident(), None) if event == _COMPILED else None
        if found:
            found.end()

    jax.monitoring.register_event_listener(begin)
    jax.monitoring.register_event_duration_secs_listener(end)
