"""A store whose corpus has got further pictures, or another order: only new ones are extracted.

In: a store's folder and the plan of what it is to hold now. Out: the store of that plan in its place. Pictures that
follow the known ones are given room behind them, else all known rows are copied: no row becomes that of another
picture under a process that reads it. A picture that has another name by now gets a copy of its row; new pictures
beside it stand there like unreadable ones, so that nobody takes their zeros for features. Nothing is done where more
than the pictures differs, or where features of a picture that is not in the plan would be lost and that is not wanted.
A kill at any point loses nothing but copies: the next call finishes what was begun, or undoes it, and extracts what was
to be copied.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bssan_tf.features.describer import file_digest, file_state
from bssan_tf.features.store import (
    FEATURE_ARRAYS,
    MANIFEST,
    OF_FILES,
    REMEDY,
    check_manifest,
    open_array,
    read_ids,
    read_manifest,
)
from bssan_tf.features.store_sums import SUMS, changed_rows, row_sums
from bssan_tf.features.store_writer import PROGRESS, StorePlan, StoreWriter, lock_of, npy_header, write_ids
from bssan_tf.reading.arrays import read_header
from bssan_tf.reading.documents import read_json
from bssan_tf.reading.files import refusing
from bssan_tf.tools.files import locked, open_own, write_json

logger = logging.getLogger(__name__)

GONE_SHARE = 1 / 8  # at most this share of a store's rows may be of pictures that are gone
_BLOCK = 64  # rows that are copied at once
APPENDED = "appended.json"  # what a store that gets room for more is about to be
_ARRAYS = {*FEATURE_ARRAYS, *OF_FILES, SUMS, "sizes"}  # that a store may have
_IMAGES = ("images", "ids_sha256", "arrays")  # what the pictures change in a manifest


def in_store_order(folder: str | Path, names: Sequence[str], keep_gone: bool) -> tuple[str, ...]:
    """Pictures in the order of a store, with new ones last, so that no row moves.

    Where `keep_gone`, the store's pictures that are not among them stay in their places, as long as they are few and
    were extracted: the rest is not copied for them.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return tuple(names)
    there, wanted = read_ids(folder), set(names)
    old = set(there)
    known = [name for name in there if name in wanted]
    gone = old - wanted
    extracted = set(there[: manifest["finished_rows"]]).difference(manifest["bad_images"])
    if keep_gone and gone <= extracted and len(gone) <= GONE_SHARE * len(there):
        known = there
    return (*known, *(name for name in names if name not in old))


def grow_store(
    folder: str | Path,
    plan: StorePlan,
    unread: int,
    may_lose: bool = False,
    wait: bool = False,
    files: Sequence[Path] = (),
) -> None:
    """Make the store fit `plan` if only its pictures differ; `unread` is the size that marks a row to extract.

    Args:
        may_lose: pictures that are not in the plan may go.
        wait: for another process that writes it.
        files: of the plan's pictures, if a row depends on a file's content alone: a moved one then keeps its row.

    Raises:
        UserError: the store is damaged, another process writes it, the disk is too small for the old and the new one.
    """
    folder = Path(folder)
    part, old = (folder.with_name(f".{folder.name}.{ending}") for ending in ("grown", "old"))
    torn = (old.is_dir() and not folder.exists()) or (folder / APPENDED).exists()
    if not torn and _growing(folder, plan, may_lose) is None:
        return  # without the lock, so that a cache that can't be written is read
    refusal = f"{folder}: another process is extracting into it; wait for it or give another --cache"
    with locked(lock_of(folder), None if wait else refusal):
        if old.is_dir() and not folder.exists():
            old.rename(folder)  # a kill came between the two renames
        _finish_append(folder)
        found = _growing(folder, plan, may_lose)
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        if found is None:
            return
        if _can_append(*found, plan):
            known = _append(folder, *found, plan, unread, files)
        else:
            try:
                known = _copy(folder, *found, part, plan, unread, files)
                folder.rename(old)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    if new := len(plan.image_ids) - known:
        logger.info("%s: %d pictures are new", folder, new)


