"""The algebra of a regularised CCA of pictures and bags of words: sums over samples, and their solution.

In: pooled pictures (N_i, M) and token ids. Out: maps of both sides to the common space, for any ridges. The bags of all
captions are never held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bssan_tf.features.pooling import unit_rows

KINSHIP = 0.3  # variance of what a word has in common with words of similar vectors, in units of its own


def token_values(tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What each token adds to the unit bag of its caption: float32 (N_c, L)."""
    same = (tokens[:, :, None] == tokens[:, None, :]).sum(axis=2)  # (N_c, L), times it occurs in its caption
    values = weights[tokens] / same  # a repeated word counts once
    length = np.sqrt(np.sum(weights[tokens] ** 2 / same, axis=1, keepdims=True))
    return values / np.maximum(length, 1e-12)


def project_bags(tokens: np.ndarray, weights: np.ndarray, text_map: np.ndarray) -> np.ndarray:
    """Unit bags times text_map (V, d): float32 (N_c, d), without making the bags."""
    values = token_values(tokens, weights)
    projected = np.zeros((len(tokens), text_map.shape[1]), np.float32)
    for position in range(tokens.shape[1]):
        projected += values[:, position, None] * text_map[tokens[:, position]]
    return projected


def compare(x: np.ndarray, y: np.ndarray, x_gain=1.0, y_gain=1.0) -> np.ndarray:
    """Scores of rows (N, d) and (K, d), float32 (N, K): cosines, or products by weighted lengths, gains float (d,).

    If gains are the deviations of the other side's dimensions, and these nearly uncorrelated, as a CCA's are, lengths
    are the deviations of a row's scores.
    """
    return unit_rows(x, x_gain) @ unit_rows(y, y_gain).T


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over samples: x a pooled picture (M,), y a bag of the W words in use; float64."""

    n: int
    x: np.ndarray  # (M,)
    y: np.ndarray  # (W,)
    xx: np.ndarray  # (M, M)
    yx: np.ndarray  # (W, M)
    yy: np.ndarray  # (W, W)

    @classmethod
    def of(cls, images, tokens, owner, weights, used) -> Sums:
        n_words, slot = len(used), np.zeros(len(weights), np.int64)
        slot[used] = np.arange(n_words)
        y, yx, yy = np.zeros(n_words), np.zeros((n_words, images.shape[1])), np.zeros(n_words * n_words)
        for start in range(0, len(tokens), 1024):
            part = tokens[start : start + 1024]
            values, slots = token_values(part, weights), slot[part]  # (b, L)
            row, position = np.nonzero(values)
            bags = np.zeros((len(part), n_words), np.float32)
            np.add.at(bags, (row, slots[row, position]), values[row, position])
            y += bags.sum(axis=0)
            yx += bags.T @ images[owner[start : start + 1024]]
            # A bag has about ten words: pairs of tokens are far fewer than W x W products.
            pairs = values[:, :, None] * values[:, None, :]  # (b, L, L)
            kept = np.nonzero(pairs)
            np.add.at(yy, slots[kept[0], kept[1]] * n_words + slots[kept[0], kept[2]], pairs[kept])
        captions_of = np.bincount(owner, minlength=len(images)).astype(np.float64)  # (N_i,)
        weighted = images * captions_of[:, None]
        return cls(len(tokens), weighted.sum(axis=0), y, weighted.T @ images, yx, yy.reshape(n_words, n_words))

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in ("n", "x", "y", "xx", "yx", "yy")))

    @property
    def x_mean(self) -> np.ndarray:
        return self.x / self.n

    @property
    def y_mean(self) -> np.ndarray:
        return self.y / self.n


class Solver:
    """CCA of one text ridge; the M x M problem for each image ridge is then cheap.

    Args:
        text_ridge: in units of the mean variance of a word.
        kin: float (W, E), vectors G of the words, or None. With them the prior covariance of the words' weights is
            I + kinship G G' in place of I, so that words of similar vectors have similar weights.
        kinship: above 0 with `kin`.
    """

    def __init__(self, sums: Sums, text_ridge: float, kin: np.ndarray | None = None, kinship: float = 0.0):
        x, y = sums.x_mean, sums.y_mean
        xx = sums.xx / sums.n - np.outer(x, x)
        yx = sums.yx / sums.n - np.outer(y, x)
        yy = sums.yy / sums.n
        yy -= np.outer(y, y)
        ridge = text_ridge * max(np.trace(yy) / len(yy), 1e-12)
        yy[np.diag_indices_from(yy)] += ridge
        if kin is not None:  # the inverse of I + kinship G G', by Woodbury
            yy -= ridge * kin @ np.linalg.solve(_shared(kin, kinship), kin.T)
        self.regression = np.linalg.solve(yy, yx)  # (W, M)
        self.explained = yx.T @ self.regression  # (M, M)
        self.spectrum = np.linalg.eigh(xx)  # the same for every image ridge

    def solve(self, image_ridge: float, most: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """image_map (M, d), text_map (W, d) and the correlations (d,), falling; d = M, or `most`."""
        values, vectors = self.spectrum
        values = np.maximum(values, 0) + image_ridge * max(values.mean(), 1e-12)
        whiten = (vectors / np.sqrt(values)) @ vectors.T
        squared, directions = np.linalg.eigh(whiten @ self.explained @ whiten)
        correlations = np.sqrt(np.clip(squared[::-1][:most], 1e-12, None))
        image_map = whiten @ directions[:, ::-1][:, :most]
        return image_map, self.regression @ image_map / correlations, correlations


def maps_of_kin(kin: np.ndarray, text_map: np.ndarray, others: np.ndarray, kinship: float) -> np.ndarray:
    """What the words' maps (W, d), of vectors `kin` (W, E), say of other words by their vectors (K, E): float (K, d).

    The conditional mean, given the maps of the words that were seen, under a prior of covariance I + kinship G G'.
    """
    return others @ np.linalg.solve(_shared(kin, kinship), kin.T @ text_map)


def _shared(kin: np.ndarray, kinship: float) -> np.ndarray:
    return np.eye(kin.shape[1]) / kinship + kin.T @ kin  # (E, E)
