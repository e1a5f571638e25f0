"""The feature store: arrays of a whole corpus in one folder, written once, then only memory-mapped.

One .npy per array, ids.txt with the image ids, and manifest.json, which says what the features were made with and how
many rows are finished. `store_writer.py` writes it; `open_store` gives a finished one as `Features`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store_sums import SUMS, changed_rows
from bssan_tf.reading.arrays import first_not_finite

logger = logging.getLogger(__name__)

MANIFEST, IDS = "manifest.json", "ids.txt"
FEATURE_ARRAYS = ("regions", "objects", "boxes", "classes", "scores", "valid")  # a writer may keep more beside them
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


def read_manifest(folder: str | Path) -> dict | None:
    """The manifest of a store; None where there is no store yet. UserError: it is damaged, or arrays have none."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in (("finished_rows", int), ("bad_images", list), ("arrays", dict)):
            if not isinstance(manifest[key], kind):
                raise ValueError(f"{key} is {manifest[key]!r}")
        return manifest
    except FileNotFoundError:
        for name in FEATURE_ARRAYS:
            if (Path(folder) / f"{name}.npy").exists():
                raise UserError(f"{folder}: has {name}.npy but no {MANIFEST}; {REMEDY}") from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from error


def read_ids(folder: str | Path) -> tuple[str, ...]:
    """The image ids of a store; UserError where they can't be read."""
    path = Path(folder) / IDS
    try:
        return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: unreadable ({error}); {REMEDY}") from error


def open_store(folder: str | Path, verify: bool = True) -> Features:
    """Open a finished store; UserError: there is none, it is unfinished, or its files don't fit its manifest.

    Where `verify`, also if a row has changed since it was written; a store of an older version cannot tell.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no feature store; run train.py, which extracts the features")
    ids, finished, bad_images = read_ids(folder), manifest["finished_rows"], set(manifest["bad_images"])
    if not bad_images.issubset(ids) or len(ids) != manifest.get("images") or finished > len(ids):
        raise UserError(f"{folder / IDS}: doesn't fit {MANIFEST}; {REMEDY}")
    if finished < len(ids):
        what = f"only {finished} of {len(ids)} images are extracted"
        raise UserError(f"{folder}: {what}; run train.py to extract the rest")
    arrays = {}
    for name, layout in manifest["arrays"].items():
        arrays[name] = map_array(folder / f"{name}.npy")
        if list(arrays[name].shape) != layout["shape"] or arrays[name].dtype != layout["dtype"]:
            raise UserError(f"{folder / name}.npy: shape or dtype differ from {MANIFEST}; {REMEDY}")
    if verify:
        _verify(folder, manifest, ids, arrays)
    arrays = {name: array for name, array in arrays.items() if name in FEATURE_ARRAYS}
    bad = np.array([row for row, image_id in enumerate(ids) if image_id in bad_images], np.int64)
    grid = tuple(manifest.get("grid") or ()) or None
    return Features(ids, grid=grid, manifest=manifest, bad_rows=bad, **arrays)


def _verify(folder: Path, manifest: Mapping, ids: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> None:
    if SUMS not in manifest.get("kept", ()):
        logger.info("%s: of an older version, without checksums; not verified", folder)
        return
    sums = map_array(folder / f"{SUMS}.npy")
    if sums.shape != (len(ids),) or sums.dtype != np.uint32:
        raise UserError(f"{folder / SUMS}.npy: doesn't fit {MANIFEST}; {REMEDY}")
    if changed := changed_rows(ids, arrays, sums):
        what = f"{len(changed)} of {len(ids)} rows have changed since they were written, the first that of"
        remedy = "put the folder back, or delete it to extract the features anew"
        raise UserError(f"{folder}: {what} {ids[changed[0]]} (row {changed[0]}); {remedy}")


def map_array(path: str | Path) -> np.ndarray:
    """Memory-map a .npy for reading; a UserError where it is absent, damaged or holds Python objects."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a complete .npy array of numbers ({reason})") from error


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
