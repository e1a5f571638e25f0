"""All pictures of a corpus -> a feature store, resumable and in bounded memory.

Pictures are decoded in threads ahead of the backbone, described in batches whose make-up depends on the row numbers
alone (so that an interrupted and an uninterrupted extraction give the same bytes), and written as they come. A
picture that can't be read is collected and named at the end; it never stops the others, and once mended it is
extracted by the next call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from bssan_tf.errors import UserError
from bssan_tf.features.backbones import file_sha256
from bssan_tf.features.faster_rcnn.detector import Detector
from bssan_tf.features.objects import BoxesFile, empty_objects, grid_boxes, top_objects
from bssan_tf.features.pictures import SIDE, read_picture
from bssan_tf.features.shards import Shard, ShardWriter, finished_mask, read_progress, remove_progress
from bssan_tf.features.store import Features, map_array, open_store, read_manifest
from bssan_tf.features.store_writer import StorePlan, StoreWriter, check_fit

if TYPE_CHECKING:
    from bssan_tf.datasets.corpus import Corpus
    from bssan_tf.features.regions import Extractor

logger = logging.getLogger(__name__)

BATCHES_AHEAD = 3
SCALED_AHEAD = 1  # of batches with a detector's photos, of up to 7 MB each
UNREADABLE = -1  # in `sizes`, the bytes of each picture file as it was extracted


def extract_features(
    corpus: Corpus,
    folder: str | Path,
    extractor: Extractor,
    boxes: str | Path | Detector | None = None,
    objects: int = 10,
    batch_size: int = 16,
    skip_bad_images: bool = False,
    progress: bool = True,
    commit_seconds: float = 5.0,
) -> Features:
    """Extract what is missing in a store and open it.

    Args:
        corpus: its image_ids and image_paths are used.
        folder: the store, `<cache>/<dataset>/<extractor>`.
        extractor: the backbone.
        boxes: an .npz of `BoxesFile`, "grid" for `grid_boxes`, a Faster R-CNN, whose fc7 then describes the objects,
            or None for regions only.
        objects: P, objects of an image.
        batch_size: pictures described at once; a store that was begun goes on with its own.
        skip_bad_images: leave pictures that can't be read as zero rows, listed in `Features.bad_rows`.
        progress: show a bar with images per second.
        commit_seconds: at most this much work is lost by a kill.

    Raises:
        UserError: the store was made with something else; pictures can't be read (all others were extracted).
    """
    job = _Job(corpus, Path(folder), extractor, boxes, objects, batch_size, progress)
    if job.rows_to_extract().any() or job.in_shards:  # without the lock, so that many may read a finished store
        with StoreWriter(job.folder, job.plan) as writer:
            job.run(writer, commit_seconds)
            remove_progress(job.folder)
    features = open_store(job.folder)
    if len(features.bad_rows):
        message = f"{len(features.bad_rows)} of {len(features.image_ids)} pictures can't be read"
        if not skip_bad_images:
            names = "; ".join(map(job.reason, features.bad_rows[:3]))
            more = f"; and {len(features.bad_rows) - 3} more" if len(features.bad_rows) > 3 else ""
            raise UserError(
                f"{message}: {names}{more}. The others are extracted; mend these files and start again,"
                " or leave them out with --skip-bad-images"
            )
        logger.warning("%s and are left out: %s", message, ", ".join(features.manifest["bad_images"]))
    return features


def extract_shard(
    corpus: Corpus,
    folder: str | Path,
    extractor: Extractor,
    shard: Shard,
    boxes: str | Path | Detector | None = None,
    objects: int = 10,
    batch_size: int = 16,
    progress: bool = True,
    commit_seconds: float = 5.0,
) -> int:
    """Extract one part of a store, while other processes extract theirs; `extract_features` then finds all rows done.

    Args:
        shard: which part; the others are as of `extract_features`.

    Returns:
        Rows of the shard. Pictures that can't be read are told by `extract_features`.

    Raises:
        UserError: the store was made with something else, or another process extracts all of it or the same shard.
    """
    job = _Job(corpus, Path(folder), extractor, boxes, objects, batch_size, progress)
    job.first, job.stop = shard.rows(len(job.paths), job.batch_size)
    with ShardWriter(job.folder, job.plan, shard, job.batch_size) as writer:
        job.run(writer, commit_seconds)
    return job.stop - job.first


class _Job:
    """One extraction: what the store is to hold, which rows lack, and the loop over them."""

    def __init__(self, corpus, folder: Path, extractor: Extractor, boxes, count: int, batch_size: int, progress: bool):
        self.paths, self.folder, self.extractor, self.count = corpus.image_paths, folder, extractor, count
        self.progress = progress
        self._compared: tuple[tuple, np.ndarray] | None = None  # a state of the store, its rows to extract
        self.file = self.file_rows = self.detector = None
        self.first, self.stop = 0, len(self.paths)  # the rows to care for
        self.reasons: dict[int, str] = {}  # row -> why its picture can't be read
        self.oversized = 0  # photos with boxes far outside
        manifest = read_manifest(folder)
        # Other batches could round differently, so a store keeps those that it was begun with.
        self.batch_size = (manifest or {}).get("batch_size", batch_size)
        made_with = {
            "dataset": corpus.name,
            "extractor": extractor.name,
            "layer": extractor.layer,
            "weights_sha256": extractor.weights_sha256,
            "grid": list(extractor.grid),
            "batch_size": self.batch_size,
            "boxes": None,
            "labels": None,
        }
        arrays = {"regions": (extractor.region_shape, "float16")}
        if boxes is not None:
            made_with["boxes"] = "grid"
            if isinstance(boxes, Detector):
                self.detector = boxes
                made_with["boxes"], made_with["labels"] = boxes.name, list(boxes.labels)
            elif boxes != "grid":
                self.file = BoxesFile(boxes)
                self.file_rows = self.file.rows(corpus.image_ids, corpus.image_paths)
                made_with["boxes"] = file_sha256(boxes)
                made_with["labels"] = self.file.labels and list(self.file.labels)
            size = self.detector.Q if self.detector else extractor.region_shape[1]
            arrays["objects"] = ((count, size), "float16")
            for name, value in empty_objects(count).items():
                arrays[name] = (value.shape, str(value.dtype))
        arrays["sizes"] = ((), "int64")  # last, as a row counts as re-extracted once its size is written
        self.plan = StorePlan(tuple(corpus.image_ids), arrays, made_with)

    def rows_to_extract(self) -> np.ndarray:
        """bool (N,): rows that are new, or whose picture file has another size by now or is mended.

        As bad pictures are decoded for it, a later call compares anew only if another process has changed the store.
        """
        manifest = read_manifest(self.folder)
        sizes, shards = {}, []
        if manifest is not None:
            check_fit(self.folder, manifest, self.plan)
            shards = read_progress(self.folder)
            done = finished_mask(len(self.paths), manifest["finished_rows"], shards)
            rows = self.first + np.flatnonzero(done[self.first : self.stop])
            if len(rows):
                sizes = dict(zip(rows.tolist(), map_array(self.folder / "sizes.npy")[rows].tolist()))
        state = manifest, sizes, shards
        if self._compared is None or self._compared[0] != state:
            self.in_shards = bool(shards)
            self.shards_bad = {image_id for progress in shards for image_id in progress.bad_images}
            bad = self.shards_bad.union((manifest or {}).get("bad_images", ()))
            self._compared = state, self._compare(sizes, bad)
        return self._compared[1]

    def _compare(self, sizes: dict[int, int], bad: set[str]) -> np.ndarray:
        """`rows_to_extract` of a store whose finished rows have these file sizes, and these bad images."""
        rows = np.arange(len(self.paths))
        wanted, doubtful = (self.first <= rows) & (rows < self.stop), []
        for row, size in sizes.items():
            if (size == UNREADABLE) != (self.plan.image_ids[row] in bad):
                continue  # a kill came between the row and the manifest
            if size == UNREADABLE:
                doubtful.append(row)
            else:
                wanted[row] = _file_size(self.paths[row]) not in (size, None)
        with _pool() as pool:
            readable = pool.map(lambda row: self._read(row) is not None, doubtful)
            bar = tqdm(
                readable, total=len(doubtful), desc="bad pictures, again", unit="img", leave=False,
                disable=not self.progress or not doubtful,
            )  # fmt: skip
            wanted[doubtful] = list(bar)
        return wanted

    def reason(self, row: int) -> str:
        """Why the picture of a bad row can't be read."""
        return self.reasons.get(row, f"{self.paths[row]}: can't be read as a picture")  # another process found it

    def run(self, writer: StoreWriter, commit_seconds: float) -> None:
        """Extract what is missing, now that no other process writes."""
        wanted = self.rows_to_extract()
        if not wanted.any() and writer.finished_rows == self.stop:
            return
        count = int(wanted.sum())
        finished, bad = writer.finished_rows, set(writer.bad)
        bad.update(row for row in range(self.first, self.stop) if self.plan.image_ids[row] in self.shards_bad)
        began = committed = time.monotonic()
        total = self.stop - self.first
        bar = tqdm(
            total=total, initial=total - count, desc=f"features {self.plan.made_with['dataset']}", unit="img",
            disable=not self.progress,
        )  # fmt: skip
        with bar, contextlib.closing(self._decoded(wanted)) as batches:
            try:
                for start, pictures in batches:
                    rows = np.arange(start, min(start + self.batch_size, len(wanted)))
                    values = self._describe(rows, pictures)
                    for i, j in _runs(wanted[rows]):
                        writer.write(start + i, {name: value[i:j] for name, value in values.items()})
                    bad.difference_update(rows[wanted[rows]])
                    bad.update(row for row in rows[wanted[rows]] if pictures[row - start] is None)
                    finished = max(finished, start + len(rows))
                    bar.update(int(wanted[rows].sum()))
                    if time.monotonic() - committed > commit_seconds:
                        writer.commit(finished, bad)
                        committed = time.monotonic()
                finished = self.stop
            finally:
                writer.commit(finished, bad)
        seconds = time.monotonic() - began
        rate = count / max(seconds, 1e-9)
        logger.info("%s: %d pictures in %.0f s, %.1f images/s", self.folder, count, seconds, rate)
        if self.oversized:
            logger.warning(
                "--boxes %s: boxes of %d photos reach far outside; they must be in pixels of the photo files",
                self.file.path,
                self.oversized,
            )

    def _decoded(self, wanted: np.ndarray) -> Iterator[tuple[int, list]]:
        """Yield (first row, pictures) of each batch with wanted rows, decoded ahead in threads."""
        pool = _pool()
        ahead = deque()
        try:
            for start in range(0, len(wanted), self.batch_size):
                stop = min(start + self.batch_size, len(wanted))
                if wanted[start:stop].any():
                    ahead.append((start, [pool.submit(self._read, row) for row in range(start, stop)]))
                if len(ahead) > (SCALED_AHEAD if self.detector else BATCHES_AHEAD):
                    first, futures = ahead.popleft()
                    yield first, [future.result() for future in futures]
            for first, futures in ahead:
                yield first, [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, row: int) -> tuple[np.ndarray, tuple[int, int], int, dict | None] | None:
        """Pixels, (height, width) and bytes of a picture file, and a detector's inputs; None where it is bad."""
        try:
            file_size = _file_size(self.paths[row])
            pixels, size = read_picture(self.paths[row])
            inputs = None
            if self.detector:  # a JPEG can be small enough above, where it is decoded smaller, and too large whole
                inputs = self.detector.inputs(read_picture(self.paths[row], side=None)[0])
            return pixels, size, file_size, inputs
        except UserError as error:
            self.reasons[row] = str(error)
            return None

    def _describe(self, rows: np.ndarray, pictures: list) -> dict[str, np.ndarray]:
        """All arrays of the store for these rows; zeros where a picture is None."""
        n, readable = len(rows), np.array([picture is not None for picture in pictures])
        pixels = np.zeros((self.batch_size, SIDE, SIDE, 3), np.uint8)  # a last, shorter batch is padded
        values = {name: np.zeros((n, *shape), dtype) for name, (shape, dtype) in self.plan.arrays.items()}
        objects = empty_objects(self.count)
        batch = {name: np.repeat(value[None], self.batch_size, 0) for name, value in objects.items()}
        for i, picture in enumerate(pictures):
            if picture is None:
                values["sizes"][i] = UNREADABLE
            else:
                pixels[i], size, values["sizes"][i], inputs = picture
                if "boxes" in values:
                    for name, value in self._objects(rows[i], size, inputs).items():
                        (batch if name in batch else values)[name][i] = value
        if readable.any():
            boxes = (batch["boxes"], batch["valid"]) if "boxes" in values and not self.detector else ()
            for name, value in self.extractor.describe(pixels, *boxes).items():
                values[name][:] = value[:n]
        values["regions"][~readable] = 0  # a black picture has features, too
        for name in objects:
            if name in values:
                values[name][:] = batch[name][:n]
        return values

    def _objects(self, row: int, size: tuple[int, int], inputs: dict | None) -> dict[str, np.ndarray]:
        if self.detector:
            return self.detector.best(self.detector.run(inputs), size, self.count)
        if self.file is None:
            return grid_boxes(self.count)
        detections = self.file.boxes[self.file_rows[row]]
        scored = detections[detections[:, 4] > 0, :4]
        if len(scored) and scored.max() > 1.2 * max(size):
            self.oversized += 1
        return top_objects(detections, size, self.count)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """The runs of True in bool (n,), as (first, after the last)."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [(int(first), int(after)) for first, after in edges.reshape(-1, 2)]


def _file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
