""".h5 and .keras: no link into another file, no storage outside of it, and no more data than the file can hold."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py

from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import check_members
from bssan_tf.reading.documents import parse_json
from bssan_tf.reading.files import check_claim, file_size, refusing

MOST_LINKS = 100_000
KERAS_WEIGHTS, KERAS_CONFIG = "model.weights.h5", "config.json"


@contextlib.contextmanager
def open_hdf5(path: str | Path, remedy: str, source: str | None = None) -> Iterator[h5py.File]:
    """An .h5 opened for reading, all of whose data lie in itself; UserError otherwise, and for what the block raises.

    So the block should only read from the file.
    """
    source, size = source or str(path), file_size(path, remedy, source)
    with refusing(source, "not a readable .h5", remedy), h5py.File(path, "r") as file:
        check_hdf5(file, size)
        yield file


def check_hdf5(file: h5py.File, size: int) -> None:
    """ValueError where a file of `size` bytes takes data from elsewhere, or claims more than it can hold."""
    groups, seen, claimed, links = [file], set(), 0, 0
    while groups:
        group = groups.pop()
        for name in group:
            links += 1
            if links > MOST_LINKS:
                raise ValueError(f"it has more than {MOST_LINKS} entries")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{name} is a link into another file, {link.filename}")
            if isinstance(link, h5py.SoftLink):
                continue
            found = group[name]
            if (place := h5py.h5o.get_info(found.id).addr) in seen:
                continue
            seen.add(place)
            if isinstance(found, h5py.Group):
                groups.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    raise ValueError(f"{found.name} has its data in another file")
                claimed += math.prod(found.shape or ()) * found.dtype.itemsize  # nbytes may overflow
    check_claim(claimed, size)


def check_keras(path: str | Path, remedy: str, source: str | None = None) -> None:
    """UserError unless a .keras file is a whole archive whose weights lie in itself, before Keras opens it."""
    source, size = source or str(path), file_size(path, remedy, source)
    with refusing(source, "not a readable .keras file", remedy), zipfile.ZipFile(path) as archive:
        members = check_members(archive, size)
        for name in (KERAS_CONFIG, KERAS_WEIGHTS):
            if name not in members:
                raise UserError(f"{source}: has no {name}; {remedy}")
        parse_json(archive.read(KERAS_CONFIG).decode("utf-8"), f"{source}: {KERAS_CONFIG}", remedy)
        with h5py.File(io.BytesIO(archive.read(KERAS_WEIGHTS)), "r") as file:
            check_hdf5(file, members[KERAS_WEIGHTS].file_size)
