"""More of a score matrix than its recalls: mean rank, R-Precision, mAP@R, and 95 % intervals of every number.

In: scores float (N_i, N_c) and image_of_caption (N_c,), as recall.py takes them. Out: plain dicts of floats.
"""

from __future__ import annotations

import numpy as np

from bssan_tf.metrics.recall import RECALLS, both_ways, positive_ranks, summarise

DRAWS = 1000  # resamples of the images
SEED = 0  # of the resamples: the same scores have the same intervals
_AT_ONCE = 1 << 22  # numbers of resamples at a time


def detailed_report(scores: np.ndarray, image_of_caption: np.ndarray, lonely: bool = False) -> dict:
    """What `recall.retrieval_report` returns, with more metrics of both directions and their 95 % intervals.

    Each direction has also "MeanR", the mean rank of the best correct candidate, and in percent "R-P" and "mAP@R", the
    means of `precisions_at_r`. "intervals" is {"i2t", "t2i", "rsum"} with [low, high] of every number, see `intervals`.

    `lonely` allows images without a caption, and captions of image -1, without one: they are ranked among the others,
    but nothing is asked for with them.

    Raises:
        ValueError: as `recall.retrieval_report`; no caption has an image.
    """
    images, owner = np.arange(len(scores)), np.asarray(image_of_caption)
    i2t, t2i = (positive_ranks(*way, lonely) for way in ((scores, images, owner), (scores.T, owner, images)))
    if lonely:
        asked, owned = i2t[:, 0] > 0, t2i[:, 0] > 0
        if not asked.any():
            raise ValueError("no caption has an image")
        i2t, t2i, owner = i2t[asked], t2i[owned], (np.cumsum(asked) - 1)[owner[owned]]
    report = both_ways(*({**_means(_values(rank)), **summarise(rank[:, 0])} for rank in (i2t, t2i)))
    n_images, n_captions = scores.shape
    return {**report, "n_images": n_images, "n_captions": n_captions, "intervals": intervals(i2t, t2i, owner)}


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

    The images are drawn as queries; what they are ranked among stays. 1,000 draws with a seed of their own, and the
    2.5th and 97.5th percentiles.

    Args:
        i2t, t2i: `recall.positive_ranks` of images (N_i, R_max) and captions (N_c, 1).
        image_of_caption: int (N_c,).

    Returns:
        {"i2t": {name: [low, high]}, "t2i": {the same}, "rsum": [low, high]}.
    """
    images, owner = len(i2t), np.asarray(image_of_caption)
    counts = np.bincount(owner, minlength=images)  # (N_i,) captions of each
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS)  # (DRAWS, N_i) how often each image
    ways = {}
    for way, rank, owners in (("i2t", i2t, np.arange(images)), ("t2i", t2i, owner)):
        total = drawn @ (np.ones(images, np.int64) if way == "i2t" else counts)  # (DRAWS,) queries
        sums = {name: np.bincount(owners, value, minlength=images) for name, value in _values(rank).items()}
        ways[way] = {name: drawn @ value / total for name, value in sums.items()}  # (DRAWS,) by name
        ways[way]["MedR"] = _medians(rank[:, 0], drawn, owners)
    rsum = sum(ways[way][f"R@{k}"] for way in ways for k in RECALLS)
    found = {way: {name: _bounds(values) for name, values in numbers.items()} for way, numbers in ways.items()}
    return {**found, "rsum": _bounds(rsum)}


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


def _bounds(values: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.percentile(values, (2.5, 97.5))]
