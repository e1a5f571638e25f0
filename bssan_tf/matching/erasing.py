"""The erase test: does a score fall where the model looked, and only there?

In: a photo, captions and the attention of words. Out: how far the score falls where the square that a word attended to
is greyed out, beside squares of the same area elsewhere; as deletion in Petsiuk et al. (BMVC 2018), of one square.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bssan_tf.errors import UserError
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
    """The square that holds most of a word's attention (rows, columns), and random ones that don't touch it, in cells.

    Each is (top, left, height, width). Equal sums: the first, row by row. The order of all squares is drawn, so that
    words with the same seed share most of theirs.
    """
    rows, columns = alpha.shape
    height, width = max(1, round(SHARE * rows)), max(1, round(SHARE * columns))
    sums = np.lib.stride_tricks.sliding_window_view(alpha, (height, width)).sum(axis=(2, 3))
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    order = [divmod(int(place), sums.shape[1]) for place in rng.permutation(sums.size)]
    away = [(y, x, height, width) for y, x in order if abs(y - top) >= height or abs(x - left) >= width]
    return (int(top), int(left), height, width), away[:PLACES]


def chosen_word(alpha: np.ndarray, known: np.ndarray, caption: str, word: int | None = None) -> int:
    """The place of a caption's word: the given one, or that of the sharpest attention among the known ones.

    Args:
        alpha: float (L, rows, columns), of the words.
        known: bool (L,), which of them the run knows.

    Raises:
        UserError: no such word, or none that is known.
    """
    if word is None and not known.any():
        raise UserError(f"caption {caption!r}: the run knows none of its words; name one, or give another")
    if word is None:
        return int(np.argmax(alpha.max(axis=(1, 2)) * known))
    if not 0 <= word < len(known):
        raise UserError(f"word {word}: the caption has {len(known)} words, counted from 0")
    return word


def erasures(
    score: Callable[[list[tuple]], np.ndarray], whole: np.ndarray, maps: Sequence[np.ndarray], seed: int = 0
) -> list[list[Erasure]]:
    """The erase test of words of captions; each square is scored once for all of them.

    Args:
        score: N_s squares -> scores float32 (N_s, N_c) of the photo without each of them.
        whole: scores (N_c,) of the whole photo.
        maps: for each caption the attention (n, rows, columns) of n words.
        seed: of the squares elsewhere.
    """
    rows, columns = maps[0].shape[1:]
    asked = [[squares_of(alpha, np.random.default_rng(seed)) for alpha in alphas] for alphas in maps]
    squares = list(dict.fromkeys(square for words in asked for first, others in words for square in (first, *others)))
    place, falls = {square: i for i, square in enumerate(squares)}, whole - score(squares)  # (N_s, N_c)
    found = []
    for caption, words in enumerate(asked):
        found.append([])
        for first, others in words:
            (top, left, height, width), own = first, falls[:, caption]
            square = (left / columns, top / rows, (left + width) / columns, (top + height) / rows)
            found[-1].append(Erasure(float(own[place[first]]), own[[place[other] for other in others]], square))
    return found


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
