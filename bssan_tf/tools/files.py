"""Files that are written whole or not at all, and locks between processes.

A kill leaves the old file or the new one, never half of one: the part lies beside it, hidden and ending in `.part`,
and takes its name in one step. Both need a POSIX system, and say so on Windows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from bssan_tf.errors import NO_WINDOWS, UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_PART = re.compile(r"\.(.+)\.(\d+)\.part")


PATTERNS = re.compile(r"[][*?\\]")  # what a shell, and TensorFlow, take for patterns of names


@contextlib.contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Give a part path to write to; after the block it replaces `path`, whose folder exists, unless the block raises.

    Where `durable`, wait until content and name are on the disk, so that the file survives a power cut, too.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # by process: two may write the same file
    try:
        with naming(path):
            yield part
            if durable:
                _flush(part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        _flush(path.parent)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError of the block, such as that of a full disk, the name of the file that was to be written."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def clear_leftovers(folder: Path, *names: str) -> None:
    """Remove the parts that `replacing` has left in a folder where it was killed; of `names` alone, where given."""
    for entry in os.listdir(folder) if folder.is_dir() else ():
        match, path = _PART.fullmatch(entry), folder / entry
        if match and (not names or match[1] in names) and not _runs(int(match[2])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


def open_own(path: str | Path, flags: int) -> int:
    """Open a file of a run or a cache, whose descriptor is returned; UserError for a link, which may lead anywhere."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: is a symbolic link, and will not be written through; remove it") from None
        raise


@contextlib.contextmanager
def locked(path: str | Path, refusal: str | None = None, shared: bool = False) -> Iterator[int]:
    """Hold an advisory lock on a file, which is made where absent (or OSError); a kill opens the lock, too.

    Gives the descriptor: a process that inherits it holds the lock, too.

    Args:
        refusal: what a UserError says if another process holds the lock; None waits for it.
        shared: together with others who hold it shared.
    """
    if fcntl is None:
        raise UserError(NO_WINDOWS)
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if refusal is None else fcntl.LOCK_NB)
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            raise UserError(refusal) from None
        yield descriptor
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Have the disk confirm a file's content or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
