"""Picture files -> the arrays of a store, a batch at a time; and what a store of them is made with."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bssan_tf.datasets.corpus import Corpus
from bssan_tf.errors import UserError
from bssan_tf.features.detectors import AnyDetector
from bssan_tf.features.objects import NO_CLASS, BoxesFile, empty_objects, grid_boxes, top_objects
from bssan_tf.features.pictures import read_picture, shrink
from bssan_tf.features.regions import Extractor
from bssan_tf.features.store_writer import StorePlan
from bssan_tf.tools.files import file_sha256

BATCHES_AHEAD = 3
SCALED_AHEAD = 1  # of batches with a detector's photos, of up to 7 MB each
KEPT = {
    "digests": ((), "uint64"),
    "stamps": ((2,), "int64"),
}  # of the files; older stores lack them; digest 0: none
UNREADABLE, UNREAD = -1, -2  # in `sizes`, the bytes of each file as it was extracted; UNREAD: not looked at yet


class FileState(NamedTuple):
    """What tells, without a look into it, that a file is as it was."""

    size: int  # bytes
    stamps: tuple[int, int]  # when its content, and when anything of it, was changed; in nanoseconds


class Picture(NamedTuple):
    """A decoded picture file."""

    pixels: np.ndarray  # uint8 (side, side, 3)
    size: tuple[int, int]  # height and width of the photo in pixels
    state: FileState
    digest: int
    inputs: dict | None = None  # a detector's


class Describer:
    """Reads the pictures of a corpus and describes them for a store; arguments as of `extract_features`.

    Attributes:
        plan: what the store is to hold and is made with.
        file: the `BoxesFile`, or None.
        reasons: row -> why its picture can't be read.
        oversized: rows so far whose boxes reach far outside of the photo.
    """

    def __init__(
        self,
        corpus: Corpus,
        extractor: Extractor,
        boxes: str | Path | AnyDetector | None,
        objects: int,
        batch_size: int,
    ):
        self.paths, self.extractor, self.count, self.batch_size = corpus.image_paths, extractor, objects, batch_size
        self.detector = None if boxes is None or isinstance(boxes, (str, Path)) else boxes
        self.file = None if self.detector or boxes in (None, "grid") else BoxesFile(boxes)
        self.file_rows = self.file and self.file.rows(corpus.image_ids, corpus.image_paths)
        self.reasons: dict[int, str] = {}
        self.oversized: set[int] = set()
        labels = getattr(self.detector or self.file, "labels", None)
        made_with = {
            **({"pixels": "of whole photos"} if self.detector else {}),  # else a JPEG may be decoded smaller
            "dataset": corpus.name,
            "extractor": extractor.name,
            "layer": extractor.layer,
            "weights_sha256": extractor.weights_sha256,
            "grid": list(extractor.grid),
            "batch_size": batch_size,
            "boxes": self.detector.name if self.detector else file_sha256(boxes) if self.file else boxes,
            "labels": labels and list(labels),
        }
        arrays = {"regions": (extractor.region_shape, "float16")}
        if boxes is not None:
            Q = getattr(self.detector, "Q", None) or extractor.region_shape[1]
            arrays["objects"] = ((objects, Q), "float16")
            arrays.update({name: (value.shape, str(value.dtype)) for name, value in empty_objects(objects).items()})
        arrays["sizes"] = ((), "int64")  # last, as a row counts as re-extracted once its size is written
        self.plan = StorePlan(tuple(corpus.image_ids), arrays, made_with, KEPT)

    def read(self, row: int) -> Picture | None:
        """Decode a picture file, once; None where it is bad, and `reasons` then says why."""
        path, side = self.paths[row], self.extractor.side  # an error of the network is no picture's
        try:
            known = file_state(path), file_digest(path)  # before the pixels: what changes meanwhile is seen next time
            if self.detector is None:
                return Picture(*read_picture(path, side), *known)
            photo, photo_size = read_picture(path, side=None)
        except UserError as error:
            self.reasons[row] = str(error)
            return None
        return Picture(
            shrink(photo, side), photo_size, *known, self.detector.inputs(photo)
        )  # its errors are no picture's

    def reason(self, row: int) -> str:
        """Why the picture of a bad row can't be read."""
        return self.reasons.get(row, f"{self.paths[row]}: can't be read as a picture")  # another process found it

    def batches(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, list[Picture | None]]]:
        """Yield (rows, pictures) of batches of the rows that are wanted, bool (N,), decoded ahead in threads."""
        rows = np.flatnonzero(wanted)
        left = deque(np.split(rows, range(self.batch_size, len(rows), self.batch_size)) if len(rows) else ())
        decoding = deque()
        pool = decoding_pool()
        try:
            while left or decoding:
                while left and len(decoding) <= (SCALED_AHEAD if self.detector else BATCHES_AHEAD):
                    rows = left.popleft()
                    decoding.append((rows, [pool.submit(self.read, row) for row in rows.tolist()]))
                rows, pictures = decoding.popleft()
                yield rows, [picture.result() for picture in pictures]
        finally:
            pool.shutdown(cancel_futures=True)

    def described(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Yield (rows, values) of all that is wanted, bool (N,), in their order: see `batches` and `describe`."""
        with contextlib.closing(self.batches(wanted)) as batches:
            for rows, pictures in batches:
                yield rows, self.describe(rows, pictures)

    def describe(self, rows: np.ndarray, pictures: list[Picture | None]) -> dict[str, np.ndarray]:
        """All arrays of the plan for the n rows of a batch; zeros where a picture is None."""
        readable = [i for i, picture in enumerate(pictures) if picture is not None]
        side = self.extractor.side
        size = min(self.batch_size, 1 << (len(rows) - 1).bit_length())  # few sizes, as each is a graph of its own
        pixels = np.zeros((size, side, side, 3), np.uint8)  # a last, shorter batch is padded
        values = {name: np.zeros((size, *row), dtype) for name, (row, dtype) in {**self.plan.arrays, **KEPT}.items()}
        values["sizes"][:] = UNREADABLE
        if "classes" in values:
            values["classes"][:] = NO_CLASS
        for i in readable:
            pixels[i], values["sizes"][i] = pictures[i].pixels, pictures[i].state.size
            values["digests"][i], values["stamps"][i] = pictures[i].digest or 0, pictures[i].state.stamps
            if "boxes" in values:
                for name, value in self._objects(rows[i], pictures[i]).items():
                    values[name][i] = value
        if readable:
            described = self.detector and self.detector.Q  # by the detector
            boxes = (values["boxes"], values["valid"]) if "boxes" in values and not described else ()
            for name, value in self.extractor.describe(pixels, *boxes).items():
                values[name][readable] = value[readable]  # a black picture has features, too
        return {name: value[: len(rows)] for name, value in values.items()}

    def _objects(self, row: int, picture: Picture) -> dict[str, np.ndarray]:
        if self.detector:
            return self.detector.best(self.detector.run(picture.inputs), picture.size, self.count)
        if self.file is None:
            return grid_boxes(self.count)
        detections = self.file.boxes[self.file_rows[row]]
        farthest = detections[detections[:, 4] > 0, :4].max(initial=0)
        if farthest > 1.2 * max(picture.size):
            self.oversized.add(int(row))
        return top_objects(detections, picture.size, self.count)


def decoding_pool() -> ThreadPoolExecutor:
    """The threads that decode pictures."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")


def file_state(path: Path) -> FileState | None:
    """The state of a file; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileState(found.st_size, (found.st_mtime_ns, found.st_ctime_ns))


def file_digest(path: Path) -> int | None:
    """64 bits of a hash of a file's content; None where it can't be read, or is a pipe."""
    try:
        if not Path(path).is_file():
            return None
        content = Path(path).read_bytes()
    except OSError:
        return None
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
