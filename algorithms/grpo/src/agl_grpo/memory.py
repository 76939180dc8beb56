"""Memory: torch on a CPU allocates and frees the same large blocks at every step."""

from __future__ import annotations

import ctypes
import functools
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks instead of returning them to the system; returns whether it could.

    By default each large block is mapped and unmapped anew, and its page faults cost more than the arithmetic of a small
    model (a third of a prefill of 64 prompts). The process keeps its peak size in exchange.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_M_MMAP_THRESHOLD, 2**30), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 2**26)])
