"""A score matrix in a .npy file that grows block by block and survives a kill at any moment."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import open_npy
from bssan_tf.reading.documents import read_json
from bssan_tf.tools.files import clear_leftovers, replacing, write_json

logger = logging.getLogger(__name__)

OTHER = "name another file"


class ScoreFile:
    """FILE.npy while it is written (as FILE.npy.part) and after; FILE.npy.json says what it holds the scores of.

    Its `matrix` is float32 of `shape` (N_i, N_c), memory-mapped, writable until it is `finished`. Unwritten scores are
    NaN, so a resumed call sees what is left to do, whatever its blocks are. `identity` are the texts and arrays that
    the scores depend on: UserError if the file holds scores of something else, has changed since it was finished, or
    cannot be written, or if what lies there is not of this class.
    """

    def __init__(self, path: Path, shape: tuple[int, int], identity: list):
        self.path, self.part, self.note = path, _beside(path, ".part"), _beside(path, ".json")
        self.key = {"shape": list(shape), "sha256": digest(identity)}
        try:
            noted = self._noted()
            content = noted.pop("content", None)
            if (path.exists() or self.part.exists()) and noted != self.key:
                raise UserError(f"--out {path}: holds other scores; delete it or {OTHER}")
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(path.parent, self.part.name, self.note.name)
            _beside(self.part, ".new").unlink(missing_ok=True)  # so the part of a part was named once
            self.finished = path.exists()
            if self.finished:
                self._require_content(content)
            elif not self.part.exists():
                write_json(self.note, self.key)
                self._create(shape)
            self.matrix = self._map(path if self.finished else self.part, "r" if self.finished else "r+")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--out {path}: {reason}; make room, or {OTHER}") from error

    def _noted(self) -> dict:
        """What the note says, {} where there is none; UserError if the file there is not such a note."""
        if not os.path.lexists(self.note):
            return {}
        noted = read_json(self.note, OTHER, (dict, list, str, int, float, type(None)), f"--out: {self.note}")
        if not isinstance(noted, dict) or not self.key.keys() <= noted.keys() <= {*self.key, "content"}:
            raise UserError(f"--out {self.path}: {self.note} is no note of scores, and would be replaced; {OTHER}")
        return noted

    def _require_content(self, noted: str | None) -> None:
        if noted is None:
            logger.info("%s: finished by an older version, which noted no checksum; taken as it is", self.path)
        elif noted != _digest_of(self._map(self.path, "r")):
            raise UserError(f"--out {self.path}: has changed since it was finished; delete it or {OTHER}")

    def _map(self, path: Path, mode: str) -> np.ndarray:
        if path.is_symlink():
            raise UserError(f"--out {self.path}: {path} is a symbolic link; {OTHER}")
        matrix = open_npy(path, f"delete it or {OTHER}", f"--out {self.path}")
        if list(matrix.shape) != self.key["shape"] or matrix.dtype != np.float32:
            raise UserError(f"--out {self.path}: {path} has changed; delete it or {OTHER}")
        return matrix if mode == "r" else np.load(path, mmap_mode=mode)

    def _create(self, shape: tuple[int, int]) -> None:
        # by file I/O: a map of a file that has no room on the disk ends the process when it is written
        with replacing(self.part) as new, open(new, "xb") as file:  # a part file is never without its NaNs
            layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, layout)
            for start in range(0, shape[0], 1024):
                file.write(np.full((min(1024, shape[0] - start), shape[1]), np.nan, "<f4").tobytes())

    def has(self, rows: slice, captions: np.ndarray) -> bool:
        """Whether all these scores are written."""
        return not np.isnan(self.matrix[rows][:, captions]).any()

    def finish(self) -> None:
        """Note what the file holds, and give it its name."""
        self.matrix.flush()
        write_json(self.note, {**self.key, "content": _digest_of(self.matrix)})
        self.part.replace(self.path)
        self.matrix = self._map(self.path, "r")
        self.finished = True


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _digest_of(matrix: np.ndarray) -> str:
    """Of a matrix's bytes, at the speed of memory."""
    found = hashlib.blake2b(digest_size=16)
    for start in range(0, len(matrix), 1024):
        found.update(np.ascontiguousarray(matrix[start : start + 1024]))
    return found.hexdigest()


def digest(values: Iterable[str | np.ndarray]) -> str:
    """SHA-256 of texts and the bytes of arrays, one after the other."""
    found = hashlib.sha256()
    for value in values:
        found.update(value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes())
    return found.hexdigest()
