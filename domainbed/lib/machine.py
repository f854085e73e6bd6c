"""What of this machine a process may use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of mallopt's options, from malloc.h


def cores() -> int:
    """The number of cores."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_huge_pages() -> None:
    """Let tensors lie in pages of 2 MiB where the system has them; call before importing torch."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the C library keep what is freed meanwhile, instead of returning it to the system.

    An update of a network frees and allocates the same large tensors again and again; pages that
    come from the system are zeroed each time. Does nothing unless the C library is glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        set_option, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
        set_option(option, value)
    try:
        yield
    finally:  # the library's defaults
        for option, value in ((_MMAP_MAX, 2**16), (_TRIM_THRESHOLD, 2**17), (_TOP_PAD, 2**17)):
            set_option(option, value)
        trim(0)
