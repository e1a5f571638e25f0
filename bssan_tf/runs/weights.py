"""The best weights of a run, with the note of their SHA-256, by which a changed file is told from the run's own.

Keras finds weights in its files by their order. So the file also lists their names and checksums: where another Keras
has another order, that is told, and no weight goes to another layer unseen.
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.reading.documents import parse_json, read_text
from bssan_tf.reading.files import refusing
from bssan_tf.tools.files import file_sha256, write_text

PART = "part-"  # before the name, as Keras wants the ending .keras
LIST, KERAS = "names.json", "keras"  # beside Keras' own members of the archive; the Keras that saved it, in the list
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


def list_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Add names and CRC-32 of the weights to a .keras file that holds them."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LIST, json.dumps({KERAS: version("keras"), **_sums(weights)}, indent=1))


def require_listed(path: Path, weights: dict[str, np.ndarray]) -> None:
    """UserError if Keras has read other weights from a file than it lists; older runs have no list."""
    with zipfile.ZipFile(path) as archive:
        if LIST not in archive.namelist():
            return
        with refusing(f"{path}: {LIST}", "not a list of weights", REMEDY):
            listed = dict(parse_json(archive.read(LIST).decode(), f"{path}: {LIST}", REMEDY))
            saved_by = str(listed.pop(KERAS))
    sums = _sums(weights)
    if wrong := sorted(name for name in sums.keys() | listed.keys() if sums.get(name) != listed.get(name)):
        read = f"this Keras reads other numbers for {wrong[0]} than were saved ({len(wrong)} of {len(listed)} weights)"
        raise UserError(f"{path}: {read}; use the Keras that saved it, {saved_by}")


def _sums(weights: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: zlib.crc32(np.ascontiguousarray(array)) for name, array in weights.items()}


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _noted(path: Path) -> list[str]:
    note = _note(path)
    found = read_text(note, "put it back, or remove it").split() if note.exists() else []
    if note.exists() and not (found and all(re.fullmatch("[0-9a-f]{64}", one) for one in found)):
        raise UserError(f"{note}: is no list of SHA-256; put it back, or remove it")
    return found
