"""Settings of glibc's allocator for a process that computes."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os

from jaxstyle.console import limits

ALLOCATOR_RESERVE = 2**31
"""Bytes of address space reserved in huge pages; they become memory only when they are used."""
RESERVED_SHARE = 4
"""Divisor of a limit on address space or data that gives the most to reserve. The whole reserve counts
towards the limit, and libraries, compiler and thread stacks need the rest."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
"""Constants of glibc's malloc.h."""


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, in huge pages; only for a process that does nothing else.

    XLA's CPU runtime allocates tens of megabytes in every step and frees them. By default each such piece
    is mapped anew, and the kernel fills it with zeros page by page: at 256 px some 13,000 page faults a
    step (docs/performance.md has the cost and the command that measures it). With this, the process keeps
    its peak memory until it ends. Nothing is done without glibc, or if the user has tuned it.

    Returns:
        Whether the allocator accepted the settings.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        reserve = min([ALLOCATOR_RESERVE, *(left // RESERVED_SHARE for left in limits.ulimits().values())])
        pad = min(2**28, reserve // 8)
        settings = {_M_TRIM_THRESHOLD: -1, _M_TOP_PAD: pad, _M_MMAP_MAX: 0, _M_ARENA_MAX: 1}
        if not all(libc.mallopt(key, value) for key, value in settings.items()):
            return False
        # Allocate and free one large piece, so that it belongs to the heap as empty huge pages.
        huge = 2**21
        if reserve > huge and (start := libc.malloc(reserve)):
            aligned = -(-start // huge) * huge
            libc.madvise(aligned, reserve - huge, mmap.MADV_HUGEPAGE)
            libc.free(start)
    except (AttributeError, OSError):
        return False
    return True
