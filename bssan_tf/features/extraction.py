"""All pictures of a corpus -> a feature store, resumable and in bounded memory.

Batches are full of pictures to extract: a new or changed one costs no more than itself, and a first extraction gives
the same bytes whether it is interrupted or not. A picture that can't be read is named at the end, and extracted by the
next call once it is mended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bssan_tf.datasets.corpus import Corpus
from bssan_tf.errors import UserError
from bssan_tf.features.describer import KEPT, UNREAD, UNREADABLE, Describer, decoding_pool, file_digest, file_state
from bssan_tf.features.detectors import AnyDetector
from bssan_tf.features.growing import grow_store
from bssan_tf.features.on_ray import described_on_ray
from bssan_tf.features.regions import Extractor
from bssan_tf.features.shards import Shard, ShardWriter, read_progress
from bssan_tf.features.store import Features, open_array, open_store, read_manifest
from bssan_tf.features.store_writer import PROGRESS, StoreWriter, check_fit

logger = logging.getLogger(__name__)


def extract_features(
    corpus: Corpus,
    folder: str | Path,
    extractor: Extractor,
    boxes: str | Path | AnyDetector | None = None,
    objects: int = 10,
    batch_size: int = 16,
    skip_bad_images: bool = False,
    progress: bool = True,
    commit_seconds: float = 5.0,
    may_lose: bool = False,
    verify: bool = True,
    check_photos: bool = False,
    engine: str | None = None,
) -> Features:
    """Extract what is missing in a store and open it.

    Args:
        corpus: its image_ids and image_paths are used.
        folder: the store, `<cache>/<dataset>/<extractor>`.
        boxes: an .npz of `BoxesFile`, "grid" for `grid_boxes`, a detector, whose features (fc7) describe the objects
            where it has any, or None for regions only.
        objects: P, objects of an image.
        batch_size: pictures described at once; a store that was begun goes on with its own.
        skip_bad_images: leave pictures that can't be read as zero rows, listed in `Features.bad_rows`.
        commit_seconds: at most this much work is lost by a kill.
        may_lose: drop what the store has of other pictures; else such a store is refused.
        verify: as of `open_store`.
        check_photos: read all picture files, not only those that were touched, to find changed ones.
        engine: "ray" describes the pictures on a cluster; None here.

    Raises:
        UserError: the store was made with something else; pictures can't be read (all others were extracted); another
            process gave the store other pictures or another order meanwhile.
    """
    describer = _describer(corpus, folder, extractor, boxes, objects, batch_size)
    files = () if describer.file else describer.paths  # boxes go by name
    grow_store(folder, describer.plan, UNREAD, may_lose, files=files)
    missing = MissingRows(folder, describer, range(len(corpus.image_ids)), progress, check_photos)
    if missing.find().any() or missing.in_shards:  # without the lock, so that many may read a finished store
        with StoreWriter(folder, describer.plan) as writer:
            _extract(missing, writer, commit_seconds, engine)
            missing.note_touched(writer)
            for path in writer.folder.glob(PROGRESS):  # the store is whole, without its shards
                path.unlink(missing_ok=True)
    elif missing.touched:  # a cache that can't be written is read as it is
        with contextlib.suppress(UserError), StoreWriter(folder, describer.plan) as writer:
            missing.note_touched(writer)
    features = open_store(folder, verify)
    if features.image_ids != tuple(describer.plan.image_ids):
        raise UserError(f"{folder}: was changed by another process; start again")
    if bad := features.bad_rows.tolist():
        there = len(bad) + sum(map(os.path.lexists, np.delete(np.array(describer.paths, object), bad)))
        message = f"{len(bad)} of {there} pictures can't be read"
        names = "; ".join(map(describer.reason, bad[:3]))
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        if len(bad) == there:
            raise UserError(f"{message}: {names}{more}; give another folder, or mend them")
        if not skip_bad_images:
            remedy = "mend these files and start again, or leave them out with --skip-bad-images"
            raise UserError(f"{message}: {names}{more}. The others are extracted; {remedy}")
        logger.warning("%s and are left out: %s", message, ", ".join(features.manifest["bad_images"]))
    return features


def extract_shard(
    corpus: Corpus,
    folder: str | Path,
    extractor: Extractor,
    shard: Shard,
    boxes: str | Path | AnyDetector | None = None,
    objects: int = 10,
    batch_size: int = 16,
    progress: bool = True,
    commit_seconds: float = 5.0,
) -> int:
    """Extract one part of a store, while other processes extract theirs, and return the number of its rows.

    Arguments as of `extract_features`, which then finds all rows done, and tells of pictures that can't be read.
    UserError: the store was made with something else, or another process extracts all of it or the same shard.
    """
    describer = _describer(corpus, folder, extractor, boxes, objects, batch_size)
    grow_store(folder, describer.plan, UNREAD, wait=True)
    with ShardWriter(folder, describer.plan, shard, describer.batch_size) as writer:
        missing = MissingRows(folder, describer, range(writer.first, writer.stop), progress)
        _extract(missing, writer, commit_seconds)
    return len(missing.rows)


def _describer(corpus, folder, extractor, boxes, objects: int, batch_size: int) -> Describer:
    begun = read_manifest(folder) or {}  # batches of another size could round differently
    if begun.get("weights_sha256") not in (None, extractor.weights_sha256):
        _ = extractor.model  # weights that can't be read are told as such, not as another store's
    return Describer(corpus, extractor, boxes, objects, begun.get("batch_size", batch_size))


class MissingRows:
    """Which of these rows of a store need extraction.

    Attributes:
        bad: the rows whose pictures could not be read, as `find` saw them.
        gone: how many known rows are of files that are gone.
        in_shards: whether shards have left their progress there.
        touched: digest and stamps of files that have other stamps by now, but the same content, by row.
    """

    def __init__(
        self, folder: str | Path, describer: Describer, rows: range, progress: bool = True, check_photos: bool = False
    ):
        self.folder, self.describer, self.rows, self.progress = Path(folder), describer, rows, progress
        self.check_photos, self.touched = check_photos, {}
        self.bad, self.gone, self.in_shards = set(), 0, False
        self._state = self._found = None

    def find(self) -> np.ndarray:
        """bool (N,): rows that are new, or whose picture file has another size or content by now or is mended.

        Content is compared where size or times of the file are others, as in a copy, or where photos are to be checked.

        As bad pictures are decoded for it, a later call compares anew only if another process has changed the store.
        """
        manifest, plan = read_manifest(self.folder), self.describer.plan
        known, bad, shards = {}, set(), []
        if manifest is not None:
            check_fit(self.folder, manifest, plan)
            shards = read_progress(self.folder)
            in_shards = set().union(*(range(shard.first, shard.finished) for shard in shards))
            bad = plan.rows_of(manifest["bad_images"]) - in_shards  # a shard's word is newer
            bad |= plan.rows_of(name for shard in shards for name in shard.bad_images)
            if rows := sorted(in_shards.union(range(manifest["finished_rows"])).intersection(self.rows)):
                kept = [name for name in ("sizes", *KEPT) if name == "sizes" or name in manifest.get("kept", ())]
                values = (open_array(self.folder, name, *plan.whole(name))[rows].tolist() for name in kept)
                known = dict(zip(rows, zip(*values)))
        state = manifest, shards, known
        if state != self._state:
            self.bad, self.in_shards = bad.intersection(self.rows), bool(shards)
            self._state, self._found = state, self._compare(known)
        return self._found

    def _compare(self, known: dict[int, tuple]) -> np.ndarray:
        """`find` in a store whose finished rows have these sizes and, if it is not older, digests and stamps."""
        wanted, bad, doubtful = np.zeros(len(self.describer.plan.image_ids), bool), [], {}
        self.touched, self.gone = {}, 0
        wanted[self.rows.start : self.rows.stop] = True
        for row, (size, *kept) in known.items():
            if size == UNREAD or (size == UNREADABLE) != (row in self.bad):
                continue  # or a kill came between the row and the manifest
            state = file_state(self.describer.paths[row])
            if size == UNREADABLE:
                bad.append(row)
            elif state is None or (state.size == size and not kept):
                wanted[row] = False
                self.gone += state is None
            elif state.size == size:
                wanted[row] = False
                if self.check_photos or list(state.stamps) != kept[1]:
                    doubtful[row] = kept[0], state.stamps
        if self.check_photos and any(size >= 0 and not (kept and kept[0]) for size, *kept in known.values()):
            logger.warning("%s: of an older version; --check-photos can compare sizes only", self.folder)
        with decoding_pool() as pool:
            found = self._bar(pool.map(self.describer.read, bad), "bad pictures, again", bad)
            wanted[bad] = [picture is not None for picture in found]
            paths = [self.describer.paths[row] for row in doubtful]
            digests = self._bar(pool.map(file_digest, paths), "touched pictures", doubtful)
            for (row, (then, stamps)), now in zip(doubtful.items(), digests):
                wanted[row] = now not in (then or now, None)  # without a digest its size must do, as above
                if now is not None and not wanted[row]:
                    self.touched[row] = now, stamps
        return wanted

    def note_touched(self, writer: StoreWriter) -> None:
        """Write what is `touched`, so that these files are not read again."""
        for row, (digest, stamps) in self.touched.items():
            writer.write_array("digests", row, np.array([digest], np.uint64))
            writer.write_array("stamps", row, np.array([stamps]))

    def _bar(self, found, title: str, rows) -> tqdm:
        shown = self.progress and len(rows)
        return tqdm(found, desc=title, unit="img", leave=False, total=len(rows), disable=not shown)


def _extract(missing: MissingRows, writer: StoreWriter, commit_seconds: float, engine: str | None = None) -> None:
    """Extract what is missing, now that no other process writes."""
    describer, wanted, bad, finished = missing.describer, missing.find(), set(missing.bad), writer.finished_rows
    total, count = len(missing.rows) - missing.gone, int(wanted.sum())
    if not count and finished == missing.rows.stop and bad == writer.bad:
        return
    began = committed = time.monotonic()
    title = f"features {describer.plan.made_with['dataset']}"
    bar = tqdm(total=total, initial=total - count, desc=title, unit="img", disable=not missing.progress)
    described = described_on_ray(describer, wanted) if engine == "ray" else describer.described(wanted)
    with bar, contextlib.closing(described):
        try:
            for rows, values in described:
                for run in np.split(np.arange(len(rows)), 1 + np.flatnonzero(np.diff(rows) > 1)):
                    writer.write(int(rows[run[0]]), {name: value[run] for name, value in values.items()})
                bad.difference_update(rows.tolist())
                bad.update(rows[values["sizes"] == UNREADABLE].tolist())
                finished = max(finished, int(rows[-1]) + 1)
                bar.update(len(rows))
                if time.monotonic() - committed > commit_seconds:
                    writer.commit(finished, bad)
                    committed = time.monotonic()
            finished = missing.rows.stop
        finally:
            writer.commit(finished, bad)
    seconds = max(time.monotonic() - began, 1e-9)
    logger.info("%s: %d pictures in %.0f s, %.1f images/s", writer.folder, count, seconds, count / seconds)
    if describer.oversized:
        what = "--boxes %s: boxes of %d photos reach far outside; they must be in pixels of the photo files"
        logger.warning(what, describer.file.path, len(describer.oversized))
