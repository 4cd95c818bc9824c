"""SIGTERM: the first one requests a checkpoint, the second ends the process at once.

Hosts must stop at the same step, or the others wait forever. So each process votes after every step, and all read the
maximum one step later: a scalar all-reduce that the host does not wait for. JAX's preemption sync point is not used: it
installs its own SIGTERM handler and requires hosts in lockstep, which needs more code.
"""

import collections
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@contextlib.contextmanager
def on_sigterm() -> Iterator[threading.Event]:
    """Yields an event that the first SIGTERM sets; a second one ends the process with code 143.

    Python runs the handler before the main thread's next operation, so the event is set after the step during which the
    signal arrives. A thread ends the process, since no handler runs during a compiled step or a save, which can take
    minutes. Outside the main thread no handler can be installed, and the event stays unset.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        received = 0
        while number := os.read(reader, 1):
            received += number[0] == signal.SIGTERM
            if received > 1:
                os._exit(128 + signal.SIGTERM)
        os.close(reader)

    threading.Thread(target=listen, name="sigterm", daemon=True).start()
    handler = signal.signal(signal.SIGTERM, lambda number, frame: event.set())
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield event
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(writer)


class Interrupted(Exception):
    """SIGTERM arrived inside `interruptible`."""


@contextlib.contextmanager
def interruptible(event: threading.Event) -> Iterator[None]:
    """Raises `Interrupted` when the SIGTERM of `event` arrives, or at once if it has arrived.

    For long work between steps that can be repeated. It has no effect with several processes, which would stop at
    different points.
    """
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        event.set()
        raise Interrupted

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        if event.is_set():
            raise Interrupted
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_vote(mesh: Mesh) -> Callable[[bool], bool]:
    """Returns `vote(flag)`: with one process the flag itself, else whether any process voted True in the previous call.

    Every process must call it equally often; all get the same result.
    """
    if jax.process_count() == 1:
        return lambda flag: flag
    placement = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    largest = jax.jit(lambda flags: flags.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
    cast: collections.deque[jax.Array] = collections.deque()

    def vote(flag: bool) -> bool:
        flags = jax.make_array_from_callback((mesh.size,), placement, lambda index: np.full(1, flag))
        cast.append(largest(flags))
        return len(cast) > 1 and bool(cast.popleft())

    return vote
