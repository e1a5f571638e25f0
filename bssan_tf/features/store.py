"""The feature store: arrays of a whole corpus in one folder, written once, then only memory-mapped.

One .npy per array, ids.txt with the image ids, and manifest.json, which says what the features were made with and how
many rows are finished. `store_writer.py` writes it; `open_store` gives a finished one as `Features`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store_sums import SUMS, changed_rows
from bssan_tf.reading.arrays import first_not_finite, open_npy
from bssan_tf.reading.documents import read_bytes, read_json
from bssan_tf.reading.files import refusing

logger = logging.getLogger(__name__)

FORMAT = 2  # of the manifest; stores of format 1 may have no checksums
MANIFEST, IDS = "manifest.json", "ids.txt"
FEATURE_ARRAYS = ("regions", "objects", "boxes", "classes", "scores", "valid")  # a writer may keep more beside them
OF_FILES = {"digests", "stamps"}  # arrays that older stores lack, as `store_sums.SUMS`
REMEDY = "give another --cache or delete this folder"


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a corpus, memory-mapped; row i belongs to image i of the corpus.

    Attributes:
        image_ids: the corpus' image ids, N of them.
        regions, objects: float16 or float32 (N, D, M) and (N, P, Q), or None.
        boxes: float32 (N, P, 4), x1, y1, x2, y2 as fractions of the picture, or None.
        classes, scores: int32 and float32 (N, P), the detector's class or -1 and its score or 0, or None.
        valid: bool (N, P), False where an image has no further object, or None.
        grid: rows and columns in which the D regions lie on the picture, or None where unknown.
        manifest: what the features were made with.
        bad_rows: int64, ascending; pictures that could not be read: rows of zeros, to be left out of the splits.
        in_context: whether objects have their class and the whole photo beside them (`with_context`).
        folder, sums: where the store lies, and the checksums of its rows, uint32 (N,); None where there are none.
    """

    image_ids: tuple[str, ...]
    regions: np.ndarray | None = None
    objects: np.ndarray | None = None
    boxes: np.ndarray | None = None
    classes: np.ndarray | None = None
    scores: np.ndarray | None = None
    valid: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    manifest: Mapping = field(default_factory=dict)
    bad_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    in_context: bool = False
    folder: Path | None = None
    sums: np.ndarray | None = None


def read_manifest(folder: str | Path) -> dict | None:
    """The manifest of a store; None where there is no store yet. UserError: it is damaged, or arrays have none."""
    path = Path(folder) / MANIFEST
    try:
        manifest = read_json(path, REMEDY)
    except UserError:
        if os.path.lexists(path):
            raise
        for name in FEATURE_ARRAYS:
            if (Path(folder) / f"{name}.npy").exists():
                raise UserError(f"{folder}: has {name}.npy but no {MANIFEST}; {REMEDY}") from None
        return None
    with refusing(str(path), "damaged", REMEDY):
        check_manifest(manifest)
        if SUMS not in manifest.get("kept", ()) and (manifest["format"] > 1 or (path.parent / f"{SUMS}.npy").exists()):
            raise ValueError(f"kept lacks {SUMS}")
    return manifest