def _growing(folder: Path, plan: StorePlan, may_lose: bool) -> tuple[dict, tuple[str, ...]] | None:
    """Manifest and ids of a store that is to grow; None where it fits, or can't be made to."""
    manifest = read_manifest(folder)
    if manifest is None or not _grows(manifest, plan) or any(folder.glob(PROGRESS)):
        return None
    ids = read_ids(folder)
    fits = len(ids) == manifest["images"] and (may_lose or set(ids) <= set(plan.image_ids))
    return (manifest, ids) if fits else None


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


def _can_append(manifest: dict, ids: tuple[str, ...], plan: StorePlan) -> bool:
    """Whether the new pictures follow the known ones, in a store of this version."""
    kept, count = {SUMS, *plan.kept}, len(ids)
    wholes = [plan.whole(name) for name in plan.layout(kept)]
    room = all(len(npy_header((count, *shape[1:]), dtype)) == len(npy_header(shape, dtype)) for shape, dtype in wholes)
    return plan.image_ids[:count] == ids and set(manifest.get("kept", ())) == kept and room


def _append(
    folder: Path, manifest: dict, ids: tuple[str, ...], plan: StorePlan, unread: int, files: Sequence[Path]
) -> int:
    """Give the arrays room for the new pictures, which count as not extracted yet: `finished_rows` stays.

    Where new pictures are known by the content of their `files`, as of `grow_store`, all that are new get their rows at
    once; a kill amid that costs the extraction of all. Returns the number of pictures with features.
    """
    for name in plan.layout(manifest["kept"]):
        with _opened(folder, name) as descriptor:
            size = len(npy_header(*plan.whole(name))) + len(plan.image_ids) * plan.row_bytes(name)
            os.ftruncate(descriptor, size)
    change = {"manifest": {**manifest, **plan.manifest()}, "ids": plan.image_ids}
    write_json(folder / APPENDED, change, durable=True)  # from here on it will be so
    _finish_append(folder)
    known = _Known(folder, manifest, ids, plan)
    if len(known.row_of) == len(ids) and (moved := known.moved(list(zip(plan.image_ids, files))[len(ids) :])):
        with _UnlockedWriter(folder, plan) as writer:
            return known.fill(writer, len(ids), moved, unread)
    return len(ids) - len(known.bad)


def _finish_append(folder: Path) -> None:
    """Say in the store's files what `_append` has begun, if it has; doing it twice does no harm."""
    path = folder / APPENDED
    if not path.exists():
        return
    with refusing(str(path), "damaged", REMEDY):
        manifest, ids = map(read_json(path, REMEDY).__getitem__, ("manifest", "ids"))
        check_manifest(manifest)
        names = {*manifest["arrays"], *manifest["kept"]}
        if len(ids) != manifest["images"] or not names <= _ARRAYS:
            raise ValueError(f"{len(ids)} ids, and arrays {', '.join(sorted(names))}")
    for name in names:
        with open(folder / f"{name}.npy", "rb") as file, _opened(folder, name) as descriptor:
            shape, _, dtype = read_header(file)
            os.pwrite(descriptor, npy_header((len(ids), *shape[1:]), dtype), 0)
    write_ids(folder, ids)
    write_json(folder / MANIFEST, manifest, durable=True)
    path.unlink()


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[int]:
    """The descriptor of an array's file, whose changes are on the disk afterwards."""
    descriptor = open_own(folder / f"{name}.npy", os.O_RDWR)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _UnlockedWriter(StoreWriter):
    """Of a folder that no other process writes; the lock is that of the store it is, or is to be."""

    def _take_locks(self, held: contextlib.ExitStack) -> None:
        pass


