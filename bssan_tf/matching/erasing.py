"""The erase test: does a score fall where the model looked, and only there?

In: a photo, a caption and one of its words. Out: how far the score falls where the square that the word attended to is
greyed out, beside squares of the same area elsewhere; as deletion in Petsiuk et al. (BMVC 2018), of one square.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from bssan_tf.runs.photo import Photo

SHARE = 0.36  # side of the square, of the photo's: 5 of 14 cells, 13 % of the area
PLACES = 20  # squares elsewhere
GREY = (124, 117, 104)  # ImageNet's mean colour: zero to the backbone


class Erasure(NamedTuple):
    """Falls of a score, in its own units."""

    attended: float
    elsewhere: np.ndarray  # float32 (PLACES,), or fewer where there are fewer places
    square: tuple[float, float, float, float]  # x1, y1, x2, y2 of the attended one, as fractions of the photo


def squares_of(alpha: np.ndarray, rng: np.random.Generator) -> tuple[tuple, list[tuple]]:
    """The square that holds most of a word's attention (rows, columns), and some that don't touch it, in cells.

    Each is (top, left, height, width). Equal sums: the first, row by row.
    """
    rows, columns = alpha.shape
    height, width = max(1, round(SHARE * rows)), max(1, round(SHARE * columns))
    sums = np.lib.stride_tricks.sliding_window_view(alpha, (height, width)).sum(axis=(2, 3))
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    away = [
        (y, x) for y in range(sums.shape[0]) for x in range(sums.shape[1])
        if abs(y - top) >= height or abs(x - left) >= width
    ]  # fmt: skip
    chosen = rng.permutation(len(away))[:PLACES]
    return (top, left, height, width), [(*away[i], height, width) for i in chosen]


def erased(photo: Photo, square: tuple, grid: tuple[int, int]) -> Photo:
    """The photo with a square of cells in grey."""

    def grey(pixels: np.ndarray) -> np.ndarray:
        top, left, height, width = square
        (h, w), found = pixels.shape[:2], pixels.copy()
        rows = slice(top * h // grid[0], (top + height) * h // grid[0])
        found[rows, left * w // grid[1] : (left + width) * w // grid[1]] = GREY
        return found

    whole = None if photo.whole is None else grey(photo.whole)
    return dataclasses.replace(photo, pixels=grey(photo.pixels), whole=whole)
