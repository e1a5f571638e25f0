"""Which ridges, dimension and power a CCA takes: those with the best retrieval on held-out images.

In: pooled images and token ids of a training split. Out: the settings, and the sums of all samples for the final fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import groupby, product
from operator import add
from typing import NamedTuple

import numpy as np

from bssan_tf.cca.solve import Solver, Sums, compare, project_bags
from bssan_tf.metrics import recall

IMAGE_RIDGES = (0.01, 0.1, 0.3, 1.0, 2.0, 3.0)  # in units of the mean variance of a feature
TEXT_RIDGES = (0.03, 0.3, 1.0, 2.0, 3.0)  # in units of the mean variance of a word
DIMENSIONS = (32, 64, 128, 256, 512)
POWERS = (0.0, 0.85, 1.0, 2.0)
PARTS = 3  # held out in turns
_HELD_SHARE, _MAX_HELD = 0.2, 1000  # of each part
_CLOSE = 0.02  # share of rsum that one part tells nothing about


@dataclass(frozen=True, eq=False)
class Samples:
    """What a CCA is fitted to: every caption with its image is a sample."""

    images: np.ndarray  # float32 (N_i, M), pooled
    tokens: np.ndarray  # int (N_c, L)
    owner: np.ndarray  # int (N_c,), the captions' images
    weights: np.ndarray  # float32 (V,), of the words in a bag
    used: np.ndarray  # int (W,), ids of the words that have a weight

    def sums(self, captions: np.ndarray) -> Sums:
        return Sums.of(self.images, self.tokens[captions], self.owner[captions], self.weights, self.used)


class Setting(NamedTuple):
    """What is chosen of a CCA."""

    text_ridge: float
    image_ridge: float
    dimension: int
    power: float


def select(
    samples: Samples, part_of: np.ndarray, kin: np.ndarray | None, kinship: float, weighted: bool, most: int
) -> tuple[dict, Sums]:
    """The setting with the highest mean rsum over the held-out parts, and the sums of all samples.

    All settings are tried on the first part, those that come close to its best on the others as well: which ridge wins
    on one part alone depends on its images.

    Args:
        part_of: int (N_i,), from `held_back`.
        kin, kinship, weighted, most: see `Solver` and `fit.fit_cca`.

    Returns:
        The fields of `Setting`, "held_rsum" and "held_images"; the sums.
    """
    captions = [np.flatnonzero(part_of[samples.owner] == part) for part in range(-1, PARTS)]  # the rest first
    sums = [samples.sums(some) for some in captions]
    dimensions = sorted({min(d, most, samples.images.shape[1]) for d in DIMENSIONS})
    settings = [Setting(*values) for values in product(TEXT_RIDGES, IMAGE_RIDGES, dimensions, POWERS)]
    totals = dict.fromkeys(settings, 0.0)
    for part in range(1, PARTS + 1):
        fitted = reduce(add, (each for number, each in enumerate(sums) if number != part))
        rsums = _held_rsums(samples, fitted, captions[part], settings, kin, kinship, weighted)
        totals = {setting: totals[setting] + rsum for setting, rsum in rsums.items()}
        if part == 1:
            settings = [setting for setting, rsum in rsums.items() if rsum >= (1 - _CLOSE) * max(rsums.values())]
    best = max(settings, key=totals.get)
    held = {"held_rsum": totals[best] / PARTS, "held_images": int((part_of >= 0).sum())}
    return {**best._asdict(), **held}, reduce(add, sums)


def _held_rsums(samples: Samples, sums: Sums, held, settings, kin, kinship, weighted) -> dict[Setting, float]:
    """rsum of held-out captions int (K,) and their images by CCAs of `sums`, for settings grouped by their ridges."""
    held_images, owner = np.unique(samples.owner[held], return_inverse=True)
    most = max(setting.dimension for setting in settings)
    found = {}
    for text_ridge, alike in groupby(settings, key=lambda setting: setting.text_ridge):
        solver = Solver(sums, text_ridge, kin, kinship)
        for image_ridge, same in groupby(alike, key=lambda setting: setting.image_ridge):
            image_map, text_map, correlations = solver.solve(image_ridge, most)
            full_map = np.zeros((len(samples.weights), text_map.shape[1]), np.float32)
            full_map[samples.used] = text_map
            x = (samples.images[held_images] - sums.x_mean) @ image_map
            y = project_bags(samples.tokens[held], samples.weights, full_map) - sums.y_mean @ text_map
            for setting in same:
                d = setting.dimension
                scale = correlations[:d] ** setting.power
                x_d, y_d = x[:, :d] * scale, y[:, :d] * scale
                gains = (y_d.std(axis=0), x_d.std(axis=0)) if weighted else ()
                found[setting] = recall.retrieval_report(compare(x_d, y_d, *gains), owner)["rsum"]
    return found


def held_back(images: int, seed: int) -> np.ndarray:
    """Which of the PARTS that are held out in turns each image is in, or -1: int (N_i,)."""
    part_of, order = np.full(images, -1), np.random.default_rng(seed).permutation(images)
    size = min(_MAX_HELD, max(2, int(_HELD_SHARE * images)))
    for part in range(PARTS):
        part_of[order[part * size : (part + 1) * size]] = part
    return part_of
