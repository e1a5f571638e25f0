"""A checksum for each row of a feature store, by which changed, zeroed and swapped rows are found when it is opened."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SUMS = "sums"  # the array of the store
BLOCK_BYTES = 2 << 20


def row_sums(image_ids: Sequence[str], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """CRC-32 of each picture's id and of its row of all arrays (n, ...), uint32 (n,)."""
    sums = np.empty(len(image_ids), np.uint32)
    ordered = [arrays[name] for name in sorted(arrays)]
    for row, image_id in enumerate(image_ids):
        found = zlib.crc32(image_id.encode("utf-8", "surrogateescape"))
        for array in ordered:
            found = zlib.crc32(np.ascontiguousarray(array[row : row + 1]).view(np.uint8), found)
        sums[row] = found
    return sums


def changed_rows(image_ids: Sequence[str], arrays: Mapping[str, np.memmap], sums: np.ndarray) -> list[int]:
    """The rows whose sums differ from those noted, uint32 (N,); the files are read once, in threads."""
    row_bytes = sum(array.nbytes for array in arrays.values()) // max(1, len(image_ids))
    step = max(1, BLOCK_BYTES // max(1, row_bytes))

    def differing(start: int) -> list[int]:
        stop = min(start + step, len(image_ids))
        found = row_sums(image_ids[start:stop], {name: _read(array, start, stop) for name, array in arrays.items()})
        return (start + np.flatnonzero(found != sums[start:stop])).tolist()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [row for rows in pool.map(differing, range(0, len(image_ids), step)) for row in rows]


def _read(array: np.memmap, start: int, stop: int) -> np.ndarray:
    """Rows by file I/O: those of a map would count as this process's memory."""
    size = math.prod(array.shape[1:])
    offset = array.offset + start * size * array.dtype.itemsize
    return np.fromfile(array.filename, array.dtype, (stop - start) * size, offset=offset).reshape(-1, *array.shape[1:])
