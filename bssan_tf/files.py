"""Files that are written whole or not at all: a kill leaves the old file or the new one, never half of one.

In: a path and its content, or a block that writes to the part path it is given. Out: the file. The part lies beside
it, hidden and ending in `.part`, and takes its name in one step.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Give a part path to write to; after the block it replaces `path`.

    Where the block raises, `path` stays as it was and the part is removed.

    Args:
        path: the file, in a folder that exists.
        durable: wait until content and name are on the disk, so that the file survives a power cut, too.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # by process: two may write the same file
    try:
        yield part
        if durable:
            _flush(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        _flush(path.parent)


def write_bytes(path: str | Path, content: bytes, durable: bool = False) -> None:
    """Write a file whole or not at all; `durable` as in `replacing`."""
    with replacing(path, durable) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str, durable: bool = False) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, text.encode("utf-8"), durable)


def write_json(path: str | Path, value: object, durable: bool = False) -> None:
    """Write JSON, indented by 2 and with a last newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable)


def _flush(path: Path) -> None:
    """Have the disk confirm a file's content or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
