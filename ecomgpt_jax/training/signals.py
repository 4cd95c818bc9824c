"""SIGTERM: the first asks for a checkpoint, the second ends the process at once.

Hosts must stop at the same step, or the ones that go on wait for the others for ever. So every step carries a vote, the
largest flag of all processes: one scalar all-reduce beside the step's own, read one step later with the step's numbers.
JAX's preemption sync point was the other choice; it watches SIGTERM of its own and agrees only among hosts that already
run in step, and a scalar costs less than the code that keeps them so.
"""

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

    A thread listens, because Python runs handlers only between two operations of the main thread and a compiled step or
    a save can take minutes. Outside the main thread nothing can be installed, and the event stays unset.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGTERM:
                if event.is_set():
                    os._exit(128 + signal.SIGTERM)
                event.set()
        os.close(reader)

    threading.Thread(target=listen, name="sigterm", daemon=True).start()
    handler = signal.signal(signal.SIGTERM, lambda number, frame: None)  # without one the default would end us
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield event
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(writer)


def make_vote(mesh: Mesh) -> Callable[[bool], jax.Array | bool]:
    """Returns `vote(flag)`: whether any process has raised its flag, as a value that may still be on its way.

    Every process must call it equally often. With one process it is the flag itself.
    """
    if jax.process_count() == 1:
        return lambda flag: flag
    placement = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    largest = jax.jit(lambda flags: flags.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
    here = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)

    def vote(flag: bool) -> jax.Array:
        return largest(jax.make_array_from_process_local_data(placement, np.full(here, flag)))

    return vote
