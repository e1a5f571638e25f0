"""The first stage of a folder's photos, in an index of faiss that is kept beside their features.

In: a run's first stage and the features of photos. Out: the photos that a sentence may mean, by one inner product. The
index follows its photos: new ones are added, and those that are gone or have changed leave it; nothing else is touched.
It can be deleted at any time, and is then made anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from bssan_tf.config.settings import RERANK
from bssan_tf.errors import UserError
from bssan_tf.features.store import Features
from bssan_tf.reading.arrays import read_npz
from bssan_tf.scoring.first_stage import SAMPLE, FirstStage, has_first_stage, principal_components
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.tools.files import clear_leftovers, replacing

FORMAT = 1  # of the file and of how vectors are made; another one is made anew
PART = 100_000  # vectors that a thread of its own is worth
BLOCK = 1024  # photos whose vectors are made at once
SAVE_SECONDS = 60.0  # at most this much work is lost by a kill
REMEDY = "it is made anew"

logger = logging.getLogger(__name__)

Candidates = Callable[[np.ndarray, int], np.ndarray]  # a sentence int32 (1, L), a number -> places of photos int64 (n,)


class VectorIndex:
    """Photos by their vectors.

    Args:
        stage: of a run, with the basis that the vectors have.
        index: of faiss, with the vectors of `keys` int64 (N,), and maybe of others, which are passed over.
    """

    def __init__(self, stage: FirstStage, index, keys: np.ndarray):
        self.stage, self.index = stage, index
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def search(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """The places in `keys` of the best `count` photos for a sentence int32 (1, L), best first: int64 (n,)."""
        others = self.index.ntotal - len(self._keys)
        found = nearest(self.index, self.stage.sentences(tokens), min(count + others, self.index.ntotal))
        places = np.minimum(np.searchsorted(self._keys, found), len(self._keys) - 1)
        return self._order[places[self._keys[places] == found]][:count]


def nearest(index, vector: np.ndarray, count: int) -> np.ndarray:
    """The keys of the `count` largest inner products with a vector float32 (1, d), best first: int64 (count,).

    `index` is an IndexIDMap2 of faiss. One query keeps one of faiss' threads busy, so a large index is searched in
    parts.
    """
    import faiss

    flat, total = faiss.downcast_index(index.index), index.ntotal
    parts = max(1, min(os.cpu_count() or 1, total // PART))
    bounds = [total * part // parts for part in range(parts + 1)]

    def search(first: int, after: int) -> tuple[np.ndarray, np.ndarray]:
        some = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, after))
        products, places = flat.search(vector, min(count, after - first), params=some)
        return products[0], places[0]

    with ThreadPoolExecutor(parts, initializer=faiss.omp_set_num_threads, initargs=(1,)) as threads:
        products, places = map(np.concatenate, zip(*threads.map(search, bounds, bounds[1:])))
    keys = faiss.rev_swig_ptr(index.id_map.data(), total)  # without a copy
    return keys[places[np.argsort(-products, kind="stable")[:count]]]


def first_candidates(
    fast: FastScorer, features: Features, rows: np.ndarray, progress: bool = False
) -> Candidates | None:
    """`VectorIndex.search` of photos int (N,) of a store; the index is looked for, or made, when it is first called.

    None where a search scores all of them, where a network has no bilinear score, or where the store has no checksums.
    """
    if len(rows) <= RERANK or features.sums is None or not has_first_stage(fast):
        return None
    index = functools.cache(lambda: vector_index(fast, features, rows, progress))
    return lambda tokens, count: index().search(tokens, count)


def vector_index(fast: FastScorer, features: Features, rows: np.ndarray, progress: bool = False) -> VectorIndex:
    """The index of photos int (N,) of a store with checksums, brought up to date and kept beside the store.

    It holds all photos of the store that could be read. Where it can't be written, which is said, it is of this process
    alone.
    """
    whole = np.setdiff1d(np.arange(len(features.image_ids)), features.bad_rows)
    keys, file = row_keys(features, whole), _IndexFile(fast, features)
    kept = file.read()
    few = kept is not None and kept.sample < min(SAMPLE, len(whole) / 2)
    if kept is None or few or not np.isin(_keys_of(kept.index), keys).any():  # else the basis may not suit the photos
        kept = new_index(fast, features, whole)
    stage, index = FirstStage(fast, kept.basis), kept.index
    there = _keys_of(index)
    gone, new = there[~np.isin(there, keys)], np.flatnonzero(~np.isin(keys, there))
    if len(gone):
        index.remove_ids(gone)
    saved = time.monotonic()
    with tqdm(total=len(new), desc="vectors", unit="img", leave=False, disable=not (progress and len(new))) as bar:
        for start in range(0, len(new), BLOCK):
            some = new[start : start + BLOCK]
            index.add_with_ids(stage.photos(features, whole[some]), keys[some])
            bar.update(len(some))
            if time.monotonic() - saved > SAVE_SECONDS:
                file.write(kept)
                saved = time.monotonic()
    if len(gone) or len(new):
        file.write(kept)
    return VectorIndex(stage, index, row_keys(features, rows))


def row_keys(features: Features, rows: np.ndarray) -> np.ndarray:
    """What tells a photo with its features from all others, int64 (n,): a hash of its name and its row's checksum."""
    sums, hashes = features.sums[rows].tolist(), []
    for row, row_sum in zip(np.asarray(rows).tolist(), sums):
        name = features.image_ids[row].encode("utf-8", "surrogateescape")
        hashes.append(hashlib.blake2b(name, digest_size=8, salt=row_sum.to_bytes(4, "little")).digest())
    return np.frombuffer(b"".join(hashes), "<i8").astype(np.int64)


