"""Several processes extract one store together, each a part of its rows: `--shard 2/4` is the second of four.

A shard is a run of whole batches, so that the bytes are those of one process. Shards write into the same arrays, whose
rows they share out, and keep their progress in files of their own, `shard-2-of-4.json`; the next extraction without a
shard finds all rows done, writes the manifest and removes these files.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store import REMEDY
from bssan_tf.features.store_writer import LOCK, PROGRESS, StorePlan, StoreWriter
from bssan_tf.tools.files import write_json


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/4"; UserError where it is something else."""
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
        if not match or int(match[1]) > int(match[2]):
            raise UserError(f"--shard {text}: must be like 2/4, the second of four parts")
        return cls(int(match[1]), int(match[2]))

    def rows(self, total: int, batch_size: int) -> tuple[int, int]:
        """Its rows, as (first, after the last): whole batches, as many as the other shards have, or one more."""
        batches = -(-total // batch_size)
        first, after = (batches * k // self.count * batch_size for k in (self.number - 1, self.number))
        return min(first, total), min(after, total)


@dataclass(frozen=True)
class Progress:
    """What a shard has done: rows [first, finished), and the ids of those whose pictures could not be read."""

    first: int
    finished: int
    bad_images: tuple[str, ...]


def read_progress(folder: str | Path) -> list[Progress]:
    """The progress of all shards of a store; UserError where a file is damaged."""
    found = [_read(path) for path in sorted(Path(folder).glob(PROGRESS))]
    return [progress for progress in found if progress]


def _read(path: Path) -> Progress | None:
    """What a shard's file says; None where there is none (any more)."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Progress(int(raw["first"]), int(raw["finished"]), tuple(raw["bad_images"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from error


def finished_mask(total: int, finished_rows: int, shards: Iterable[Progress]) -> np.ndarray:
    """bool (total,): rows that the manifest or a shard has finished."""
    done = np.arange(total) < finished_rows
    for progress in shards:
        done[progress.first : progress.finished] = True
    return done


def remove_progress(folder: str | Path) -> None:
    """Forget the shards of a store that is whole."""
    for path in Path(folder).glob(PROGRESS):
        path.unlink(missing_ok=True)


class ShardWriter(StoreWriter):
    """Writes the rows of one shard, while other processes write theirs.

    All shards hold the store's lock together, so that no writer of the whole store comes between, and each its own.

    Args:
        folder, plan: as of `StoreWriter`.
        shard: which part.
        batch_size: pictures of a batch.

    Attributes:
        finished_rows: rows [first of the shard, finished_rows) are on disk.
        bad: rows of the shard whose pictures could not be read.

    Raises:
        UserError: as `StoreWriter`, or another process writes this shard.
    """

    def __init__(self, folder: str | Path, plan: StorePlan, shard: Shard, batch_size: int):
        self.shard, self.name = shard, f"{shard.number}-of-{shard.count}"
        self.first, self.stop = shard.rows(len(plan.image_ids), batch_size)
        self._own_lock = None
        super().__init__(folder, plan)

    def _take_lock(self) -> None:
        self._own_lock = os.open(self.folder / f"{LOCK}-{self.name}", os.O_RDWR | os.O_CREAT, 0o644)
        for descriptor, kind in ((self._lock, fcntl.LOCK_SH), (self._own_lock, fcntl.LOCK_EX)):
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "this shard" if descriptor == self._own_lock else "all of it"
                raise UserError(
                    f"{self.folder}: another process is extracting {what}; wait for it or give another --cache"
                ) from None

    def _open(self) -> None:
        making = os.open(self.folder / f"{LOCK}-making", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(making, fcntl.LOCK_EX)  # one shard at a time makes manifest and arrays
            super()._open()
        finally:
            os.close(making)
        self.finished_rows, self.bad = self.first, set()
        row_of = {image_id: row for row, image_id in enumerate(self.plan.image_ids)}
        if progress := _read(self._progress_file):
            self.finished_rows = progress.finished
            self.bad = {row_of[image_id] for image_id in progress.bad_images}

    def _release(self) -> None:
        super()._release()
        if self._own_lock is not None:
            os.close(self._own_lock)

    @property
    def _progress_file(self) -> Path:
        return self.folder / f"shard-{self.name}.json"

    def _write_state(self) -> None:
        bad = [self.plan.image_ids[row] for row in sorted(self.bad)]
        progress = {"first": self.first, "finished": self.finished_rows, "bad_images": bad}
        write_json(self._progress_file, progress, durable=True)
