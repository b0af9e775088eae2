"""Memory that a process has freed, kept for its next tensors."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Has glibc's malloc keep what is freed instead of giving it back to the system; whether that could be done.

    A network's maps are tens of MB each. By default every one is fetched from the system anew, which clears it page by
    page while a training step on the CPU waits. The process then holds its peak until it ends. Elsewhere than with
    glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
