"""Overlap of boxes in any one unit; NumPy only, for data sets and for measures alike."""

from __future__ import annotations

import numpy as np


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (p, 4) and others (n, 4), x1, y1, x2, y2: float (p, n)."""
    a, b = np.asarray(boxes)[:, None], np.asarray(others)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b))
    return common / np.maximum(area_a + area_b - common, 1e-12)
