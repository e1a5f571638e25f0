"""A user's own features: regions (N, D, M) and objects (N, P, Q) of any size from .npy files, memory-mapped.

Rows are in the corpus' order or in that of an ids file: one image id a line, in any order, other images allowed.
Objects that are all zeros count as padding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store import Features
from bssan_tf.reading.arrays import first_not_finite, open_npy
from bssan_tf.reading.documents import lines_of, read_text
from bssan_tf.tools.files import file_sha256

BLOCK_BYTES = 32 << 20
WHOLE_BYTES = 256 << 20  # larger files are hashed in part
HASHED_BLOCKS, HASHED_BYTES = 64, 1 << 20
PREFIX = 64  # dimensions of an object that are looked at first; only where all are 0 the rest is read


class Reordered:
    """An array (n, ...) seen in another order of its rows, int64 (N,), without copying it; indexed by rows."""

    def __init__(self, array: np.ndarray, order: np.ndarray):
        self.array, self.order = array, order
        self.shape, self.dtype, self.ndim = (len(order), *array.shape[1:]), array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key) -> np.ndarray:
        return self.array[self.order[key]]


def import_features(
    image_ids: Sequence[str],
    regions: str | Path | None = None,
    objects: str | Path | None = None,
    ids: str | Path | None = None,
) -> Features:
    """Open a user's own arrays as `Features` whose row i is image i of the corpus.

    Args:
        image_ids: the corpus' ids, N of them.
        regions, objects: .npy, float16 or float32 (n, D, M) and (n, P, Q).
        ids: text file with the image id of each of the n rows; None where rows are in the corpus' order (n = N).

    Raises:
        UserError: a file absent or damaged, a wrong shape or dtype, images without a row, values not finite.
    """
    image_ids = tuple(image_ids)
    files = {"regions": regions, "objects": objects, "ids": ids}
    order = None if ids is None else _read_order(Path(ids), image_ids)
    given = [name for name in ("regions", "objects") if files[name] is not None]
    if not given:
        raise ValueError("neither regions nor objects given")
    arrays = {name: _open_rows(name, files, image_ids, order) for name in given}
    D = arrays["regions"].shape[1] if "regions" in given else 0
    side = math.isqrt(D)
    grid = (side, side) if D and side**2 == D else None
    valid = _not_padding(arrays["objects"]) if "objects" in given else None
    manifest = {
        "extractor": "imported",
        "files": {name: path and str(path) for name, path in files.items()},
        "arrays": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()},
    }
    return Features(image_ids, **arrays, valid=valid, grid=grid, manifest=manifest)


def content_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content; over `WHOLE_BYTES`, of its size and `HASHED_BLOCKS` evenly spaced blocks of it.

    A change between these blocks is not seen.
    """
    size = Path(path).stat().st_size
    if size <= WHOLE_BYTES:
        return file_sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for block in range(HASHED_BLOCKS):
            file.seek(block * (size - HASHED_BYTES) // (HASHED_BLOCKS - 1))
            digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()


def _read_order(path: Path, image_ids: Sequence[str]) -> tuple[np.ndarray, int]:
    """The row of each corpus image, int64 (N,), and the number of rows that the file speaks of."""
    lines = lines_of(read_text(path, "give a text file, one id a line", f"--import-ids {path}"))
    names = [line.strip() for line in lines if line.strip()]
    row_of = {name: row for row, name in enumerate(names)}
    for row, name in enumerate(names):
        if row_of[name] != row:
            raise UserError(f"--import-ids {path}: {name} occurs twice; each image has one row")
    if absent := [image_id for image_id in image_ids if image_id not in row_of]:
        problem = f"{len(absent)} of the {len(image_ids)} images of the data set are not in it, the first {absent[0]}"
        raise UserError(f"--import-ids {path}: {problem}; extract features for them, too")
    return np.array([row_of[image_id] for image_id in image_ids], np.int64), len(names)


def _open_rows(name: str, files: dict, image_ids: tuple[str, ...], order) -> np.ndarray | Reordered:
    """The regions or the objects, checked; `order` as of `_read_order`, None for the corpus' own."""
    what, count = f"--import-{name} {files[name]}", len(image_ids)
    array = open_npy(files[name], "save it anew by np.save", what)
    rows, expected = (np.arange(count), count) if order is None else order
    problem = None
    if array.ndim != 3 or 0 in array.shape:
        letters = "(N, D, M)" if name == "regions" else "(N, P, Q)"
        problem = f"shape {array.shape}, wanted is {letters}; reshape it"
    elif array.dtype not in (np.float16, np.float32):
        problem = f"dtype {array.dtype}, wanted is float16 or float32; convert it by .astype"
    elif len(array) != expected and order is None:
        problem = f"{len(array)} rows for {count} images; say by --import-ids which row is which image"
    elif len(array) != expected:
        problem = f"{len(array)} rows, --import-ids {files['ids']} has {expected} ids; give its own list"
    if problem:
        raise UserError(f"{what}: {problem}")
    array = array[:count] if np.array_equal(rows, np.arange(count)) else Reordered(array, rows)
    if (row := first_not_finite(array)) is not None:
        raise UserError(f"{what}: the features of {image_ids[row]} are not finite; extract them anew")
    return array


def _not_padding(objects: np.ndarray | Reordered) -> np.ndarray:
    """bool (N, P): True where an object's features (N, P, Q) are not all zeros."""
    count, P, Q = objects.shape
    valid = np.empty((count, P), bool)
    block = max(1, BLOCK_BYTES // (P * Q * objects.dtype.itemsize))
    for start in range(0, count, block):
        rows = np.arange(start, min(start + block, count))
        valid[rows] = np.any(objects[start : start + block][..., :PREFIX], axis=2)
        if len(doubtful := rows[~valid[rows].all(axis=1)]):
            valid[doubtful] = np.any(objects[doubtful], axis=2)
    return valid