def _copy(
    folder: Path,
    manifest: dict,
    ids: tuple[str, ...],
    part: Path,
    plan: StorePlan,
    unread: int,
    files: Sequence[Path],
) -> int:
    """Write the store of the plan to `part`; the rest as of `_append`."""
    known = _Known(folder, manifest, ids, StorePlan(ids, plan.arrays, plan.made_with, plan.kept))
    known.leave_out_changed()
    moved = known.moved((name, path) for name, path in zip(plan.image_ids, files) if name not in known.row_of)
    with _UnlockedWriter(part, plan) as writer:
        return known.fill(writer, 0, known.row_of | moved, unread)


class _Known:
    """The finished rows of a store whose arrays are those of `plan`: `row_of` has the row of each of these `ids`."""

    def __init__(self, folder: Path, manifest: dict, ids: Sequence[str], plan: StorePlan):
        self.folder, self.plan, self.ids = folder, plan, ids
        self.bad, kept = set(manifest["bad_images"]), manifest.get("kept", ())
        self.row_of = {name: row for row, name in enumerate(ids[: manifest["finished_rows"]])}
        names = {*plan.arrays, *(plan.kept.keys() & set(kept))}
        self.arrays = {name: open_array(folder, name, *plan.whole(name)) for name in names}
        self.sums = open_array(folder, SUMS, *plan.whole(SUMS)) if SUMS in kept else None

    def leave_out_changed(self) -> None:
        """Changed rows would get a new checksum elsewhere, and pass for whole."""
        summed = {name: self.arrays[name] for name in self.plan.arrays}
        for row in changed_rows(self.ids, summed, self.sums) if self.sums is not None else ():
            if self.row_of.pop(self.ids[row], None) is not None:
                what = "the row of %s has changed since it was written; extracted anew"
                logger.warning(f"%s: {what}", self.folder, self.ids[row])

    def moved(self, pictures: Iterable[tuple[str, Path]]) -> dict[str, int]:
        """Of pictures without a row, by name: the known row that has their file's content, where one has."""
        if not self.plan.kept.keys() <= self.arrays.keys():
            return {}
        sizes, digests = (self.arrays[name].tolist() for name in ("sizes", "digests"))
        found, row_with = {}, {(sizes[row], digests[row]): row for row in self.row_of.values()}
        seen = {size for size, digest in row_with if size >= 0 and digest}
        for name, path in pictures:
            state = file_state(path)
            row = row_with.get((state.size, file_digest(path))) if state and state.size in seen else None
            if row is not None and self._is_whole(row):
                found[name] = row
        return found

    def _is_whole(self, row: int) -> bool:
        values = {name: self.arrays[name][row : row + 1] for name in self.plan.arrays}
        return self.sums is None or row_sums(self.ids[row : row + 1], values)[0] == self.sums[row]

    def fill(self, writer: StoreWriter, first: int, row_of: Mapping[str, int], unread: int) -> int:
        """Write the rows from `first` on: known ones by `row_of`, others as zeros, `unread` for their size.

        Pictures that can't be read are known, too, and stay such. Returns the number of rows that have features.
        """
        names = writer.plan.image_ids
        sources = np.array([row_of.get(name, -1) for name in names[first:]], np.int64)
        for start in range(0, len(sources), _BLOCK):
            rows = sources[start : start + _BLOCK]
            values = {name: array[rows] for name, array in self.arrays.items()}  # a copy
            for name, value in values.items():
                value[rows < 0] = unread if name == "sizes" else 0
            for name, (shape, dtype) in self.plan.kept.items():  # of an older store: zeros, which are no digest
                values.setdefault(name, np.zeros((len(rows), *shape), dtype))
            writer.write(first + start, values)
        lacking = {row for row, source in enumerate(sources, first) if source < 0 or names[row] in self.bad}
        writer.commit(len(names), writer.bad | lacking)
        return len(names) - len(writer.bad)
