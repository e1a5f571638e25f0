"""Writes a feature store so that a kill at any point costs little and spoils nothing.

`StoreWriter` preallocates one .npy per array, writes blocks of rows by ordinary file I/O (so that memory stays
small), and after each block replaces manifest.json, whose `finished_rows` says where to go on. A `StorePlan` says
what a store is to hold; `check_fit` compares it with the store that is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store import IDS, MANIFEST, REMEDY, read_ids, read_manifest
from bssan_tf.tools.files import write_json, write_text

FORMAT = 1
LOCK = ".lock"
PROGRESS = "shard-*.json"  # files of `shards.py`, each there once its shard has finished rows


@dataclass(frozen=True)
class StorePlan:
    """What a store is to hold: the images, each array's row shape and dtype, and what it is made with."""

    image_ids: tuple[str, ...]
    arrays: Mapping[str, tuple[tuple[int, ...], str]]
    made_with: Mapping  # JSON values; a store made with others does not fit

    def manifest(self) -> dict:
        ids = "\n".join(self.image_ids).encode()
        shapes = {
            name: {"shape": [len(self.image_ids), *shape], "dtype": dtype}
            for name, (shape, dtype) in self.arrays.items()
        }
        manifest = {"format": FORMAT, **self.made_with, "images": len(self.image_ids)}
        return {**manifest, "ids_sha256": hashlib.sha256(ids).hexdigest(), "arrays": shapes}


def check_fit(folder: str | Path, manifest: Mapping, plan: StorePlan) -> None:
    """Raise a UserError that says every field in which the store differs from the plan, with both values."""
    wanted = plan.manifest()
    differences = [
        f"{key} is {_short(manifest.get(key))} there, {_short(wanted[key])} asked for"
        for key in wanted
        if manifest.get(key) != wanted[key]
    ]
    if differences:
        raise UserError(f"{Path(folder) / MANIFEST}: {'; '.join(differences)}; {REMEDY}")
    if read_ids(folder) != plan.image_ids:
        raise UserError(f"{Path(folder) / IDS}: other images than the corpus'; {REMEDY}")
    known = set(plan.image_ids).issuperset(manifest["bad_images"])
    if not (known and 0 <= manifest["finished_rows"] <= len(plan.image_ids)):
        raise UserError(f"{Path(folder) / MANIFEST}: damaged (finished_rows or bad_images); {REMEDY}")


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


class StoreWriter:
    """Writes a store, or goes on with one; a context manager that holds the folder's lock.

    Args:
        folder: made where absent.
        plan: what the store is to hold; an existing store must have been made for the same.

    Attributes:
        finished_rows: rows [0, finished_rows) are on disk.
        bad: set of the rows whose pictures could not be read.

    Raises:
        UserError: the store there doesn't fit, another process writes it, or the disk is too small.
    """

    def __init__(self, folder: str | Path, plan: StorePlan):
        self.folder, self.plan = Path(folder), plan
        self.finished_rows, self.bad = 0, set()
        self._files: dict[str, tuple[int, int]] = {}  # name -> descriptor, offset of row 0
        with self._disk_errors("give another --cache"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with self._disk_errors("give another --cache"):
                self._take_lock()
                self._open()
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_) -> None:
        self._release()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.folder}: another process is extracting into it; wait for it or give another --cache"
            ) from None

    def _release(self) -> None:
        for descriptor, _ in self._files.values():
            os.close(descriptor)
        self._files = {}
        os.close(self._lock)  # closing also unlocks, as does a kill

    def _open(self) -> None:
        manifest = read_manifest(self.folder)
        if manifest is None:
            self._check_space()
            ids = "".join(f"{image_id}\n" for image_id in self.plan.image_ids)
            write_text(self.folder / IDS, ids, durable=True)
            self._write_manifest()  # before the arrays, so that a folder with arrays always has one
        else:
            check_fit(self.folder, manifest, self.plan)
            self.finished_rows = manifest["finished_rows"]
            row_of = {image_id: row for row, image_id in enumerate(self.plan.image_ids)}
            self.bad = {row_of[image_id] for image_id in manifest["bad_images"]}
        for name, (shape, dtype) in self.plan.arrays.items():
            self._open_array(name, (len(self.plan.image_ids), *shape), np.dtype(dtype))

    def _check_space(self) -> None:
        needed = sum(
            len(self.plan.image_ids) * int(np.prod(shape)) * np.dtype(dtype).itemsize
            for shape, dtype in self.plan.arrays.values()
        )
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: the features need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free;"
                " give a --cache on a larger disk"
            )

    def _open_array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        path = self.folder / f"{name}.npy"
        header = _npy_header(shape, dtype)
        size = len(header) + int(np.prod(shape)) * dtype.itemsize
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._files[name] = (descriptor, len(header))
        if os.pread(descriptor, len(header), 0) == header and os.fstat(descriptor).st_size == size:
            return
        if self.finished_rows or any(self.folder.glob(PROGRESS)):  # rows of shards, too, would become zeros
            raise UserError(f"{path}: missing or not of the size that {MANIFEST} says; {REMEDY}")
        os.ftruncate(descriptor, size)
        os.pwrite(descriptor, header, 0)

    def write(self, start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write rows [start, start + n) of every array; they count only after `commit`.

        Args:
            rows: name -> (n, *row shape), for each array of the plan.
        """
        if set(rows) != set(self._files):
            raise ValueError(f"arrays {sorted(rows)} given, {sorted(self._files)} planned")
        for name, values in rows.items():
            shape, dtype = self.plan.arrays[name]
            values = np.ascontiguousarray(values, dtype)
            if values.shape[1:] != tuple(shape) or start + len(values) > len(self.plan.image_ids):
                raise ValueError(f"{name}: rows {values.shape} at {start} don't fit {shape}")
            descriptor, offset = self._files[name]
            row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            self._pwrite(descriptor, memoryview(values).cast("B"), offset + start * row_bytes)

    def _pwrite(self, descriptor: int, data: memoryview, offset: int) -> None:
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
        """Make all written rows durable, then say so in the manifest.

        Args:
            finished_rows: rows [0, finished_rows) have been written.
            bad: rows whose pictures could not be read.
        """
        with self._disk_errors("make room and start again"):
            for descriptor, _ in self._files.values():
                os.fsync(descriptor)
            self.finished_rows, self.bad = finished_rows, set(bad)
            self._write_state()

    def _write_state(self) -> None:
        self._write_manifest()

    def _write_manifest(self) -> None:
        bad = [self.plan.image_ids[row] for row in sorted(self.bad)]
        manifest = {**self.plan.manifest(), "finished_rows": self.finished_rows, "bad_images": bad}
        write_json(self.folder / MANIFEST, manifest, durable=True)


def _npy_header(shape: Sequence[int], dtype: np.dtype) -> bytes:
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    layout = {"descr": description, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, layout)
    return buffer.getvalue()
