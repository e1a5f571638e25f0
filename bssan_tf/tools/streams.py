"""What libraries say on standard error from C++, past Python's streams."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stderr_held() -> Iterator[Callable[[], bytes]]:
    """What is said on standard error in the block is not shown; the function that is given tells it."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield lambda: b""
        return
    with tempfile.TemporaryFile() as file:

        def said() -> bytes:
            file.seek(0)
            return file.read()

        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
