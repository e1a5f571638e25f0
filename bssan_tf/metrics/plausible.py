"""PMRP, Plausible-Match R-Precision: images that show the same classes fit each other's captions.

In: scores and the classes of each image. Out: percentages of both directions. Images without a class are left out with
their captions, as they would fit each other only because nothing was annotated.

Reference: Chun et al., Probabilistic Embeddings for Cross-Modal Retrieval, CVPR 2021.
"""

from __future__ import annotations

import numpy as np

DIFFERING = (0, 1, 2)  # classes in which a plausible match may differ; the paper's zeta
_AT_ONCE = 1 << 22  # scores read at once


def pmrp(scores: np.ndarray, image_of_caption: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """{"i2t", "t2i"}: the mean over zeta in 0, 1, 2 of the R-Precision, in percent.

    A candidate is correct where its image's classes differ from those of the query's image in at most zeta. With R such
    candidates, R-Precision is their share among the first R results; ties with a wrong one count against us.

    Args:
        scores: float (N_i, N_c), finite; may be a memory map.
        image_of_caption: int (N_c,).
        classes: bool (N_i, C), which classes each image shows.

    Raises:
        ValueError: shapes that do not fit, no image with a class and a caption.
    """
    owner, classes = np.asarray(image_of_caption), np.asarray(classes, bool)
    if scores.shape != (len(classes), len(owner)):
        raise ValueError(f"scores: shape {scores.shape} does not fit {len(classes)} images, {len(owner)} captions")
    images = np.flatnonzero(classes.any(axis=1))
    captions = np.flatnonzero(classes[owner].any(axis=1)) if len(owner) else owner
    if not captions.size:
        raise ValueError("no image with a class and a caption")
    ways = {
        "i2t": (scores, images, captions, images, owner[captions]),
        "t2i": (scores.T, captions, images, owner[captions], images),
    }
    return {way: _precision(*sides, classes.astype(np.float32)) for way, sides in ways.items()}


def _precision(
    scores: np.ndarray,
    queries: np.ndarray,
    candidates: np.ndarray,
    image_of_query: np.ndarray,
    image_of_candidate: np.ndarray,
    shown: np.ndarray,
) -> float:
    """The mean over zeta of that over queries which have a correct candidate, in percent."""
    step = max(1, _AT_ONCE // scores.shape[1])
    shares: dict[int, list[np.ndarray]] = {zeta: [] for zeta in DIFFERING}
    for start in range(0, len(queries), step):
        block = np.asarray(scores[queries[start : start + step]])[:, candidates]  # (b, N_k)
        own = shown[image_of_query[start : start + step]]
        differ = (own @ (1 - shown).T + (1 - own) @ shown.T).astype(np.int16)  # (b, N_i) classes that one of two has
        apart = differ[:, image_of_candidate]  # (b, N_k)
        ordered = np.sort(block, axis=1)
        for zeta, found in shares.items():
            correct = apart <= zeta
            R = np.count_nonzero(correct, axis=1)
            found.append((_hits(block, ordered, correct, np.maximum(R, 1)) / np.maximum(R, 1))[R > 0])
    return 100 * float(np.mean([np.mean(np.concatenate(found)) for found in shares.values()]))


def _hits(block: np.ndarray, ordered: np.ndarray, correct: np.ndarray, R: np.ndarray) -> np.ndarray:
    """How many of the first R results of each query (b,) are correct, with wrong ones first where scores tie."""
    last = np.take_along_axis(ordered, ordered.shape[1] - R[:, None], axis=1)  # (b, 1) the R-th best score
    above = block > last
    free = R - np.count_nonzero(above, axis=1)  # places for those that tie with the R-th
    wrong = np.count_nonzero((block == last) & ~correct, axis=1)
    return np.count_nonzero(above & correct, axis=1) + np.maximum(0, free - wrong)
