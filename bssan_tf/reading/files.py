"""What all readers share: a regular file or a refusal, and any failure of a parser as one line.

Each reader takes `path`, `remedy` (what the user can do), and `source`, the name that an error shows, such as
"--boxes FILE"; None shows the path.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bssan_tf.errors import UserError

MOST_RATIO, SLACK = 200, 64 << 20  # bytes that a compressed file may grow to: so many times its own, and some


def file_size(path: str | Path, remedy: str, source: str | None = None) -> int:
    """Bytes of a regular file; UserError where there is none. A pipe or a device is refused before it is opened."""
    source = source or str(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{source}: cannot be read ({reason(error)}); {remedy}") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise UserError(f"{source}: is {what}; {remedy}")
    return found.st_size


@contextlib.contextmanager
def refusing(source: str, what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a parser raises in the block into a UserError: "SOURCE: WHAT (reason); REMEDY"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # parsers of broken files raise nearly any type, RecursionError and MemoryError too
        raise UserError(f"{source}: {what} ({reason(error)}); {remedy}") from error


def reason(error: Exception) -> str:
    """What an exception says, in one line of a length that can be read."""
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    if isinstance(error, KeyError):
        text = f"it has no {text}"
    if isinstance(error, RecursionError):
        text = "nested too deeply"
    if isinstance(error, MemoryError):
        text = f"it does not fit into memory; {text}" if text else "it does not fit into memory"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."


def check_claim(claimed: int, size: int) -> None:
    """ValueError where `claimed` bytes of arrays are more than a file of `size` bytes, or this machine, can hold."""
    if claimed > MOST_RATIO * size + SLACK:
        raise ValueError(f"it claims {claimed} bytes of arrays, but the file has {size} bytes")
    if claimed > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise ValueError(f"its arrays take {claimed >> 20} MB, this machine has {memory >> 20} MB of memory")
