"""One inner product for a photo and a sentence, of vectors that each has by itself: what comes before any network.

Were all attention even, the bilinear score of a network would be an inner product (`BilinearScore`: from a CCA's
projections, the CCA's score). The vectors of W2R and O2W stand beside each other, so that the inner product is their
part of MS (Eq. 19). The principal components of photos' vectors make them short.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bssan_tf.features.pooling import LOOKS_AT, pool_scaled, unit_rows
from bssan_tf.features.store import Features
from bssan_tf.scoring.folding import Bilinear, FoldedNetwork
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.scoring.w2r import places_of

SIZE = 128  # dimensions: of 512, what loses no recall on Flickr8k (docs/performance.md)
SAMPLE = 4096  # photos that principal components are of


class FirstStage:
    """Vectors whose inner product tells how well a photo and a sentence fit, before any attention.

    Args:
        fast: all networks of which have a bilinear score; see `has_first_stage`.
        basis: float32 (F', d), what makes vectors short; None leaves them as they are.
    """

    def __init__(self, fast: FastScorer, basis: np.ndarray | None = None):
        self.fast, self.basis = fast, basis
        self.networks: dict[str, FoldedNetwork] = {name: getattr(fast, name) for name in fast.parts[:-1]}

    def photos(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """The vectors of photos, float32 (n, d)."""
        parts = []
        for name, network in self.networks.items():
            scaled = pool_scaled(_scaled(network), features, LOOKS_AT[name], rows) @ network.A.numpy()
            gain = _gain(network.bilinear, "attended" if name == "w2r" else "query")
            weight = self.fast.weight if name == "o2w" and self.fast.weight is not None else 1.0
            parts.append(unit_rows(scaled, gain) * np.float32(float(network.bilinear.factor) * weight))
        return self._short(parts)

    def sentences(self, tokens: np.ndarray) -> np.ndarray:
        """The vectors of sentences int32 (n, L), float32 (n, d); 0 for one without a word."""
        tree = PrefixTree(tokens)
        return self._short([getattr(self, f"_of_{name}")(tree, tree.captions) for name in self.networks])[
            tree.caption_of
        ]

    def _of_w2r(self, tree: PrefixTree, captions: np.ndarray) -> np.ndarray:
        words, real = self.fast.w2r.prepare(tree, self.fast.embed).fused.numpy(), captions != 0
        sums = (words[places_of(tree, captions)] * real[..., None]).sum(axis=1)
        return unit_rows(sums, _gain(self.fast.w2r.bilinear, "query"))

    def _of_o2w(self, tree: PrefixTree, captions: np.ndarray) -> np.ndarray:
        means = np.zeros((len(captions), self.fast.o2w.F), np.float32)
        for places, words in self.fast.o2w.prepare(tree, self.fast.embed):
            if words.fused.shape[1]:
                means[places] = tf.reduce_mean(words.fused, axis=1).numpy()
        return unit_rows(means, _gain(self.fast.o2w.bilinear, "attended"))

    def _short(self, parts: list[np.ndarray]) -> np.ndarray:
        vectors = np.concatenate(parts, axis=1)
        return vectors if self.basis is None else vectors @ self.basis


def has_first_stage(fast: FastScorer) -> bool:
    """Whether all networks of a scorer have the bilinear score that a first stage is made of."""
    return all(getattr(fast, name).bilinear is not None for name in fast.parts[:-1])


def principal_components(vectors: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The `size` directions that hold most of vectors (n, F), float32 (F, size); fewer where there are fewer."""
    _, vectors_of = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)  # ascending
    return np.ascontiguousarray(vectors_of[:, ::-1][:, :size], np.float32)


def _scaled(network: FoldedNetwork) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: network.norm(array).numpy()


def _gain(bilinear: Bilinear, side: str) -> np.ndarray:
    return getattr(bilinear, f"{side}_gain").numpy()
