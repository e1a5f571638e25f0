"""A user's own features: regions and objects of any size from .npy files, memory-mapped, as `Features`.

In: regions (N, D, M) and/or objects (N, P, Q), float16 or float32, rows in the corpus' order or in that of an ids
file (one image id a line, in any order, other images allowed). Out: `Features` whose row i is image i of the corpus.
Object rows that are all zeros count as padding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.backbones import file_sha256
from bssan_tf.features.store import Features, map_array

SAMPLED_ROWS = 256
BLOCK_BYTES = 32 << 20
WHOLE_BYTES = 256 << 20  # larger files are hashed in part
HASHED_BLOCKS, HASHED_BYTES = 64, 1 << 20
PREFIX = 64  # numbers of an object that are looked at first; only where all are 0 the rest is read


class Reordered:
    """An array seen in another order of its rows, without copying it; indexed like an array.

    Args:
        array: (n, ...), usually a memory map.
        order: int64 (N,), the row of `array` that is row i here.
    """

    def __init__(self, array: np.ndarray, order: np.ndarray):
        self.array, self.order = array, order
        self.shape, self.dtype, self.ndim = (len(order), *array.shape[1:]), array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key) -> np.ndarray:
        if isinstance(key, tuple):
            return self[key[0]][key[1:]] if np.ndim(self.order[key[0]]) == 0 else self[key[0]][(slice(None), *key[1:])]
        return self.array[self.order[key]]


def import_features(
    image_ids: Sequence[str],
    regions: str | Path | None = None,
    objects: str | Path | None = None,
    ids: str | Path | None = None,
) -> Features:
    """Open a user's own arrays.

    Only `SAMPLED_ROWS` evenly spaced rows are checked for values that are not finite; NaN in another row is not seen
    here.

    Args:
        image_ids: the corpus' ids, N of them.
        regions: .npy, float16 or float32 (n, D, M).
        objects: .npy, float16 or float32 (n, P, Q).
        ids: text file with the image id of each of the n rows; None where rows are in the corpus' order (n
            = N).

    Raises:
        UserError: a file is absent or damaged, its shape or dtype is wrong, images lack, or values of the sampled
            rows are not finite.
    """
    if regions is None and objects is None:
        raise ValueError("neither regions nor objects given")
    image_ids = tuple(image_ids)
    order = None if ids is None else _read_order(Path(ids), image_ids)
    arrays = {}
    for name, path in (("regions", regions), ("objects", objects)):
        if path is not None:
            arrays[name] = _open_rows(f"--import-{name} {path}", path, image_ids, ids, order)
    grid = valid = None
    if regions is not None:
        side = math.isqrt(arrays["regions"].shape[1])
        grid = (side, side) if side * side == arrays["regions"].shape[1] else None
    if objects is not None:
        valid = _not_padding(arrays["objects"])
    manifest = {
        "extractor": "imported",
        "files": {
            "regions": regions and str(regions),
            "objects": objects and str(objects),
            "ids": ids and str(ids),
        },
        "arrays": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()},
    }
    return Features(image_ids, **arrays, valid=valid, grid=grid, manifest=manifest)


def content_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, wherever the file lies.

    Of a file over `WHOLE_BYTES` only its size and `HASHED_BLOCKS` evenly spaced blocks of `HASHED_BYTES`, the first and
    the last among them, are read: a change between these blocks is not seen.
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
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--import-ids {path}: unreadable ({error}); give a text file, one id a line") from error
    names = [line.strip() for line in lines if line.strip()]
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) != len(names):
        twice = next(name for row, name in enumerate(names) if row_of[name] != row)
        raise UserError(f"--import-ids {path}: {twice} occurs twice; each image has one row")
    absent = [image_id for image_id in image_ids if image_id not in row_of]
    if absent:
        raise UserError(
            f"--import-ids {path}: {len(absent)} of the {len(image_ids)} images of the data set are not in it, the"
            f" first {absent[0]}; extract features for them, too"
        )
    return np.array([row_of[image_id] for image_id in image_ids], np.int64), len(names)


def _open_rows(what: str, path: str | Path, image_ids: tuple[str, ...], ids, order) -> np.ndarray | Reordered:
    array = map_array(path)
    letters = "(N, D, M)" if "regions" in what.split()[0] else "(N, P, Q)"
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{what}: shape {array.shape}, wanted is {letters}; reshape it")
    if array.dtype not in (np.float16, np.float32):
        raise UserError(f"{what}: dtype {array.dtype}, wanted is float16 or float32; convert it by .astype")
    if order is None:
        if len(array) != len(image_ids):
            raise UserError(
                f"{what}: {len(array)} rows for {len(image_ids)} images; say by --import-ids which row is which image"
            )
    else:
        rows, expected = order
        if len(array) != expected:
            raise UserError(f"{what}: {len(array)} rows, --import-ids {ids} has {expected} ids; give its own list")
        if np.array_equal(rows, np.arange(len(rows))):
            array = array[: len(rows)]
        else:
            array = Reordered(array, rows)
    for row in np.unique(np.linspace(0, len(array) - 1, SAMPLED_ROWS).astype(np.int64)):
        if not np.isfinite(array[row]).all():
            raise UserError(f"{what}: the features of {image_ids[row]} are not finite; extract them anew")
    return array


def _not_padding(objects: np.ndarray | Reordered) -> np.ndarray:
    """bool (N, P): True where an object's features (N, P, Q) are not all zeros.

    Reads block by block: of an array in the corpus' order only the first numbers of each object (of a `Reordered` one
    whole rows), then the rest of those rows where these are all zero.
    """
    count, P, Q = objects.shape
    valid = np.empty((count, P), bool)
    block = max(1, BLOCK_BYTES // (P * Q * objects.dtype.itemsize))
    for start in range(0, count, block):
        rows = np.arange(start, min(start + block, count))
        valid[rows] = np.any(objects[start : start + block, :, :PREFIX], axis=2)
        doubtful = rows[~valid[rows].all(axis=1)]
        if len(doubtful):
            valid[doubtful] = np.any(objects[doubtful], axis=2)
    return valid
