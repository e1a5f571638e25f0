"""Peak memory of this process, for benchmarks and tests."""

from __future__ import annotations

import contextlib
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


def reset_peak() -> None:
    """Count the peak from now on, where the system allows it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
