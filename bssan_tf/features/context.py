"""Objects with their class and the whole photo beside them, for O2W; computed when read, nothing is stored.

In: a picture's own object features (P, Q'), the detector's classes and scores (P,), its regions (D, M). Out: for each
object [own ; class ; photo], float32 (P, Q), Q = Q' + number of classes + M. Each part is scaled to a fixed sum of
absolute values, so that after √ (`FeatureNorm`) its squared length is the share below, whatever the extractor's units.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.store import Features

OWN_SHARE, CLASS_SHARE, PHOTO_SHARE = 0.1, 0.2, 1.0
NO_CONTEXT = (
    "--object-context: needs regions, and objects of a detector or of boxes, not imported ones; add --no-object-context"
)


def in_context(
    *, objects: np.ndarray, classes: np.ndarray, scores: np.ndarray, valid: np.ndarray, regions: np.ndarray, Q: int
) -> np.ndarray:
    """Objects of n pictures with class and photo beside them.

    Args:
        objects: float (n, P, Q').
        classes: int (n, P), -1 where unknown; one that Q has no place for is left out.
        scores: float (n, P), how sure the detector is of the class.
        valid: bool (n, P), False at padding, which stays zero.
        regions: float (n, D, M).
        Q: size of the result, which says how many classes there are.

    Returns:
        float32 (n, P, Q).
    """
    n, P = classes.shape
    named = np.zeros((n, P, Q - objects.shape[2] - regions.shape[2]), np.float32)
    known = np.nonzero((classes >= 0) & (classes < named.shape[2]))
    named[(*known, classes[known])] = scores[known]
    photo = _of_sum(np.asarray(regions, np.float32).mean(axis=1), PHOTO_SHARE)  # (n, M)
    photo = np.broadcast_to(photo[:, None], (n, P, photo.shape[1]))
    parts = [_of_sum(np.asarray(objects, np.float32), OWN_SHARE), CLASS_SHARE * named, photo]
    return np.concatenate(parts, axis=-1) * np.asarray(valid, np.float32)[..., None]


def _of_sum(rows: np.ndarray, share: float) -> np.ndarray:
    """Rows (..., F) whose absolute values sum to `share`; a zero row stays zero."""
    return rows * (share / np.maximum(np.abs(rows).sum(axis=-1, keepdims=True), 1e-12))


class ObjectsInContext:
    """An array (N, P, Q) over a feature store, whose rows are computed when they are asked for.

    Args:
        features: regions, objects, classes, scores and valid of N pictures.
        Q: see `in_context`.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, features: Features, Q: int):
        self.features = features
        self.shape = (*features.objects.shape[:2], Q)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        """Rows as NumPy would index them along the first axis."""
        one = isinstance(rows, (int, np.integer))
        some = np.array([rows]) if one else rows
        names = ("objects", "classes", "scores", "valid", "regions")
        found = in_context(**{name: getattr(self.features, name)[some] for name in names}, Q=self.shape[2])
        return found[0] if one else found


def with_context(features: Features, Q: int | None = None) -> Features:
    """The features with each object in its context.

    Args:
        Q: what a model was made for; None makes room for the classes that the store's boxes can name.

    Raises:
        UserError: there are no regions or no objects with classes.
    """
    if any(getattr(features, name) is None for name in ("regions", "objects", "classes", "scores", "valid")):
        raise UserError(NO_CONTEXT)
    if Q is None:
        labels = features.manifest.get("labels")
        classes = len(labels) if labels else 1 + int(np.max(features.classes, initial=-1))
        Q = features.objects.shape[2] + classes + features.regions.shape[2]
    return dataclasses.replace(features, objects=ObjectsInContext(features, Q))
