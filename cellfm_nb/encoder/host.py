"""What a CPU loses between two operations: memory handed back to the system, which clears it page by page."""

from __future__ import annotations

import ctypes
import os
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of malloc.h (glibc)


@cache
def keep_freed_memory(kept: int = 2**28, largest: int = 2**25) -> bool:
    """Let this process keep freed memory for its next tensors, which then cost no page faults.

    Parameters: kept, bytes that stay with the process at most; largest, bytes of a tensor so served (glibc allows
    32 MiB), larger ones go back as before.
    Returns: False where nothing was changed: the C library is not glibc, or its own variables (MALLOC_...) decide.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    return bool(mallopt(MMAP_THRESHOLD, largest)) and bool(mallopt(TRIM_THRESHOLD, kept))
