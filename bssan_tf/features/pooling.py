"""One vector for a picture: its regions or objects pooled, for a CCA, and to find similar pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from bssan_tf.features.store import Features

LOOKS_AT = {"w2r": "regions", "o2w": "objects"}  # what each network looks at
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


def real_places(features: Features, name: str, rows: np.ndarray) -> np.ndarray:
    """Which of the regions or objects of some pictures are no padding: bool (n, D or P)."""
    if name == "objects" and features.valid is not None:
        return np.asarray(features.valid[rows], bool)
    return np.ones((len(rows), getattr(features, name).shape[1]), bool)


def pool_scaled(scaled: Callable, features: Features, name: str, rows: np.ndarray) -> np.ndarray:
    """Mean of the regions or objects of pictures after `scaled`, a network's: float32 (n, M), 0 where there is none."""
    found = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        real = real_places(features, name, block)[..., None].astype(np.float32)
        sums = (scaled(getattr(features, name)[block]) * real).sum(axis=1)
        found.append(sums / np.maximum(real.sum(axis=1), 1))
    return np.concatenate(found)


def unit_rows(rows: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Rows (N, d) divided by their length, of dimensions times `weights` (d,); float32; a zero row stays zero."""
    lengths = np.linalg.norm(rows * weights, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
