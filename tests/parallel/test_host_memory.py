import platform
import subprocess
import sys

import pytest

from ecomgpt_jax.parallel import host_memory

FREE_BLOCKS = """
import resource
import numpy as np
from ecomgpt_jax.parallel.host_memory import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

np.ones(4_000_000)  # 32 MB freed at once: from here on glibc keeps what is smaller
blocks = [np.ones(60_000) for _ in range(400)]
kept = blocks[::2]
del blocks
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_blocks_freed_between_others_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREE_BLOCKS], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 80  # MiB of 92


def test_another_c_library_has_no_such_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    host_memory._malloc_trim.cache_clear()
    assert host_memory._malloc_trim() is None
    host_memory.return_freed_memory()
    host_memory._malloc_trim.cache_clear()
