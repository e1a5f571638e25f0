"""Average precision as PASCAL VOC measures it; NumPy only, knows no model.

In: detections and true objects of photos, boxes with the last pixel included. Out: the AP of each class and its mean.
Source: Everingham et al., The PASCAL Visual Object Classes Challenge, 2010, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bssan_tf.tools.boxes import iou

METRICS = ("area", "11point")
MIN_IOU = 0.5


def match(boxes: np.ndarray, scores: np.ndarray, true_boxes: np.ndarray, difficult: np.ndarray) -> np.ndarray:
    """Which detections of one class in one photo are right: int (n,), 1 right, 0 wrong, -1 does not count.

    By falling scores (n,), each box (n, 4) belongs to the true one (g, 4) that it overlaps most. It is right if the IoU
    reaches `MIN_IOU` and the object was not found before; where `difficult` (g,) holds, it counts neither way.
    """
    found = np.zeros(len(boxes), np.int64)
    if not len(true_boxes):
        return found
    edges = np.array([0, 0, 1, 1])  # from the last pixel to the edge behind it
    shared = iou(np.asarray(boxes).reshape(-1, 4) + edges, np.asarray(true_boxes) + edges)  # (n, g)
    taken = np.zeros(len(true_boxes), bool)
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        nearest = int(shared[i].argmax())
        if shared[i, nearest] < MIN_IOU:
            continue
        if difficult[nearest]:
            found[i] = -1
        elif not taken[nearest]:
            taken[nearest], found[i] = True, 1
    return found


def average_precision(scores: np.ndarray, right: np.ndarray, objects: int, metric: str = "area") -> float:
    """AP of one class over all photos, in [0, 1], from scores (n,) in any order and what `match` says of each.

    NaN where no true `objects` count. `metric` is "area", under the precision made monotone (VOC from 2010 on), or
    "11point", its mean at the recalls 0, 0.1, ... 1 (VOC 2007).
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, not {metric!r}")
    if not objects:
        return float("nan")
    counts = np.flatnonzero(np.asarray(right) >= 0)
    order = counts[np.argsort(-np.asarray(scores)[counts], kind="stable")]
    hits = np.cumsum(np.asarray(right)[order] == 1)
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / objects
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    if metric == "area":
        return float(np.sum(np.diff(recall, prepend=0.0) * best))
    reached = [np.searchsorted(recall, point - 1e-9) for point in np.linspace(0, 1, 11)]
    return float(np.mean([best[i] if i < len(best) else 0.0 for i in reached]))


def evaluate(
    detections: Sequence[dict[str, np.ndarray]],
    boxes: Sequence[np.ndarray],
    classes: Sequence[np.ndarray],
    difficult: Sequence[np.ndarray],
    number: int,
    metric: str = "area",
) -> tuple[float, np.ndarray]:
    """The mean AP of the classes that have objects, and the AP of each class, float (number,), NaN for the others.

    `detections` are "boxes" (n, 4), "classes" (n,), "scores" (n,) of each photo; other arrays tell its true objects.
    """
    ap = np.full(number, np.nan)
    for kind in range(number):
        scores, right, objects = [np.zeros(0)], [np.zeros(0, np.int64)], 0
        for found, true_boxes, true_classes, hard in zip(detections, boxes, classes, difficult):
            mine, true = found["classes"] == kind, true_classes == kind
            scores.append(found["scores"][mine])
            right.append(match(found["boxes"][mine], scores[-1], true_boxes[true], hard[true]))
            objects += int((true & ~hard).sum())
        ap[kind] = average_precision(np.concatenate(scores), np.concatenate(right), objects, metric)
    return (float(np.nanmean(ap)) if np.isfinite(ap).any() else float("nan")), ap
