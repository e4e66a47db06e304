"""The memory of glibc's malloc: in huge pages, kept, or given back to the system.

Arrays on a CPU are in it. With another C library, or another system, all of this does nothing.
"""

import contextlib
import ctypes
import os
import pathlib
import sys

HUGE_PAGES = "glibc.malloc.hugetlb"  # in the environment variable GLIBC_TUNABLES
HUGE_PAGES_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt


def use_huge_pages() -> None:
    """Starts the process again with huge pages, where malloc has to ask the system for them.

    XLA allocates the temporary memory of each training step anew. For ViT-B it is 634,000 pages of
    4 KiB, which cost 8 % of the step's CPU time. glibc reads its setting when a process starts.
    """
    try:
        is_on_request = "[madvise]" in HUGE_PAGES_SETTING.read_text()
    except OSError:  # another system
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if is_on_request and HUGE_PAGES not in tunables and sys.executable:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}=1".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_freed_memory() -> None:
    """Makes malloc keep what is freed.

    On CPUs every step allocates and frees its buffers; large ones would go back to the system each
    time, which took a quarter of a small model's step.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def release_freed_memory() -> None:
    """Gives memory that is freed back to the system.

    For use after loading or compiling: a step does not use what they freed, as XLA's threads
    allocate its temporary memory elsewhere.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
