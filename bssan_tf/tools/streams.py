"""What libraries say on standard error from C++, past Python's streams."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def stderr_held(shown_at_errors: bool = True) -> Iterator[None]:
    """What is said on standard error in the block is not shown, but where it raises, before the error."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            if shown_at_errors:
                said.seek(0)
                os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
