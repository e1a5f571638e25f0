"""Objects with their class and the whole photo beside them, for O2W; computed when read, nothing is stored.

In: a picture's object features (P, Q'), the detector's classes and scores (P,), its regions (D, M). Out: for each
object [own ; class ; photo], float32 (P, Q), Q = Q' + number of classes + M. The absolute values of the photo sum to
1, those of own to its share; the dimension of the class is its share times the score. So the shares are the parts'
squared lengths after √ (`FeatureNorm`), before `centred` takes off the mean.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.features.store import Features

SHARES = DataConfig.object_shares  # of own and class, in a new run
NO_CONTEXT = (
    "--object-context: needs regions, and objects of a detector or of boxes; leave --import-regions and "
    "--import-objects out, or train with --no-object-context"
)
_PER_OBJECT = ("objects", "classes", "scores", "valid")
_BLOCK = 64  # pictures whose regions are read at once

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What the objects of a run have room for; Q is the size of an object in its context."""

    Q: int
    labels: Sequence[str] | None = None  # of the classes that have a place; None where nameless, or in an older run
    shares: tuple[float, float] = SHARES


def known_classes(classes: np.ndarray, labels: Sequence[str] | None, known: Sequence[str] | None) -> np.ndarray:
    """Classes of any boxes, int with names `labels`, as a run numbers these names; -1 where unknown to either.

    Args:
        labels: None where the classes have no names, so that the run knows none of them.
        known: the run's names; None leaves the numbers as they are.
    """
    if known is None or list(labels or ()) == list(known):
        return classes
    numbers = {label: number for number, label in enumerate(known)}
    table = np.array([*(numbers.get(label, -1) for label in labels or ()), -1], np.int32)  # last: the nameless
    found, classified = table[np.clip(classes, -1, len(table) - 1)], classes >= 0
    if lost := int((classified & (found < 0)).sum()):
        logger.warning("boxes: the run does not know the class of %d of %d objects", lost, int(classified.sum()))
    return found


def in_context(
    *,
    objects: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    valid: np.ndarray,
    means: np.ndarray,
    Q: int,
    shares: tuple[float, float] = SHARES,
) -> np.ndarray:
    """Objects of n pictures with class and photo beside them: float32 (n, P, Q).

    Args:
        objects: float (n, P, Q').
        classes: int (n, P), -1 where unknown; one that Q has no place for is left out.
        scores: float (n, P), how sure the detector is of the class.
        valid: bool (n, P), False at padding, which stays zero.
        means: float32 (n, M), as of `photo_means`.
        Q: size of the result, which says how many classes there are.
        shares: of own and class.
    """
    named = np.zeros((*classes.shape, Q - objects.shape[2] - means.shape[1]), np.float32)
    known = np.nonzero((classes >= 0) & (classes < named.shape[2]))
    named[(*known, classes[known])] = scores[known]
    return _joined(objects, named, means, valid, shares)


def in_context_graph(objects, valid, regions, context: RunContext, xp):
    """`in_context` of objects without a class as operations of a graph: float32 (n, P, Q).

    Args:
        objects, valid, regions: tensors float (n, P, Q'), bool (n, P), float (n, D, M).
        context: for what run; only its Q and shares are looked at.
        xp: tensorflow.experimental.numpy.
    """
    means = photo_means(regions, xp)
    named = xp.zeros((*valid.shape, context.Q - objects.shape[2] - means.shape[1]), np.float32)
    return _joined(objects, named, means, valid, context.shares, xp)


def _joined(objects, named, means, valid, shares, xp=np):
    """[own ; class ; photo] of `xp`, NumPy or TensorFlow's: `named` (n, P, number of classes) has the scores."""
    own, of_class = shares
    photo = xp.broadcast_to(_of_sum(means, 1.0, xp)[:, None], (*valid.shape, means.shape[1]))
    parts = [_of_sum(xp.asarray(objects, dtype=np.float32), own, xp), of_class * named, photo]
    return xp.concatenate(parts, axis=-1) * xp.asarray(valid, dtype=np.float32)[..., None]


def photo_means(regions, xp=np):
    """Mean of each picture's regions (n, D, M): float32 (n, M)."""
    return xp.mean(xp.asarray(regions, dtype=np.float32), axis=1)


def _of_sum(rows, share: float, xp=np):
    """Rows (..., F) whose absolute values sum to `share`; a zero row stays zero."""
    return rows * (share / xp.maximum(xp.sum(xp.abs(rows), axis=-1, keepdims=True), np.float32(1e-12)))


class _PhotoMeans:
    """`photo_means` of a store's regions (N, D, M), kept once computed: N x M x 4 bytes in all (COCO: 250 MB).

    Threads may read at the same time: a mean that two of them compute is the same.
    """

    def __init__(self, regions: np.ndarray):
        N, _, M = regions.shape
        self.regions, self._filled = regions, np.zeros(N, bool)
        self._means = np.zeros((N, M), np.float32)  # takes memory page by page, as it is written

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        missing = np.unique(rows[~self._filled[rows]])
        for start in range(0, len(missing), _BLOCK):
            block = missing[start : start + _BLOCK]
            self._means[block] = photo_means(self.regions[block])
            self._filled[block] = True  # only now, for other threads
        return self._means[rows]


class ObjectsInContext:
    """An array float32 (N, P, Q) over a feature store, whose rows are computed when they are read.

    The photos' means, most of the reading, are kept once computed; `means` are those of another such array.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, features: Features, Q: int, shares: tuple[float, float] = SHARES, means: _PhotoMeans | None = None
    ):
        self.shares, self.features, self.means = shares, features, means or _PhotoMeans(features.regions)
        self.shape = (*features.objects.shape[:2], Q)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        """Rows, indexed along the first axis as of a NumPy array."""
        places = np.arange(len(self))[rows]
        some = np.atleast_1d(places)
        found = self.around(some, self.features.objects[some])
        return found if np.ndim(places) else found[0]

    def around(self, rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """The context of pictures, int (n,), around their `objects` (n, P, Q') that were read already."""
        arrays = {name: getattr(self.features, name)[rows] for name in _PER_OBJECT if name != "objects"}
        return in_context(objects=objects, **arrays, means=self.means[rows], Q=self.shape[2], shares=self.shares)


def with_context(features: Features, run: RunContext | None = None, shares: tuple[float, float] = SHARES) -> Features:
    """The features with each object in its context; UserError without regions or objects with classes.

    Without a `run` that they are for, there is room for the classes that the store's boxes can name, and `shares` are
    those of own and class.
    """
    if any(getattr(features, name) is None for name in ("regions", *_PER_OBJECT)):
        raise UserError(NO_CONTEXT)
    labels = features.manifest.get("labels")
    if run is None:
        count = len(labels) if labels else 1 + int(np.max(features.classes, initial=-1))
        run = RunContext(features.objects.shape[2] + count + features.regions.shape[2], labels, shares)
    seen = dataclasses.replace(features, classes=known_classes(features.classes, labels, run.labels))
    return dataclasses.replace(features, objects=ObjectsInContext(seen, run.Q, run.shares), in_context=True)
