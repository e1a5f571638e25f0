"""A disk that is full and processes that have died, for several test files."""

import contextlib
import resource
import subprocess


@contextlib.contextmanager
def limited_files(size):
    """No file of this process can grow beyond `size` bytes; Python ignores the signal, so writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def dead_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as child:
        pass
    return child.pid
