"""The first stage of a folder's photos, in an index of usearch that is kept beside their features.

In: a run's first stage and the features of photos. Out: the photos that a sentence may mean, by one inner product. The
index follows its photos: new ones are added, and those that are gone or have changed leave it; nothing else is touched.
It can be deleted at any time, and is then made anew.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bssan_tf.config.settings import RERANK
from bssan_tf.errors import UserError
from bssan_tf.features.store import Features
from bssan_tf.reading.arrays import read_npz
from bssan_tf.scoring.first_stage import SAMPLE, FirstStage, has_first_stage, principal_components
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.tools.files import file_sha256, replacing

EXACT = 100_000  # vectors that are all compared with a sentence; of more, neighbours of neighbours are
BLOCK = 1024  # photos whose vectors are made at once
SAVE_SECONDS = 60.0  # at most this much work is lost by a kill
REMEDY = "it is made anew"

logger = logging.getLogger(__name__)


class VectorIndex:
    """Photos by their vectors.

    Args:
        stage: of a run, with the basis that the vectors have.
        index: of usearch, with the vectors of `keys` uint64 (N,).
    """

    def __init__(self, stage: FirstStage, index, keys: np.ndarray):
        self.stage, self.index = stage, index
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def search(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """The places in `keys` of the best `count` photos for a sentence int32 (1, L), best first: int64 (n,)."""
        count, exact = min(count, len(self._keys)), len(self._keys) <= EXACT
        found = self.index.search(self.stage.sentences(tokens)[0], count, exact=exact).keys
        return self._order[np.searchsorted(self._keys, np.asarray(found, np.uint64))]


def row_keys(features: Features, rows: np.ndarray) -> np.ndarray:
    """What tells a photo with its features from all others, uint64 (n,): of its name, and of the row's checksum."""
    names = np.array([zlib.crc32(features.image_ids[row].encode("utf-8", "surrogateescape")) for row in rows])
    return names.astype(np.uint64) << np.uint64(32) | np.asarray(features.sums[rows], np.uint64)


def first_stage(
    fast: FastScorer, features: Features, rows: np.ndarray, progress: bool = False
) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """`VectorIndex.search` of photos int (N,) of a store, as of `vector_index`.

    None where a search scores them all, where a network has no bilinear score, or where the store has no checksums.
    """
    if len(rows) <= RERANK or features.sums is None or not has_first_stage(fast):
        return None
    return vector_index(fast, features, rows, progress).search


def vector_index(fast: FastScorer, features: Features, rows: np.ndarray, progress: bool = False) -> VectorIndex:
    """The index of photos int (N,) of a store with checksums, brought up to date and kept in its folder.

    A cache that can't be written is used as it is, with what it lacks made for this process alone.
    """
    keys, file = row_keys(features, rows), _IndexFile(features.folder, fast)
    index = file.read()
    there = np.array(index.keys, np.uint64) if index is not None and len(index) else np.zeros(0, np.uint64)
    if index is None or not np.isin(there, keys).any():  # other photos than those that the basis is of
        stage, (index, there) = FirstStage(fast), (None, np.zeros(0, np.uint64))
        some = np.sort(np.random.default_rng(0).permutation(len(rows))[:SAMPLE])
        file.basis = principal_components(stage.photos(features, rows[some]))
        index = new_index(file.basis.shape[1])
    stage = FirstStage(fast, file.basis)
    gone, new = np.setdiff1d(there, keys), np.flatnonzero(~np.isin(keys, there))
    if len(gone):
        index.remove(gone)
    saved = time.monotonic()
    with tqdm(total=len(new), desc="vectors", unit="img", leave=False, disable=not (progress and len(new))) as bar:
        for start in range(0, len(new), BLOCK):
            some = new[start : start + BLOCK]
            index.add(keys[some], stage.photos(features, rows[some]), threads=1)  # more would give another graph
            bar.update(len(some))
            if time.monotonic() - saved > SAVE_SECONDS:
                file.write(index)
                saved = time.monotonic()
    if len(gone) or len(new):
        file.write(index)
    return VectorIndex(stage, index, keys)


def new_index(size: int):
    """An empty index of usearch, of inner products."""
    from usearch.index import Index

    return Index(ndim=size, metric="ip", dtype="f16")


class _IndexFile:
    """The files of an index: that of usearch, and an .npz with the basis of its vectors and the checksum of the other.

    They lie beside the store, which is replaced when photos go, and have the name of the run's weights.
    """

    def __init__(self, folder: Path, fast: FastScorer):
        stem, self.basis = f"{folder.name}-first_stage-{fast.digest()[:12]}", None
        self.vectors, self.notes = folder.with_name(f"{stem}.usearch"), folder.with_name(f"{stem}.npz")

    def read(self):
        """The index; None where there is none, or a damaged one, which is said."""
        from usearch.index import Index

        if not self.notes.exists():
            return None
        try:
            notes = read_npz(self.notes, REMEDY)
            if str(notes["sha256"]) != file_sha256(self.vectors):
                raise UserError(f"{self.vectors}: has changed since it was written; {REMEDY}")
            self.basis = notes["basis"]
            return Index.restore(str(self.vectors))
        except UserError as error:
            logger.warning("%s", error)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            logger.warning("%s: can't be read (%s); %s", self.vectors, error, REMEDY)
        return None

    def write(self, index) -> None:
        """Both files whole, or a warning."""
        try:
            with replacing(self.vectors) as part:
                index.save(str(part))
                sha256 = file_sha256(part)
            with replacing(self.notes) as part, open(part, "wb") as file:
                np.savez(file, basis=self.basis, sha256=np.array(sha256))
        except (UserError, OSError, RuntimeError) as error:
            logger.warning("%s: can't be kept (%s); the next search makes it anew", self.vectors, error)
