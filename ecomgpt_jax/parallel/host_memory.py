"""What the C library keeps of memory that this process has freed."""

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        return None


def return_freed_memory() -> None:
    """Gives freed memory back to the system where the C library is glibc; does nothing elsewhere.

    glibc keeps freed blocks of less than 32 MiB, in which weights are read, merged and written, for later use. Called
    where such a stage has freed many of them, so that the resident set follows the arrays that are alive.
    """
    if trim := _malloc_trim():
        trim(0)
