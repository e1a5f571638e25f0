"""A score matrix in a .npy file that grows block by block and survives a kill at any moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.tools.files import write_json


class ScoreFile:
    """FILE.npy while it is written (as FILE.npy.part) and after; FILE.npy.json says what it holds the scores of.

    Its `matrix` is float32 of `shape` (N_i, N_c), memory-mapped, writable until it is `finished`. Unwritten scores are
    NaN, so a resumed call sees what is left to do, whatever its blocks are. `identity` are the texts and arrays that
    the scores depend on: UserError if the file holds scores of something else, or cannot be written.
    """

    def __init__(self, path: Path, shape: tuple[int, int], identity: list):
        self.path, self.part = path, _beside(path, ".part")
        note, key = _beside(path, ".json"), {"shape": list(shape), "sha256": digest(identity)}
        try:
            known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
            if (path.exists() or self.part.exists()) and known != key:
                raise UserError(f"--out {path}: holds other scores; delete it or name another file")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.finished = path.exists()
            if not self.finished and not self.part.exists():
                write_json(note, key)
                self._create(shape)
            self.matrix = np.load(path, mmap_mode="r") if self.finished else np.load(self.part, mmap_mode="r+")
        except (OSError, ValueError) as error:
            raise UserError(f"--out {path}: {error}; name another file") from error

    def _create(self, shape: tuple[int, int]) -> None:
        new = _beside(self.part, ".new")  # a part file is never without its NaNs
        matrix = np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, shape[0], 1024):
            matrix[start : start + 1024] = np.nan
        matrix.flush()
        new.replace(self.part)

    def has(self, rows: slice, captions: np.ndarray) -> bool:
        """Whether all these scores are written."""
        return not np.isnan(self.matrix[rows][:, captions]).any()

    def finish(self) -> None:
        """Give the file its name."""
        self.matrix.flush()
        self.part.replace(self.path)
        self.matrix = np.load(self.path, mmap_mode="r")
        self.finished = True


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def digest(values: Iterable[str | np.ndarray]) -> str:
    """SHA-256 of texts and the bytes of arrays, one after the other."""
    found = hashlib.sha256()
    for value in values:
        found.update(value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes())
    return found.hexdigest()
