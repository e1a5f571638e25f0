"""What libraries say on standard error from C++, past Python's streams."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


class Said:
    """What was said on standard error in a block of `stderr_held`, bytes, once it has ended."""

    text = b""


@contextlib.contextmanager
def stderr_held() -> Iterator[Said]:
    """What is said on standard error in the block is kept, and not shown."""
    said = Said()
    try:
        shown = os.dup(2)
    except OSError:  # it is closed
        yield said
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            file.seek(0)
            said.text = file.read()
