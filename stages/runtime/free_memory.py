"""Give freed memory back to the system. What lies between small things that stay would else be kept for the process."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect garbage and, where the C library is glibc, return every free page. https://man7.org/linux/man-pages/man3/malloc_trim.3.html"""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return
