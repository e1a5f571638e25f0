"""Retrieval metrics from a score matrix, in pure NumPy: ranks, R@K, Med r and rsum in both directions.

In: scores float (N_i, N_c), one row an image and one column a caption, possibly memory-mapped, and image_of_caption
(N_c,). Out: plain dicts of floats. Nothing here knows a model. Both directions run through `ranks`; only the labels
swap. The matrix is read in blocks of about 16 MB, so that 5,000 x 25,000 scores need no copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bssan_tf.errors import UserError

RECALLS = (1, 5, 10)
PROTOCOLS = ("full", "1k", "5fold", "5k")
BLOCK_SCORES = 1 << 22  # scores read at once
_FOLD, _FOLDS = 1000, 5  # the COCO protocols: 1K folds of the 5K test images


class NotFiniteError(ValueError):
    """Scores that are NaN or infinite have no ranks."""


def ranks(scores: np.ndarray, query_labels: np.ndarray, candidate_labels: np.ndarray) -> np.ndarray:
    """Ranks int64 (N_q,) of each query's best correct candidate, from 1; ties with a wrong one count against us.

    A candidate is correct where its label equals the query's. The rank is 1 + the number of wrong candidates
    that score at least as high as the best correct one.

    Args:
        scores: float (N_q, N_k), higher is better.
        query_labels: int (N_q,).
        candidate_labels: int (N_k,).

    Raises:
        NotFiniteError: NaN or infinite scores.
        ValueError: shapes that do not fit, a query without a correct candidate.
    """
    found = np.empty(len(query_labels), np.int64)
    for rows, block, correct in _blocks(scores, query_labels, candidate_labels):
        best = np.max(block, axis=1, where=correct, initial=-np.inf, keepdims=True)  # (b, 1)
        found[rows] = 1 + np.count_nonzero((block >= best) & ~correct, axis=1)
    return found


def positive_ranks(
    scores: np.ndarray, query_labels: np.ndarray, candidate_labels: np.ndarray, lonely: bool = False
) -> np.ndarray:
    """Ranks int64 (N_q, R_max) of all correct candidates of each query, the best first; 0 behind a query's last one.

    The rank of the p-th best is p + the number of wrong candidates that score at least as high; else as `ranks`, which
    is the first column. `lonely` allows queries without a correct candidate: all of their row is 0.
    """
    labels, counts = np.unique(np.asarray(candidate_labels), return_counts=True)
    most = int(counts[np.isin(labels, query_labels)].max(initial=1))
    found = np.zeros((len(query_labels), most), np.int64)
    for rows, block, correct in _blocks(scores, query_labels, candidate_labels, lonely):
        owned = np.count_nonzero(correct, axis=1)  # (b,)
        real = np.arange(most) < owned[:, None]  # (b, R_max)
        own = np.full(real.shape, -np.inf, block.dtype)
        own[real] = block[correct]
        own = -np.sort(-own, axis=1)  # the best first
        for p in range(most):
            above = np.count_nonzero((block >= own[:, p : p + 1]) & ~correct, axis=1)
            found[rows, p] = np.where(real[:, p], p + 1 + above, 0)
    return found


def _blocks(
    scores: np.ndarray, query_labels: np.ndarray, candidate_labels: np.ndarray, lonely: bool = False
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows of the queries, their scores (b, N_k), and where the candidate is correct, bool (b, N_k)."""
    query_labels, candidate_labels = np.asarray(query_labels), np.asarray(candidate_labels)
    if scores.shape != (len(query_labels), len(candidate_labels)) or 0 in scores.shape:
        sizes = f"{len(query_labels)} queries and {len(candidate_labels)} candidates"
        raise ValueError(f"scores: shape {scores.shape} does not fit {sizes}")
    step = max(1, BLOCK_SCORES // len(candidate_labels))
    for start in range(0, len(query_labels), step):
        rows = slice(start, start + step)
        block = np.asarray(scores[rows])
        if not np.isfinite(block).all():
            raise NotFiniteError("scores: NaN or infinite values")
        correct = query_labels[rows, None] == candidate_labels
        if not lonely and not (found := correct.any(axis=1)).all():
            raise ValueError(f"query {start + np.argmin(found)} has no correct candidate")
        yield rows, block, correct


def retrieval_ranks(scores: np.ndarray, image_of_caption: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks image-to-text int64 (N_i,) and text-to-image int64 (N_c,). Arguments as `retrieval_report`."""
    images, owner = np.arange(len(scores)), np.asarray(image_of_caption)
    return ranks(scores, images, owner), ranks(scores.T, owner, images)


def summarise(rank: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent and the median rank of `rank` int (N,), counted from 1."""
    summary = {f"R@{k}": 100.0 * float(np.mean(rank <= k)) for k in RECALLS}
    return {**summary, "MedR": float(np.median(rank))}


def retrieval_report(scores: np.ndarray, image_of_caption: np.ndarray) -> dict:
    """The retrieval table of a score matrix (Section V-C), both directions.

    Args:
        scores: float (N_i, N_c), the matching score of image i and caption c; may be a memory map.
        image_of_caption: int (N_c,), the row of the image that caption c describes. Any number of captions an
            image, in any order, but at least one.

    Returns:
        {"i2t": {"R@1", "R@5", "R@10", "MedR"}, "t2i": {the same}, "rsum", "n_images", "n_captions"};
        recalls in percent, rsum their sum over both directions (at most 600).

    Raises:
        ValueError: shapes that do not fit, NaN or infinite scores, an image without a caption or the reverse.
    """
    i2t, t2i = (summarise(rank) for rank in retrieval_ranks(scores, image_of_caption))
    n_images, n_captions = scores.shape
    return {**both_ways(i2t, t2i), "n_images": n_images, "n_captions": n_captions}


def both_ways(i2t: Mapping[str, float], t2i: Mapping[str, float]) -> dict:
    """{"i2t", "t2i", "rsum"} of two such summaries; rsum is the sum of their recalls."""
    return {"i2t": i2t, "t2i": t2i, "rsum": float(sum(way[f"R@{k}"] for way in (i2t, t2i) for k in RECALLS))}


def chance_rsum(images: int, captions: int) -> float:
    """rsum that random scores reach on average, in percent points."""
    per_image = captions / images
    return sum(100 * (min(1.0, k / images) + 1 - max(0.0, 1 - k / captions) ** per_image) for k in (1, 5, 10))


def single_caption_report(scores: np.ndarray, image_of_caption: np.ndarray) -> dict:
    """The mean of the reports in which each image has its k-th caption alone, for every k that all images have.

    Pairs of one image and one caption, as the first captions alone make them, but steadier: each k is another draw.

    Args:
        scores: float (N_i, N_c), one row an image and one column a caption; may be a memory map.
        image_of_caption: int (N_c,), as `retrieval_report` takes it. The k-th caption of an image is its k-th
            column; captions beyond the fewest that an image has are not looked at.

    Returns:
        What `retrieval_report` returns, each number the mean over k; "n_captions" counts those of all k.

    Raises:
        ValueError: as `retrieval_report`.
    """
    owner = np.asarray(image_of_caption)
    n_images, n_columns = scores.shape
    if len(owner) != n_columns or not owner.size:
        raise ValueError(f"scores: shape {scores.shape} does not fit {len(owner)} owners of captions")
    if owner.max() >= n_images:
        raise ValueError(f"image_of_caption: there is no image {owner.max()}")
    captions = np.bincount(owner, minlength=n_images)  # (N_i,) of each image
    if not captions.all():
        raise ValueError(f"image {np.argmin(captions)} has no caption")
    order = np.argsort(owner, kind="stable")  # (N_c,) grouped by image, in the order of the columns
    first = np.cumsum(captions) - captions  # (N_i,) place of each image's first caption in `order`
    reports = [retrieval_report(scores[:, order[first + k]], np.arange(n_images)) for k in range(captions.min())]
    return {**_means(reports), "n_images": n_images, "n_captions": n_images * len(reports)}


def protocol_folds(protocol: str, n_images: int) -> list[tuple[int, int]]:
    """Which images one of COCO's protocols ranks against each other: (first, last + 1) of each fold.

    "full": every image. "1k": the first 1,000. "5k": the first 5,000. "5fold": the first 5,000 in five disjoint
    folds of 1,000.

    Raises:
        UserError: fewer images than the protocol needs.
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: {protocol!r} is none of {', '.join(PROTOCOLS)}")
    needed = {"full": n_images, "1k": _FOLD}.get(protocol, _FOLD * _FOLDS)
    if n_images < needed:
        few = f"needs {needed:,} images, the split has {n_images:,}"
        raise UserError(f"--protocol {protocol}: {few}; use --protocol full")
    size = _FOLD if protocol == "5fold" else needed
    return [(start, start + size) for start in range(0, needed, size)]


def mean_report(folds: Sequence[Mapping], protocol: str) -> dict:
    """The report of a protocol from the `retrieval_report` of each of its folds.

    Returns:
        The only report, or the mean of each number over the folds, with "protocol" added; several folds add
        "folds", the reports themselves, and counts of the images and captions of all of them.
    """
    if len(folds) == 1:
        return {**folds[0], "protocol": protocol}
    counts = {name: sum(fold[name] for fold in folds) for name in ("n_images", "n_captions")}
    return {**_means(folds), **counts, "protocol": protocol, "folds": list(folds)}


def _means(reports: Sequence[Mapping]) -> dict:
    """Both directions and rsum, each number the mean over the reports."""

    def mean(way: str) -> dict[str, float]:
        return {key: float(np.mean([report[way][key] for report in reports])) for key in reports[0][way]}

    return both_ways(mean("i2t"), mean("t2i"))
