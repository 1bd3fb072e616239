"""How a process gets its memory from the system."""

import ctypes
import os
import sys
from ctypes.util import find_library

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
PRELOAD = "LD_PRELOAD"
# Of gperftools, without its profilers and with them.
TCMALLOC = ("tcmalloc_minimal", "tcmalloc")
# By which a user may have told the C library how to do it (mallopt(3), and the tunables of glibc).
TOLD = "MALLOC_"
TUNABLES = "GLIBC_TUNABLES"


def find_tcmalloc() -> str | None:
    """Return the name by which tcmalloc can be preloaded; None: it is not installed."""
    return next(filter(None, map(find_library, TCMALLOC)), None)


def use_tcmalloc() -> None:
    """Begin this process anew with tcmalloc, if it is installed; return if not, or if it has.

    It keeps what one pass has freed for the next one. glibc returns large blocks to the system, and
    what the kernel then has to clear anew can take as long as the computing, the longer the larger
    the batch; told to keep them it would grow (https://sourceware.org/bugzilla/show_bug.cgi?id=30723).
    Nothing is done where the environment names a library to preload, or tells glibc what to do.
    """
    told = (PRELOAD, TUNABLES)
    if sys.platform != "linux" or any(name in told or name.startswith(TOLD) for name in os.environ):
        return
    if (found := find_tcmalloc()) is not None:
        os.environ[PRELOAD] = found
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - itself


def release_freed() -> None:
    """Have tcmalloc give what was freed back to the system, if it is there; it would keep it.

    After a warm-up, that can be many times what batches of the size in use need.
    """
    release = getattr(ctypes.CDLL(None), "MallocExtension_ReleaseFreeMemory", None)
    if release is not None:
        release()


def use_huge_pages() -> None:
    """Let torch ask for huge pages, unless the environment says otherwise.

    Each layer's output is a block that the allocator returns to the system and gets anew, and the
    kernel clears it page by page: on the CPU that can take as long as the computing, the longer the
    larger the batch. With huge pages there is little of it. Must be called before torch is
    imported, which then reads the variable (https://github.com/pytorch/pytorch/pull/107697).
    """
    os.environ.setdefault(HUGE_PAGES, "1")
