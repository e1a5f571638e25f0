"""One vector for a picture: its regions pooled, for a CCA."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

_BLOCK = 64  # images pooled at once, so that memory grows with N_i x M, not with D


def pool_regions(regions: np.ndarray, image_rows: np.ndarray, progress: bool = False) -> np.ndarray:
    """Mean over the regions, square root, L2: float32 (N_i, M).

    The root tames the few very large activations of a ReLU map; a negative value keeps its sign.
    """
    rows = np.asarray(image_rows)
    pooled = np.empty((len(rows), regions.shape[2]), np.float32)
    starts = range(0, len(rows), _BLOCK)
    for start in tqdm(starts, desc="CCA: pooling regions", unit="block", disable=not progress):
        block = np.asarray(regions[rows[start : start + _BLOCK]], np.float32)  # (b, D, M)
        pooled[start : start + _BLOCK] = block.mean(axis=1)
    return unit_rows(np.sign(pooled) * np.sqrt(np.abs(pooled)))


def unit_rows(rows: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Rows (N, d) divided by their length, of dimensions times `weights` (d,); float32; a zero row stays zero."""
    lengths = np.linalg.norm(rows * weights, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
