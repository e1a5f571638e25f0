"""Peak memory of this process, for benchmarks and tests."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
from pathlib import Path


def peak_mb() -> float:
    """Largest resident set so far, in MiB.

    From /proc where there is one: getrusage of a child starts at what its parent had when it forked.
    """
    try:
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def settled_mb() -> float:
    """Give freed memory back and count the peak from here on, where the system allows it (Linux); the peak now."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else later arrays would lie in freed memory and not be counted
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()
