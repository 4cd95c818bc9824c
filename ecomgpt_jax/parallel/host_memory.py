"""Returns freed memory to the system."""

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
    """Returns freed memory to the system where the C library is glibc; does nothing elsewhere.

    glibc keeps freed blocks below 32 MiB, such as those of reading, merging and writing weights. Call it after such a
    stage, so that the resident set follows the live arrays.
    """
    if trim := _malloc_trim():
        trim(0)
