"""More of a score matrix than its recalls: mean rank, R-Precision, mAP@R, hubness, and 95 % intervals.

In: scores float (N_i, N_c) and image_of_caption (N_c,), as recall.py takes them. Out: plain dicts of floats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bssan_tf.metrics.hubs import hubness
from bssan_tf.metrics.recall import RECALLS, both_ways, positive_ranks, summarise

DRAWS = 1000  # resamples of the images
SEED = 0  # of the resamples: the same scores have the same intervals
_AT_ONCE = 1 << 22  # numbers of resamples at a time


def detailed_report(
    scores: np.ndarray, image_of_caption: np.ndarray, t2i_scores: np.ndarray | None = None, lonely: bool = False
) -> dict:
    """What `recall.retrieval_report` returns, with more metrics of both directions and their 95 % intervals.

    Each direction has also "MeanR", the mean rank of the best correct candidate, in percent "R-P" and "mAP@R", the
    means of `precisions_at_r`, and the numbers of `hubs.hubness`. "intervals" is {"i2t", "t2i", "rsum"} with
    [low, high] of every number but the last two, see `intervals`.

    Args:
        scores, image_of_caption: as `recall.retrieval_report`.
        lonely: allow images without a caption, and captions of image -1, without one: they are ranked among the
            others, but are no queries.
        t2i_scores: float (N_i, N_c), scores of their own for captions that search images, as `hubs` corrects them.

    Raises:
        ValueError: as `recall.retrieval_report`; no caption has an image.
    """
    owner, of_images = np.asarray(image_of_caption), scores
    of_captions = (scores if t2i_scores is None else t2i_scores).T  # (N_c, N_i)
    i2t, t2i = both_ranks(scores, owner, t2i_scores, lonely)
    asked, owned = i2t[:, 0] > 0, t2i[:, 0] > 0
    if not asked.any():
        raise ValueError("no caption has an image")
    if not (asked.all() and owned.all()):
        of_images, of_captions = of_images[asked], of_captions[owned]
        i2t, t2i, owner = i2t[asked], t2i[owned], (np.cumsum(asked) - 1)[owner[owned]]
    ways = ((i2t, of_images), (t2i, of_captions))
    report = both_ways(*({**_means(_values(rank)), **summarise(rank[:, 0]), **hubness(way)} for rank, way in ways))
    n_images, n_captions = scores.shape
    return {**report, "n_images": n_images, "n_captions": n_captions, "intervals": intervals(i2t, t2i, owner)}


def both_ranks(
    scores: np.ndarray, image_of_caption: np.ndarray, t2i_scores: np.ndarray | None = None, lonely: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """`recall.positive_ranks` of images (N_i, R_max) and of captions (N_c, 1); arguments as of `detailed_report`."""
    images, owner = np.arange(len(scores)), np.asarray(image_of_caption)
    of_captions = (scores if t2i_scores is None else t2i_scores).T
    return positive_ranks(scores, images, owner, lonely), positive_ranks(of_captions, owner, images, lonely)


def precisions_at_r(rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R-Precision and average precision at R of each query, float (N_q,), from `recall.positive_ranks` (N_q, R_max).

    Of a query with R correct candidates, R-Precision is the share of them among its first R results. The average is the
    mean over these R results of the precision up to a correct one, 0 at a wrong one.

    References: Musgrave et al., A Metric Learning Reality Check, ECCV 2020; ECCV Caption, Chun et al., ECCV 2022.
    """
    R = np.count_nonzero(rank, axis=1, keepdims=True)  # (N_q, 1)
    among = (rank > 0) & (rank <= R)
    precision = np.arange(1, rank.shape[1] + 1) / np.maximum(rank, 1)  # p of them at rank r: p / r
    return np.count_nonzero(among, axis=1) / R[:, 0], np.sum(among * precision, axis=1) / R[:, 0]


def _values(rank: np.ndarray) -> dict[str, np.ndarray]:
    """What is averaged over queries, float (N_q,) by name, in the units of a report."""
    precision, average = precisions_at_r(rank)
    recalls = {f"R@{k}": 100.0 * (rank[:, 0] <= k) for k in RECALLS}
    return {**recalls, "MeanR": rank[:, 0].astype(float), "R-P": 100 * precision, "mAP@R": 100 * average}


def _means(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value.mean()) for name, value in values.items()}


def intervals(i2t: np.ndarray, t2i: np.ndarray, image_of_caption: np.ndarray) -> dict:
    """95 % intervals of all numbers by a bootstrap over images, each drawn with its captions (Efron, 1979).

    They are the 2.5th and 97.5th percentiles of what `resampled` gives, whose arguments it takes.

    Returns:
        {"i2t": {name: [low, high]}, "t2i": {the same}, "rsum": [low, high]}.
    """
    return bounds_of(resampled(i2t, t2i, image_of_caption))


def resampled(i2t: np.ndarray, t2i: np.ndarray, image_of_caption: np.ndarray, seed: int = SEED) -> dict:
    """All numbers of a report in each of 1,000 seeded draws of the images, which stay ranked among all.

    The draws depend on the seed and the number of images alone: two matrices of the same pairs are drawn alike, so that
    differences are paired.

    Args:
        i2t, t2i: `recall.positive_ranks` of images (N_i, R_max) and captions (N_c, 1).
        image_of_caption: int (N_c,).

    Returns:
        {"i2t": {name: float (DRAWS,)}, "t2i": {the same}, "rsum": float (DRAWS,)}.
    """
    images, owner = len(i2t), np.asarray(image_of_caption)
    counts = np.bincount(owner, minlength=images)  # (N_i,) captions of each
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS)  # (DRAWS, N_i) how often each image
    ways = {}
    for way, rank, owners in (("i2t", i2t, np.arange(images)), ("t2i", t2i, owner)):
        total = drawn @ (np.ones(images, np.int64) if way == "i2t" else counts)  # (DRAWS,) queries
        sums = {name: np.bincount(owners, value, minlength=images) for name, value in _values(rank).items()}
        ways[way] = {name: drawn @ value / total for name, value in sums.items()}  # (DRAWS,) by name
        ways[way]["MedR"] = _medians(rank[:, 0], drawn, owners)
    return {**ways, "rsum": sum(ways[way][f"R@{k}"] for way in ways for k in RECALLS)}


def mean_of(folds: Sequence[dict]) -> dict:
    """The mean of every array of `resampled` over folds."""
    if isinstance(folds[0], dict):
        return {name: mean_of([fold[name] for fold in folds]) for name in folds[0]}
    return np.mean(folds, axis=0)


def bounds_of(numbers: dict) -> dict:
    """The 2.5th and 97.5th percentiles of all arrays (DRAWS,) in dicts of dicts, as [low, high]."""
    if isinstance(numbers, dict):
        return {name: bounds_of(value) for name, value in numbers.items()}
    return [float(bound) for bound in np.percentile(numbers, (2.5, 97.5))]


def _medians(rank: np.ndarray, drawn: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Median of the ranks int (N_q,) in each draw of the images: float (DRAWS,)."""
    order = np.argsort(rank, kind="stable")
    found, step = np.empty(len(drawn)), max(1, _AT_ONCE // len(rank))
    for start in range(0, len(drawn), step):
        upto = np.cumsum(drawn[start : start + step][:, owners[order]], axis=1)  # (b, N_q) queries up to each rank
        total = upto[:, -1:]
        middle = [np.argmax(upto >= place, axis=1) for place in ((total + 1) // 2, total // 2 + 1)]
        found[start : start + step] = np.mean([rank[order[place]] for place in middle], axis=0)
    return found