class _Kept:
    """What is kept: an index of faiss, float32 `basis` of its vectors, and the number of photos that this is of."""

    def __init__(self, index, basis: np.ndarray, sample: int):
        self.index, self.basis, self.sample = index, basis, sample


def new_index(fast: FastScorer, features: Features, rows: np.ndarray) -> _Kept:
    """An empty index, with the basis of a seeded sample of photos int (N,)."""
    import faiss

    some = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLE])
    basis = principal_components(FirstStage(fast).photos(features, some))
    flat = faiss.IndexScalarQuantizer(basis.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    return _Kept(faiss.IndexIDMap2(flat), basis, len(some))


def _keys_of(index) -> np.ndarray:
    import faiss

    return faiss.vector_to_array(index.id_map)


class _IndexFile:
    """The file of an index: an .npz beside the store, which is replaced when photos go.

    Its name has a hash of all but the photos that vectors depend on.
    """

    def __init__(self, fast: FastScorer, features: Features):
        made_with = [FORMAT, fast.digest(), features.manifest.get("labels")]
        name = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:12]
        self.path = features.folder.with_name(f"{features.folder.name}-first_stage-{name}.npz")

    def read(self) -> _Kept | None:
        """What is kept; None where there is nothing, or a damaged file, which is said."""
        import faiss

        if not self.path.exists():
            return None
        try:
            found = read_npz(self.path, REMEDY, names=("index", "basis", "sample"))
            index = faiss.deserialize_index(found["index"])
            if (
                found["basis"].ndim != 2
                or not isinstance(index, faiss.IndexIDMap2)
                or index.d != found["basis"].shape[1]
            ):
                raise ValueError("its parts do not fit each other")
            return _Kept(index, found["basis"].astype(np.float32), int(found["sample"]))
        except UserError as error:
            logger.warning("%s", error)
        except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:80]
            logger.warning("%s: can't be read (%s); %s", self.path, reason, REMEDY)
        return None

    def write(self, kept: _Kept) -> None:
        """The file, whole, or a warning."""
        import faiss

        try:
            clear_leftovers(self.path.parent, self.path.name)
            with replacing(self.path) as part, open(part, "wb") as file:
                np.savez(file, index=faiss.serialize_index(kept.index), basis=kept.basis, sample=np.array(kept.sample))
        except (UserError, OSError) as error:
            logger.warning("%s: can't be kept (%s); the next search makes it anew", self.path, error)