def check_manifest(manifest: dict) -> None:
    """Any exception where a field that this package reads is absent or of another kind."""
    count, grid, arrays, kept = manifest["images"], manifest.get("grid"), manifest["arrays"], manifest.get("kept", [])
    checks = {
        "format": manifest["format"] in range(1, FORMAT + 1),
        "images": _is_count(count),
        "finished_rows": _is_count(manifest["finished_rows"]),
        "bad_images": _is_list(manifest["bad_images"], str),
        "kept": _is_list(kept, str) and {*kept} <= {SUMS, *OF_FILES} and len({*kept} & OF_FILES) in (0, len(OF_FILES)),
        "batch_size": type(manifest.get("batch_size", 1)) is int and manifest.get("batch_size", 1) > 0,
        "grid": grid is None or (_is_list(grid, int) and len(grid) == 2),
        "arrays": isinstance(arrays, dict) and all(isinstance(one, dict) for one in arrays.values()),
    }
    for name, passes in checks.items():
        if not passes:
            raise ValueError(f"{name} is {manifest[name]!r:.80}")
    for name, layout in arrays.items():
        shape = layout["shape"]
        np.dtype(layout["dtype"])  # or TypeError
        if not (_is_list(shape, int) and shape[:1] == [count] and min(shape) >= 0 and isinstance(layout["dtype"], str)):
            raise ValueError(f"the layout of {name} is {layout!r:.80}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


def read_ids(folder: str | Path) -> tuple[str, ...]:
    """The image ids of a store; UserError where they can't be read."""
    path = Path(folder) / IDS
    with refusing(str(path), "unreadable", REMEDY):
        return tuple(read_bytes(path, REMEDY).decode("utf-8").split("\n")[:-1])


def open_array(folder: str | Path, name: str, shape: Sequence[int], dtype: str) -> np.ndarray:
    """An array of a store, memory-mapped; UserError where it is damaged, or not of this shape and dtype."""
    path = Path(folder) / f"{name}.npy"
    array = open_npy(path, REMEDY)
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise UserError(f"{path}: shape or dtype differ from {MANIFEST}; {REMEDY}")
    return array


def open_store(folder: str | Path, verify: bool = True) -> Features:
    """Open a finished store; UserError: there is none, it is unfinished, or its files don't fit its manifest.

    Where `verify`, also if a row has changed since it was written; a store of an older version cannot tell.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no feature store; run train.py, which extracts the features")
    ids, finished, bad_images = read_ids(folder), manifest["finished_rows"], set(manifest["bad_images"])
    if not bad_images.issubset(ids) or len(ids) != manifest["images"] or finished > len(ids):
        raise UserError(f"{folder / IDS}: doesn't fit {MANIFEST}; {REMEDY}")
    if finished < len(ids):
        what = f"only {finished} of {len(ids)} images are extracted"
        raise UserError(f"{folder}: {what}; run train.py to extract the rest")
    layouts = manifest["arrays"].items()
    arrays = {name: open_array(folder, name, layout["shape"], layout["dtype"]) for name, layout in layouts}
    sums = open_array(folder, SUMS, (len(ids),), "uint32") if SUMS in manifest.get("kept", ()) else None
    if verify and sums is None:
        logger.info("%s: of an older version, without checksums; not verified", folder)
    elif verify:
        _verify(folder, ids, arrays, sums)
    arrays = {name: array for name, array in arrays.items() if name in FEATURE_ARRAYS}
    bad = np.array([row for row, image_id in enumerate(ids) if image_id in bad_images], np.int64)
    grid = tuple(manifest.get("grid") or ()) or None
    return Features(ids, grid=grid, manifest=manifest, bad_rows=bad, folder=folder, sums=sums, **arrays)


def _verify(folder: Path, ids: tuple[str, ...], arrays: Mapping[str, np.ndarray], sums: np.ndarray) -> None:
    if changed := changed_rows(ids, arrays, sums):
        what = f"{len(changed)} of {len(ids)} rows have changed since they were written, the first that of"
        remedy = "put the folder back, or delete it to extract the features anew"
        raise UserError(f"{folder}: {what} {ids[changed[0]]} (row {changed[0]}); {remedy}")


def require_finite(features: Features) -> None:
    """UserError that names the first picture whose regions or objects have a NaN or an infinity; reads all of them."""
    for name in ("regions", "objects"):
        array = getattr(features, name)
        if array is not None and (row := first_not_finite(array)) is not None:
            file = features.manifest.get("files", {}).get(name) or getattr(array, "filename", None) or name
            what = f"the row of {features.image_ids[row]} (picture {row} of the corpus) has values that are not finite"
            raise UserError(f"{file}: {what}; extract these features anew")


def gather(features: Features, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the store as float32 inputs of the model: regions (B, D, M), objects (B, P, Q), valid bool (B, P)."""
    inputs = {}
    if features.regions is not None:
        inputs["regions"] = np.asarray(features.regions[rows], np.float32)
    if features.objects is not None:
        inputs["objects"] = np.asarray(features.objects[rows], np.float32)
        inputs["valid"] = np.asarray(features.valid[rows], bool)
    return inputs


def longest(tokens: np.ndarray) -> int:
    """Length of the longest caption of int (N, L), at least 1."""
    return max(1, int((tokens != 0).sum(axis=1).max()))
