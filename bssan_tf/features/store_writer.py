"""Writes a feature store so that a kill at any point costs little and spoils nothing.

`StoreWriter` preallocates one .npy per array, writes blocks of rows by ordinary file I/O (so that memory stays small),
and then replaces manifest.json, whose `finished_rows` says where to go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store import FORMAT, IDS, MANIFEST, REMEDY, read_ids, read_manifest
from bssan_tf.features.store_sums import SUMS, row_sums
from bssan_tf.tools.files import locked, open_own, write_json, write_text

OTHER = "give what it was made with, or another --cache"  # the store there is whole
PROGRESS = "shard-*.json"  # files of `shards.py`, each there once its shard has finished rows


@dataclass(frozen=True)
class StorePlan:
    """What a store is to hold: the images, each array's row shape and dtype, and what it is made with."""

    image_ids: tuple[str, ...]
    arrays: Mapping[str, tuple[tuple[int, ...], str]]
    made_with: Mapping  # JSON values; a store made with others does not fit
    kept: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)  # arrays that older stores lack

    def manifest(self) -> dict:
        """The manifest but for the progress."""
        count = len(self.image_ids)
        return {
            **self.made_with,
            "images": count,
            "ids_sha256": hashlib.sha256("\n".join(self.image_ids).encode()).hexdigest(),
            "arrays": {name: {"shape": [count, *row], "dtype": dtype} for name, (row, dtype) in self.arrays.items()},
        }

    def layout(self, kept: Iterable[str]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Row shape and dtype of all arrays, and of those `kept`, in the order in which they are written."""
        beside = {**self.kept, SUMS: ((), "uint32")}
        *first, last = self.arrays
        return {name: self.arrays.get(name) or beside[name] for name in (*first, *kept, last)}

    def whole(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of an array of all rows."""
        shape, dtype = self.layout((*self.kept, SUMS))[name]
        return (len(self.image_ids), *shape), dtype

    def row_bytes(self, name: str) -> int:
        """Bytes of a row of an array."""
        shape, dtype = self.layout((*self.kept, SUMS))[name]
        return int(np.prod(shape)) * np.dtype(dtype).itemsize

    def rows_of(self, image_ids: Iterable[str]) -> set[int]:
        """The rows of some of the images."""
        wanted = set(image_ids)
        return {row for row, image_id in enumerate(self.image_ids) if image_id in wanted}


def lock_of(folder: str | Path) -> Path:
    """The file that a store's writers lock; beside it, as `grow_store` puts another folder in its place."""
    return Path(folder).with_name(f".{Path(folder).name}.lock")


def check_fit(folder: str | Path, manifest: Mapping, plan: StorePlan) -> None:
    """Raise a UserError that says every field in which the store differs from the plan, with both values."""
    differences = [
        f"{key} is {_short(manifest.get(key))} there, {_short(wanted)} asked for"
        for key, wanted in plan.manifest().items()
        if manifest.get(key) != wanted
    ]
    if differences:
        raise UserError(f"{Path(folder) / MANIFEST}: {'; '.join(differences)}; {OTHER}")
    if read_ids(folder) != plan.image_ids:
        raise UserError(f"{Path(folder) / IDS}: other images than the corpus'; {OTHER}")
    known = set(plan.image_ids).issuperset(manifest["bad_images"])
    if not (known and 0 <= manifest["finished_rows"] <= len(plan.image_ids)):
        raise UserError(f"{Path(folder) / MANIFEST}: damaged (finished_rows or bad_images); {REMEDY}")


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


class StoreWriter(contextlib.AbstractContextManager):
    """Writes a store, or goes on with one of the same plan; holds its lock from its making until `__exit__`.

    Attributes:
        finished_rows: rows [0, finished_rows) are on disk.
        bad: rows whose pictures could not be read.

    Raises:
        UserError: the store there doesn't fit, another process writes it, or the disk is too small.
    """

    def __init__(self, folder: str | Path, plan: StorePlan):
        self.folder, self.plan = Path(folder), plan
        self.finished_rows, self.bad = 0, set()
        self.kept: tuple[str, ...] = (SUMS, *plan.kept)
        self._files: dict[str, tuple[int, int]] = {}  # name -> descriptor, offset of row 0
        with contextlib.ExitStack() as held, self._disk_errors("give another --cache"):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._take_locks(held)
            self.folder.mkdir(exist_ok=True)
            self._open(held)
            self._held = held.pop_all()  # locks and files

    def __exit__(self, *_) -> None:
        self._held.close()

    def _take_locks(self, held: contextlib.ExitStack) -> None:
        held.enter_context(self._locked(lock_of(self.folder), "into it"))

    def _locked(self, path: Path, what: str, shared: bool = False) -> contextlib.AbstractContextManager:
        refusal = f"{self.folder}: another process is extracting {what}; wait for it or give another --cache"
        return locked(path, refusal, shared)

    def _open(self, held: contextlib.ExitStack) -> None:
        manifest = read_manifest(self.folder)
        if manifest is None:
            self._check_space()
            write_ids(self.folder, self.plan.image_ids)
            StoreWriter._write_state(self)  # before the arrays, so that a folder with arrays always has a manifest
        else:
            check_fit(self.folder, manifest, self.plan)
            self.kept = tuple(name for name in self.kept if name in manifest.get("kept", ()))
            self.finished_rows, self.bad = manifest["finished_rows"], self.plan.rows_of(manifest["bad_images"])
        for name in self.plan.layout(self.kept):
            self._open_array(name, held)

    def _check_space(self) -> None:
        needed = len(self.plan.image_ids) * sum(map(self.plan.row_bytes, self.plan.arrays))
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            sizes = f"the features need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            raise UserError(f"{self.folder}: {sizes}; give a --cache on a larger disk")

    def _open_array(self, name: str, held: contextlib.ExitStack) -> None:
        path, count = self.folder / f"{name}.npy", len(self.plan.image_ids)
        shape, dtype = self.plan.layout(self.kept)[name]
        header = npy_header((count, *shape), dtype)
        size = len(header) + count * self.plan.row_bytes(name)
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        held.callback(os.close, descriptor)
        self._files[name] = (descriptor, len(header))
        if os.pread(descriptor, len(header), 0) == header and os.fstat(descriptor).st_size >= size:
            return  # longer where a kill came into `grow_store`
        if self.finished_rows or any(self.folder.glob(PROGRESS)):  # rows of shards, too, would become zeros
            raise UserError(f"{path}: missing or not of the size that {MANIFEST} says; {REMEDY}")
        os.ftruncate(descriptor, size)
        os.pwrite(descriptor, header, 0)

    def write(self, start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write rows [start, start + n) of every array, name -> (n, *row shape); they count only after `commit`."""
        if set(rows) != {*self.plan.arrays, *self.plan.kept}:
            raise ValueError(f"arrays {sorted(rows)} given, {sorted({*self.plan.arrays, *self.plan.kept})} planned")
        values = {name: np.ascontiguousarray(rows[name], dtype) for name, (_, dtype) in self.plan.arrays.items()}
        for name, array in values.items():
            shape = self.plan.arrays[name][0]
            if array.shape[1:] != tuple(shape) or start + len(array) > len(self.plan.image_ids):
                raise ValueError(f"{name}: rows {array.shape} at {start} don't fit {shape}")
        count = len(next(iter(values.values())))
        beside = {**rows, SUMS: row_sums(self.plan.image_ids[start : start + count], values)}
        for name in self._files:
            self.write_array(name, start, values[name] if name in values else beside[name])

    def write_array(self, name: str, start: int, values: np.ndarray) -> None:
        """Write rows [start, start + n) of one array."""
        descriptor, offset = self._files[name]
        offset += start * self.plan.row_bytes(name)
        data = memoryview(np.ascontiguousarray(values, self.plan.layout(self.kept)[name][1])).cast("B")
        with self._disk_errors("make room and start again"):
            while len(data):
                written = os.pwrite(descriptor, data, offset)
                data, offset = data[written:], offset + written

    @contextlib.contextmanager
    def _disk_errors(self, remedy: str):
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.folder}: can't be written ({error.strerror}); {remedy}") from error

    def commit(self, finished_rows: int, bad: Iterable[int]) -> None:
        """Make all written rows durable, then say so in the manifest; see the attributes."""
        with self._disk_errors("make room and start again"):
            for descriptor, _ in self._files.values():
                os.fsync(descriptor)
            self.finished_rows, self.bad = finished_rows, set(bad)
            self._write_state()

    def _write_state(self) -> None:
        state = {"format": FORMAT if SUMS in self.kept else 1, "kept": self.kept}
        state |= {"finished_rows": self.finished_rows, "bad_images": self._bad_images()}
        write_json(self.folder / MANIFEST, {**self.plan.manifest(), **state}, durable=True)

    def _bad_images(self) -> list[str]:
        return [self.plan.image_ids[row] for row in sorted(self.bad)]


def write_ids(folder: Path, image_ids: Iterable[str]) -> None:
    """Write the image ids of a store, whole or not at all."""
    write_text(folder / IDS, "".join(f"{image_id}\n" for image_id in image_ids), durable=True)


def npy_header(shape: Sequence[int], dtype: str | np.dtype) -> bytes:
    """The beginning of a .npy, before its data."""
    buffer = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, layout)
    return buffer.getvalue()
