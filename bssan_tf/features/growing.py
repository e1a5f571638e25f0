"""A store whose corpus has got further pictures, or another order: known rows are copied, so that only new ones are
extracted.

In: a store's folder and the plan of what it is to hold now. Out: the store of that plan in its place; new pictures
stand in it like unreadable ones, which every extraction looks at again. Nothing is done where more than the pictures
differs, or where features of a picture that is not in the plan would be lost and that is not wanted.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

import numpy as np

from bssan_tf.features.store import map_array, read_ids, read_manifest
from bssan_tf.features.store_writer import LOCK, PROGRESS, StorePlan, StoreWriter
from bssan_tf.tools.files import locked

logger = logging.getLogger(__name__)

_BLOCK = 256  # rows that are copied at once
_IMAGES = ("images", "ids_sha256", "arrays")  # what the pictures change in a manifest


def grow_store(folder: str | Path, plan: StorePlan, unread: int, may_lose: bool = False) -> None:
    """Make the store fit `plan` if only its pictures differ; `unread` is the size that marks a row to extract.

    `may_lose`: pictures that are not in the plan may go.

    UserError: the store is damaged, another process writes it, or the disk is too small for the old and the new one.
    """
    folder = Path(folder)
    part, old = (folder.with_name(f".{folder.name}.{ending}") for ending in ("grown", "old"))
    if old.is_dir() and not folder.exists():
        old.rename(folder)  # a kill came between the two renames
    manifest = read_manifest(folder)
    if manifest is None or not _grows(manifest, plan) or any(folder.glob(PROGRESS)):
        return
    ids = read_ids(folder)
    if len(ids) != manifest["images"] or not (may_lose or set(ids) <= set(plan.image_ids)):
        return
    refusal = f"{folder}: another process is extracting into it; wait for it or give another --cache"
    with locked(folder / LOCK, refusal):
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        bad = set(manifest["bad_images"])
        row_of = {name: row for row, name in enumerate(ids[: manifest["finished_rows"]]) if name not in bad}
        sources = np.array([row_of.get(name, -1) for name in plan.image_ids], np.int64)
        with StoreWriter(part, plan) as writer:
            _copy(folder, manifest, writer, sources, unread)
            writer.commit(len(sources), np.flatnonzero(sources < 0).tolist())
        folder.rename(old)
        part.rename(folder)
    with contextlib.suppress(OSError):
        shutil.rmtree(old)
    known = int((sources >= 0).sum())
    logger.info("%s: %d pictures are known, %d are new", folder, known, len(sources) - known)


def _grows(manifest: dict, plan: StorePlan) -> bool:
    """Whether the pictures, and nothing else, differ."""
    wanted = plan.manifest()
    if manifest.get("ids_sha256") == wanted["ids_sha256"]:
        return False
    same = all(manifest.get(key) == value for key, value in wanted.items() if key not in _IMAGES)
    rows = [
        {name: (array["shape"][1:], array["dtype"]) for name, array in one["arrays"].items()}
        for one in (manifest, wanted)
    ]
    return same and rows[0] == rows[1]


def _copy(folder: Path, manifest: dict, writer: StoreWriter, sources: np.ndarray, unread: int) -> None:
    """Write the row of each picture, `sources` (N,) in the old store; -1: zeros, and `unread` for its size."""
    plan, kept = writer.plan, manifest.get("kept", ())
    arrays = {name: map_array(folder / f"{name}.npy") for name in {*plan.arrays, *(plan.kept.keys() & set(kept))}}
    for start in range(0, len(sources), _BLOCK):
        rows = sources[start : start + _BLOCK]
        values = {name: np.where(_like(rows >= 0, array), array[rows], 0) for name, array in arrays.items()}
        values["sizes"] = np.where(rows >= 0, arrays["sizes"][rows], unread)
        for name in plan.kept:  # of an older store: zeros, which say nothing and so have the picture read again
            shape, dtype = plan.kept[name]
            values.setdefault(name, np.zeros((len(rows), *shape), dtype))
        writer.write(start, values)


def _like(flags: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Flags (n,) that can be broadcast to rows of an array."""
    return flags.reshape(-1, *[1] * (array.ndim - 1))
