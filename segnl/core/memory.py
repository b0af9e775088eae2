"""Setting of glibc's malloc that keeps freed memory in the process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes glibc's malloc keep freed memory instead of returning it to the system; returns False without glibc.

    Feature maps take tens of MB each. By default malloc gets each of them anew from the system, which clears it page by
    page while a training step on the CPU waits; docs/performance.md has the measured gain. The process holds its peak
    until it ends, and every thread of it is affected: only the command line calls this.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
