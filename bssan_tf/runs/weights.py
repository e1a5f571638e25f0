"""The best weights of a run, and the note of their SHA-256, by which a changed file is told from the run's own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from bssan_tf.errors import UserError
from bssan_tf.reading.documents import read_text
from bssan_tf.tools.files import file_sha256, write_text

PART = "part-"  # before the name, as Keras wants the ending .keras
REMEDY = "put back the file that was trained, or train the run anew"


@contextlib.contextmanager
def fresh_part(path: Path) -> Iterator[Path]:
    """A file beside `path` for Keras to write, where nothing is; gone after the block, unless it was renamed."""
    part = path.with_name(PART + path.name)
    part.unlink(missing_ok=True)  # of a killed process, or a link
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def note_weights(path: Path, part: Path) -> None:
    """Note the SHA-256 of `part`, which is to become `path`, and that of the file that `path` is until then."""
    write_text(_note(path), "\n".join(file_sha256(one) for one in (part, path) if one.exists()) + "\n")


def require_weights(path: Path) -> bool:
    """UserError if a file is not one of those noted; False where there is no note, as in older runs."""
    noted = _noted(path)
    if noted and file_sha256(path) not in noted:
        raise UserError(f"{path}: has changed since training; {REMEDY}")
    return bool(noted)


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _noted(path: Path) -> list[str]:
    note = _note(path)
    found = read_text(note, "put it back, or remove it").split() if note.exists() else []
    if note.exists() and not (found and all(re.fullmatch("[0-9a-f]{64}", one) for one in found)):
        raise UserError(f"{note}: is no list of SHA-256; put it back, or remove it")
    return found
