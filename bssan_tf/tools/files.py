"""Files that are written whole or not at all, and locks between processes.

A kill leaves the old file or the new one, never half of one: the part lies beside it, hidden and ending in `.part`,
and takes its name in one step. Both need a POSIX system, and say so on Windows.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from bssan_tf.errors import NO_WINDOWS, UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


@contextlib.contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Give a part path to write to; after the block it replaces `path`, whose folder exists, unless the block raises.

    Where `durable`, wait until content and name are on the disk, so that the file survives a power cut, too.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # by process: two may write the same file
    try:
        yield part
        if durable:
            _flush(part)
        os.replace(part, path)
    except OSError as error:
        if error.filename in (None, str(part)):  # a full disk names no file
            error.filename = str(path)
        raise
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


@contextlib.contextmanager
def locked(path: str | Path, refusal: str | None = None, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock on a file, which is made where absent (or OSError); a kill opens the lock, too.

    Args:
        refusal: what a UserError says if another process holds the lock; None waits for it.
        shared: together with others who hold it shared.
    """
    if fcntl is None:
        raise UserError(NO_WINDOWS)
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if refusal is None else fcntl.LOCK_NB)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            raise UserError(refusal) from None
        yield
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Have the disk confirm a file's content or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
