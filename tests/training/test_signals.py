import signal
import subprocess
import sys
import threading

import jax

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import signals

TWICE = """
import hashlib, signal
from ecomgpt_jax.training import signals
with signals.on_sigterm() as event:
    signal.raise_signal(signal.SIGTERM)
    assert event.is_set()
    print("first", flush=True)
    signal.raise_signal(signal.SIGTERM)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in compiled code, where no handler runs
"""


def test_the_first_is_seen_at_once_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.on_sigterm() as event:
        assert not event.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert event.is_set()
    assert signal.getsignal(signal.SIGTERM) is before
    with signals.on_sigterm() as event:
        assert not event.is_set()


def test_the_second_ends_the_process_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (143, "first"), done.stderr


def test_another_thread_cannot_listen() -> None:
    seen = []

    def look() -> None:
        with signals.on_sigterm() as event:
            seen.append(event.is_set())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [False]


def test_the_vote_of_one_process_is_its_flag() -> None:
    vote = signals.make_vote(make_mesh(MeshConfig(), jax.devices()[:2]))
    assert (vote(False), vote(True)) == (False, True)
