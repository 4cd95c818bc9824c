"""SIGTERM: the first asks for a checkpoint, the second ends the process at once.

Hosts must stop at the same step, or the ones that go on wait for the others for ever. So after every step each process
casts a vote, and all read the largest one a step later: one scalar all-reduce that the host never waits for. JAX's
preemption sync point was the other choice; it watches SIGTERM of its own and agrees only among hosts that already run
in step, and a scalar costs less than the code that keeps them so.
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

    The handler sets it, which Python runs before the main thread's next operation: a signal that came during a step is
    seen right after it, however busy the machine. A thread ends the process, since a compiled step or a save can take
    minutes in which no handler runs. Outside the main thread nothing can be installed, and the event stays unset.
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


def make_vote(mesh: Mesh) -> Callable[[bool], bool]:
    """Returns `vote(flag)`: with one process the flag itself, else whether any process voted so in the call before.

    Every process must call it equally often; all get the same answer.
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
