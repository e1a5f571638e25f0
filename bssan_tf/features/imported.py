"""A user's own features: regions (N, D, M) and objects (N, P, Q) of any size from .npy files, memory-mapped.

Rows are in the order of an ids file, one image id a line, in any order, other images allowed; without one in the order
of the captions' file, as public feature files have them, also with each row as often as an image has captions.
Objects that are all zeros count as padding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store import Features
from bssan_tf.reading.arrays import first_not_finite, open_npy
from bssan_tf.reading.documents import lines_of, read_text
from bssan_tf.tools.files import file_sha256

logger = logging.getLogger(__name__)

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
    file_ids: Sequence[str] = (),
) -> Features:
    """Open a user's own arrays as `Features` whose row i is image i of the corpus.

    Args:
        image_ids: the corpus' ids, N of them.
        regions, objects: .npy, float16 or float32 (n, D, M) and (n, P, Q).
        ids: text file with the image id of each of the n rows; None where rows are in the order of `file_ids`.
        file_ids: ids in the order of the captions' file, at least the corpus'; () for the corpus' order.

    Raises:
        UserError: a file absent or damaged, a wrong shape or dtype, images without a row, values not finite.
    """
    image_ids = tuple(image_ids)
    files = {"regions": regions, "objects": objects, "ids": ids}
    names = None if ids is None else _read_ids(Path(ids), image_ids)
    given = [name for name in ("regions", "objects") if files[name] is not None]
    if not given:
        raise ValueError("neither regions nor objects given")
    opened = {name: _open_array(name, files[name]) for name in given}
    rows = {name: _rows_of(name, files, opened[name], image_ids, names, tuple(file_ids)) for name in given}
    arrays = {name: _in_order(name, files[name], opened[name], rows[name], image_ids) for name in given}
    D = arrays["regions"].shape[1] if "regions" in given else 0
    side = math.isqrt(D)
    grid = (side, side) if D and side**2 == D else None
    valid = _not_padding(arrays["objects"]) if "objects" in given else None
    manifest = {
        "extractor": "imported",
        "files": {name: path and str(path) for name, path in files.items()},
        "arrays": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()},
        "rows": {name: found.tolist() for name, found in rows.items()},
    }
    if ids is None and any(not np.array_equal(found, np.arange(len(image_ids))) for found in rows.values()):
        told = json.dumps(manifest["rows"], sort_keys=True)  # earlier runs took them in the corpus' order
        manifest["order"] = {"order": hashlib.sha256(told.encode()).hexdigest()}
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


def _read_ids(path: Path, image_ids: Sequence[str]) -> list[str]:
    """The image of each row, all of the corpus' among them."""
    lines = lines_of(read_text(path, "give a text file, one id a line", f"--import-ids {path}"))
    names = [line.strip() for line in lines if line.strip()]
    known: set[str] = set()
    for name in names:
        if name in known:
            raise UserError(f"--import-ids {path}: {name} occurs twice; each image has one row")
        known.add(name)
    if absent := [image_id for image_id in image_ids if image_id not in known]:
        problem = f"{len(absent)} of the {len(image_ids)} images of the data set are not in it, the first {absent[0]}"
        raise UserError(f"--import-ids {path}: {problem}; extract features for them, too")
    return names


def _open_array(name: str, path: str | Path) -> np.ndarray:
    """The regions or the objects, of a shape and dtype that can be."""
    array = open_npy(path, "save it anew by np.save", f"--import-{name} {path}")
    if array.ndim != 3 or 0 in array.shape:
        letters = "(N, D, M)" if name == "regions" else "(N, P, Q)"
        raise UserError(f"--import-{name} {path}: shape {array.shape}, wanted is {letters}; reshape it")
    if array.dtype not in (np.float16, np.float32):
        problem = f"dtype {array.dtype}, wanted is float16 or float32; convert it by .astype"
        raise UserError(f"--import-{name} {path}: {problem}")
    return array


def _rows_of(name: str, files: dict, array: np.ndarray, image_ids: tuple, names, file_ids: tuple) -> np.ndarray:
    """The row of each corpus image, int64 (N,); `names` of an ids file, None without one."""
    what, count = f"--import-{name} {files[name]}", len(array)
    times = 1
    if names is not None:
        if count != len(names):
            raise UserError(
                f"{what}: {count} rows, --import-ids {files['ids']} has {len(names)} ids; give its own list"
            )
    else:
        kept = set(image_ids)
        names = file_ids or image_ids
        if count % len(names) and tuple(name for name in names if name in kept) == image_ids:
            names = image_ids  # one row for each image that is left, and their order is the file's
        times, rest = divmod(count, len(names))
        if rest or not times or (times > 1 and not _repeats(array, times)):
            images = f"{len(names)} images in the captions' file"
            raise UserError(f"{what}: {count} rows for {images}; say by --import-ids which row is which image")
        again = f", each {times} times" if times > 1 else ""
        logger.info("%s: rows in the order of the captions' file%s, the first %s", what, again, ", ".join(names[:3]))
    row_of = {name: row for row, name in enumerate(names)}
    return times * np.array([row_of[image_id] for image_id in image_ids], np.int64)


def _repeats(array: np.ndarray, times: int) -> bool:
    """Whether each row stands there so often, one after the other."""
    step = max(1, BLOCK_BYTES // (times * array[0].nbytes)) * times
    blocks = (array[start : start + step] for start in range(0, len(array), step))
    groups = (block.reshape(-1, times, *array.shape[1:]) for block in blocks)
    return all(np.array_equal(group[:, 1:], np.broadcast_to(group[:, :1], group[:, 1:].shape)) for group in groups)


def _in_order(name: str, path, array: np.ndarray, rows: np.ndarray, image_ids: tuple) -> np.ndarray | Reordered:
    """Row i of image i, without a copy; UserError where one is not finite."""
    count = len(image_ids)
    array = array[:count] if np.array_equal(rows, np.arange(count)) else Reordered(array, rows)
    if (row := first_not_finite(array)) is not None:
        raise UserError(f"--import-{name} {path}: the features of {image_ids[row]} are not finite; extract them anew")
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
