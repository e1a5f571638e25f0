"""Several processes extract one store together, each a part of its rows: `--shard 2/4` is the second of four.

A shard is a run of whole batches, so that the bytes are those of one process. All write into the same arrays, each with
its progress in a file of its own, `shard-2-of-4.json`. The next extraction without a shard removes these files.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bssan_tf.errors import UserError
from bssan_tf.features.store import REMEDY
from bssan_tf.features.store_writer import PROGRESS, StorePlan, StoreWriter, lock_of
from bssan_tf.reading.documents import read_json
from bssan_tf.reading.files import refusing
from bssan_tf.reading.records import typed_fields
from bssan_tf.tools.files import locked, write_json

LOCK = ".lock"  # of a shard, in the folder


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
    """What a shard has done: rows [first, finished), and the ids of pictures that could not be read."""

    first: int
    finished: int
    bad_images: tuple[str, ...]


def read_progress(folder: str | Path) -> list[Progress]:
    """The progress of all shards of a store; UserError where a file is damaged."""
    return [progress for path in sorted(Path(folder).glob(PROGRESS)) if (progress := _read(path))]


def _read(path: Path) -> Progress | None:
    """What a shard's file says; None where there is none (any more)."""
    try:
        raw = read_json(path, REMEDY)
    except UserError:
        if os.path.lexists(path):
            raise
        return None
    with refusing(str(path), "damaged", REMEDY):
        found = Progress(**typed_fields(Progress, raw))
        if not 0 <= found.first <= found.finished:
            raise ValueError(f"rows {found.first} to {found.finished}")
        return found


class ShardWriter(StoreWriter):
    """Writes the rows [first, stop) of one shard, of which [first, finished_rows) are on disk; else as `StoreWriter`.

    All shards share the store's lock, so that no writer of the whole store comes between; each has one of its own.
    UserError also where another process writes this shard.
    """

    def __init__(self, folder: str | Path, plan: StorePlan, shard: Shard, batch_size: int):
        self.first, self.stop = shard.rows(len(plan.image_ids), batch_size)
        self._name = f"{shard.number}-of-{shard.count}"
        self._progress_file = Path(folder) / f"shard-{self._name}.json"
        super().__init__(folder, plan)

    def _take_locks(self, held: contextlib.ExitStack) -> None:
        held.enter_context(self._locked(lock_of(self.folder), "all of it", shared=True))
        self.folder.mkdir(exist_ok=True)
        held.enter_context(self._locked(self.folder / f"{LOCK}-{self._name}", "this shard"))

    def _open(self, held: contextlib.ExitStack) -> None:
        with locked(self.folder / f"{LOCK}-making"):  # one shard at a time makes manifest and arrays
            super()._open(held)
        self.finished_rows, self.bad = self.first, set()
        if progress := _read(self._progress_file):
            self.finished_rows, self.bad = progress.finished, self.plan.rows_of(progress.bad_images)

    def _write_state(self) -> None:
        progress = {"first": self.first, "finished": self.finished_rows, "bad_images": self._bad_images()}
        write_json(self._progress_file, progress, durable=True)
