import subprocess
import sys

import pytest

CODE = """
import ctypes, resource, sys
from segnl.core.memory import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    print(-1)
    sys.exit()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, size = ctypes.c_void_p, [ctypes.c_void_p], 64 << 20
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for turn in range(6):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_a_freed_block_is_used_again_without_the_system_clearing_it() -> None:
    kept = page_faults("kept")
    if kept < 0:
        pytest.skip("this system's C library is not glibc")
    assert kept < 20  # four blocks of 64 MB that have their pages already
    assert page_faults("as it is") > 100  # huge pages of 2 MB make few faults of many
