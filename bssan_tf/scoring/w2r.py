"""W2R scores of pictures and captions, every product computed once where Keras computes it many times.

What a word finds in a picture depends on the two alone: attention and the input product of the LSTM or CNN are
computed once for each distinct word and picture, for a block of pictures at once. That product is linear in u, so
where there are more words than pays for it, regions go through its kernel before the attention, not u after it. What
becomes of them in a caption is in w2r_lstm.py and w2r_cnn.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bssan_tf.models.improved.bilinear import inverse_length
from bssan_tf.scoring.folding import Bilinear, FoldedNetwork, apply_mlp, weights_of
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.tracing import traced

SLAB_ROWS = 2048  # rows of one product; from 512 on matrix products run at full speed


class WordSide(NamedTuple):
    """What is known of distinct words before any picture, all float."""

    queries: tf.Tensor  # (V, M), t' W of Eq. 2; of fixed length where products are cosines
    inputs: tf.Tensor  # (V, G), the words' part of the input product, with its bias
    fused: tf.Tensor | None  # (V, F), B t of the fusion


class RegionWeights(NamedTuple):
    """Weights that a word and a picture meet."""

    softmax: tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]  # b, sharpness, γ of the gate
    from_fusion: tf.Tensor | None  # (F, G) of the input product's kernel
    bilinear: Bilinear | None


class FastW2R(FoldedNetwork):
    """What both W2R networks of a scorer share, for inference: all but what reads a caption's words.

    Args:
        kernel: float32 (M + E + F, G), of the product of a word's c = [u ; t ; (A u)∘(B t)].
        bias: float32 (G,), of it.
    """

    arrays = ("regions",)

    def __init__(self, network: tf.keras.Model, kernel: np.ndarray, bias: np.ndarray):
        super().__init__(network)
        self.bias, self.size = tf.constant(bias), len(bias)  # G
        E, M = self.W.shape
        region, word, fusion = np.split(kernel, [M, M + E])
        self.from_word = tf.constant(word)
        self.from_region = tf.constant(np.concatenate([self.A, region], axis=1) if self.F else region)  # (M, F + G)
        self.weights = RegionWeights(self.softmax, tf.constant(fusion) if self.F else None, self.bilinear)
        self.no_word = float(apply_mlp(tf.zeros((1, self.mlp[0][0].shape[0])), self.mlp)[0])

    def read(self, tree: PrefixTree, inputs: tf.Tensor, scores: np.ndarray, scored: Callable[[int], None]) -> None:
        """Put the MLP's scores of all captions with a word into `scores` (N_u, B), from inputs (V, B, G) of words."""
        raise NotImplementedError

    def kept_size(self, tree: PrefixTree) -> int:
        """Numbers that `read` keeps of a picture beside the inputs."""
        return 0

    def step_size(self) -> int:
        """Numbers that one step of `read` takes."""
        raise NotImplementedError

    def bytes_per_picture(self, tree: PrefixTree, regions: int) -> int:
        """See `FoldedNetwork`: what `tree.words` bring, what is kept of the captions, regions."""
        arrays = 3 if self.centred else 2  # of the regions, as stored and as they are compared
        numbers = arrays * self.W.shape[1] + self._projects_first(len(tree.words), regions) * (self.F + self.size)
        return 4 * (len(tree.words) * self.size + self.kept_size(tree) + regions * numbers)

    def _projects_first(self, V: int, D: int) -> bool:
        """Whether the product with (M, F + G) is cheaper for the D regions of a picture than for u of each word."""
        M, out = self.from_region.shape
        return D * out * (M + V) < V * M * (D + out)

    def fixed_bytes(self, tree: PrefixTree, regions: int) -> int:
        """See `FoldedNetwork`."""
        M = self.from_region.shape[0]
        text = len(tree.words) * (self.size + M + self.F)
        return 4 * (text + max(self.step_size(), SLAB_ROWS * (2 * self.size + 2 * (M + self.F) + 3 * regions)))

    def prepare(self, tree: PrefixTree, embed: Callable[[tf.Tensor], tf.Tensor]) -> WordSide:
        """The side of `tree.words`, see `FoldedNetwork`."""
        vectors = embed(tf.constant(tree.words))
        queries, inputs = self.scaled(tf.matmul(vectors, self.W)), tf.matmul(vectors, self.from_word) + self.bias
        return WordSide(queries, inputs, None if self.B is None else tf.matmul(vectors, self.B))

    def prepare_pictures(self, block: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Scaled regions float32 (B, D, M) of pictures: `regions` float16 or float32 (B, D, M), as stored."""
        return self.norm(block["regions"])

    def score(
        self, tree: PrefixTree, words: WordSide, regions: tf.Tensor, scored: Callable[[int], None] = lambda n: None
    ) -> np.ndarray:
        """Scores float32 (N_u, B) of a block of pictures with all captions of a page, see `FoldedNetwork`."""
        scores = np.full((len(tree.captions), len(regions)), self.no_word, np.float32)
        scored(int((tree.lengths == 0).sum()))
        if not tree.levels:
            return scores
        inputs, fits = self._inputs(words, regions)
        self.read(tree, inputs, scores, scored)
        if self.bilinear is not None:
            scores += self._bilinear_scores(tree, words, fits)
        return scores

    def _bilinear_scores(self, tree: PrefixTree, words: WordSide, fits: tf.Tensor) -> np.ndarray:
        """BilinearScore of every caption and picture, float32 (N_u, B), from that of words and pictures (V, B)."""
        found = np.zeros((len(tree.captions), fits.shape[1]), np.float32)
        for start in range(0, len(found), SLAB_ROWS):
            some = slice(start, start + SLAB_ROWS)
            tokens = tree.captions[some, : int(tree.lengths[some].max(initial=0))]
            found[some] = _bilinear_sums(fits, words.fused, places_of(tree, tokens), tokens != 0, self.bilinear)
        return found

    def _inputs(self, words: WordSide, regions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The input product (V, B, G) of words and pictures, with bias; <B t, A u> / |A u| (V, B), or None."""
        V, B = len(words.queries), len(regions)
        inputs = tf.raw_ops.Empty(shape=(V, B, self.size), dtype=tf.float32)
        step, fits = max(1, SLAB_ROWS // B), []
        keys = self.keys_seen(regions)
        scales = inverse_length(keys)[:, None, :, 0] if self.cosine else None
        kernel, values = self.from_region, regions
        if self._projects_first(V, regions.shape[1]):
            kernel, values = None, _project(regions, kernel)
        for start in range(0, V, step):
            some = WordSide(*(None if array is None else array[start : start + step] for array in words))
            part, fit = _attend(some, values, kernel, keys, scales, self.weights)
            # in place: the largest array there is, and concat or a Variable would hold it twice
            inputs = tf.raw_ops.InplaceUpdate(x=inputs, i=tf.range(start, start + len(part)), v=part)
            fits.append(fit)
        return inputs, None if self.bilinear is None else tf.concat(fits, axis=0)


def places_of(tree: PrefixTree, tokens: np.ndarray) -> np.ndarray:
    """Places in `tree.words` of token ids (...), int32; 0 of padding."""
    return (np.searchsorted(tree.words, tokens) * (tokens != 0)).astype(np.int32)


@traced
def _project(regions, kernel):
    """Regions (B, D, M) times (M, n): (B, D, n)."""
    return tf.matmul(regions, kernel)


@traced
def _attend(words: WordSide, values, kernel, keys, scales, weights: RegionWeights):
    """Eq. 1-4 for words (v, M) and what they compare with (B, D, M), then the input product (v, B, G).

    `values` are regions (B, D, M), to be multiplied by the kernel (M, F + G) once they are u; or what came of it
    (B, D, F + G), and no kernel. Also <B t, A u> / |A u| (v, B), or None where there is no bilinear score.
    """
    B, (v, size) = tf.shape(keys)[0], tf.unstack(tf.shape(words.inputs))
    products = tf.matmul(words.queries[None], keys, transpose_b=True)  # (B, v, D)
    if scales is not None:
        products *= scales  # (B, 1, D)
    found = tf.matmul(weights_of(products, *weights.softmax), values)  # Eq. 3
    found = tf.reshape(tf.transpose(found, (1, 0, 2)), (v * B, -1))
    if kernel is not None:
        found = tf.matmul(found, kernel)
    fits = None
    if words.fused is not None:
        projected, found = found[:, :-size], found[:, -size:]  # A u, and the product of u itself
        fused = tf.repeat(words.fused, B, axis=0)
        found += tf.matmul(projected * fused, weights.from_fusion)
        if weights.bilinear is not None:
            scaled = projected * inverse_length(weights.bilinear.attended_gain * projected)
            fits = tf.reshape(tf.reduce_sum(scaled * fused, axis=-1), (v, B))
    return tf.reshape(found, (v, B, size)) + words.inputs[:, None], fits


@traced
def _bilinear_sums(fits, fused, places, real, bilinear):
    """BilinearScore of captions, words at `places` (n, L), from fits (V, B) and B t (V, F): (n, B)."""
    real = tf.cast(real, fits.dtype)[..., None]
    queries = tf.reduce_sum(tf.gather(fused, places) * real, axis=1)
    for_word, (n, L) = tf.transpose(places), tf.unstack(tf.shape(places))

    def add(place, total):
        return place + 1, total + tf.gather(fits, for_word[place]) * real[:, place]

    start = tf.constant(0), tf.zeros((n, tf.shape(fits)[1]))
    _, total = tf.while_loop(lambda place, _: place < L, add, start)  # never (n, L, B) at once
    return bilinear.factor * total * inverse_length(bilinear.query_gain * queries)
