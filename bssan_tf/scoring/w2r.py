"""W2R scores of pictures and captions, every product computed once where Keras computes it many times.

What a word finds in a picture depends on the two alone: attention, u and the LSTM's input product are computed once
for each distinct word and picture. States of the LSTM are computed once for each prefix (see prefix_tree.py), level
by level, for a block of pictures at once.
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
    inputs: tf.Tensor  # (V, 4H), the words' part of the LSTM's input product, with its bias
    fused: tf.Tensor | None  # (V, F), B t of the fusion


class RegionWeights(NamedTuple):
    """Weights that a word and a picture meet."""

    softmax: tuple[tf.Tensor, tf.Tensor | None]  # b and sharpness
    A: tf.Tensor | None  # (M, F)
    from_region: tf.Tensor  # (M + F, 4H) of the LSTM's kernel, for u and the fusion
    bilinear: Bilinear | None


class FastW2R(FoldedNetwork):
    """The W2R network of a scorer, for inference."""

    arrays = ("regions",)

    def __init__(self, network: tf.keras.Model):
        super().__init__(network)
        kernel, recurrent, self.bias = network.get_layer("w2r_lstm").get_weights()
        E, M = self.W.shape
        region, word, fusion = np.split(kernel, [M, M + E])
        self.from_word, self.recurrent = tf.constant(word), tf.constant(recurrent)
        from_region = tf.constant(np.concatenate([region, fusion]) if self.F else region)
        self.weights = RegionWeights(self.softmax, self.A, from_region, self.bilinear)
        self.gates = recurrent.shape[1]  # 4H
        self.no_word = float(apply_mlp(tf.zeros((1, recurrent.shape[0])), self.mlp)[0])

    def bytes_per_picture(self, tree: PrefixTree, regions: int) -> int:
        """See `FoldedNetwork`: input products, states, regions."""
        states = 3 * tree.width * self.gates // 4  # h and c of a level, and of the part of it that is still read
        return 4 * (len(tree.words) * self.gates + states + 2 * regions * self.W.shape[1])

    def fixed_bytes(self, tree: PrefixTree, regions: int) -> int:
        """See `FoldedNetwork`."""
        M = self.weights.from_region.shape[0]
        text = len(tree.words) * (self.gates + M + self.F)
        return 4 * (text + SLAB_ROWS * max(3 * self.gates, 2 * self.gates + 2 * M + 3 * regions))

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
        inputs, fits = self._lstm_inputs(words, regions)
        step = max(1, SLAB_ROWS // len(regions))
        above: list[State] = []
        for level in tree.levels:
            states = []
            for start in range(0, len(level.parents), step):
                nodes = slice(start, start + step)
                if not above:
                    states.append(_first_states(inputs, level.words[nodes]))
                else:
                    h, c, parents = _slabs_of(above, level.parents[nodes], step)
                    states.append(_next_states(h, c, parents, inputs, level.words[nodes], self.recurrent))
                first, last = np.searchsorted(level.end_nodes, [start, start + step])
                if last > first:
                    found = _score_states(states[-1][0], level.end_nodes[first:last] - start, self.mlp)
                    scores[level.end_captions[first:last]] = found.numpy()
                    scored(int(last - first))
            above = states
        if self.bilinear is not None:
            scores += self._bilinear_scores(tree, words, fits)
        return scores

    def _bilinear_scores(self, tree: PrefixTree, words: WordSide, fits: tf.Tensor) -> np.ndarray:
        """BilinearScore of every caption and picture, float32 (N_u, B), from that of words and pictures (V, B)."""
        found = np.zeros((len(tree.captions), fits.shape[1]), np.float32)
        for start in range(0, len(found), SLAB_ROWS):
            some = slice(start, start + SLAB_ROWS)
            tokens = tree.captions[some, : int(tree.lengths[some].max(initial=0))]
            places = (np.searchsorted(tree.words, tokens) * (tokens != 0)).astype(np.int32)
            found[some] = _bilinear_sums(fits, words.fused, places, tokens != 0, self.bilinear)
        return found

    def _lstm_inputs(self, words: WordSide, regions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The LSTM's input product (V, B, 4H) of words and pictures, with bias; <B t, A u> / |A u| (V, B), or None."""
        V, B = len(words.queries), len(regions)
        inputs = tf.raw_ops.Empty(shape=(V, B, self.gates), dtype=tf.float32)
        step, fits = max(1, SLAB_ROWS // B), []
        scales = inverse_length(regions)[:, None, :, 0] if self.cosine else None
        for start in range(0, V, step):
            some = WordSide(*(None if array is None else array[start : start + step] for array in words))
            part, fit = _attend(some, regions, scales, self.weights)
            # in place: the largest array there is, and concat or a Variable would hold it twice
            inputs = tf.raw_ops.InplaceUpdate(x=inputs, i=tf.range(start, start + len(part)), v=part)
            fits.append(fit)
        return inputs, None if self.bilinear is None else tf.concat(fits, axis=0)


State = tuple[tf.Tensor, tf.Tensor]  # h and c, each float (n, B, H)


def _slabs_of(above: list[State], parents: np.ndarray, step: int) -> tuple[tf.Tensor, tf.Tensor, np.ndarray]:
    """h and c of the slabs with the parents, and their places there. Parents ascend, so earlier slabs are let go."""
    first, last = parents[0] // step, parents[-1] // step
    above[:first] = [None] * first  # their children are done
    h, c = zip(*above[first : last + 1])
    if len(h) > 1:
        h, c = [tf.concat(h, axis=0)], [tf.concat(c, axis=0)]
    return h[0], c[0], parents - first * step


@traced
def _attend(words: WordSide, regions, scales, weights: RegionWeights):
    """Eq. 1-4 for words (v, M) and regions (B, D, M), then the LSTM's input product (v, B, 4H).

    Also <B t, A u> / |A u| (v, B), or None where there is no bilinear score.
    """
    B, (v, gates) = tf.shape(regions)[0], tf.unstack(tf.shape(words.inputs))
    products = tf.matmul(words.queries[None], regions, transpose_b=True)  # (B, v, D)
    if scales is not None:
        products *= scales  # (B, 1, D)
    u = tf.matmul(weights_of(products, *weights.softmax), regions)  # Eq. 3
    u = tf.transpose(u, (1, 0, 2))  # (v, B, M)
    fits = None
    if words.fused is not None:
        projected = tf.matmul(u, weights.A)
        u = tf.concat([u, projected * words.fused[:, None]], axis=-1)
        if weights.bilinear is not None:
            scaled = projected * inverse_length(weights.bilinear.attended_gain * projected)
            fits = tf.reduce_sum(scaled * words.fused[:, None], axis=-1)
    flat = tf.matmul(tf.reshape(u, (v * B, -1)), weights.from_region)
    return tf.reshape(flat, (v, B, gates)) + words.inputs[:, None], fits


@traced
def _bilinear_sums(fits, fused, places, real, bilinear):
    """BilinearScore of captions, words at `places` (n, L), from fits (V, B) and B t (V, F): (n, B)."""
    real = tf.cast(real, fits.dtype)[..., None]
    queries = tf.reduce_sum(tf.gather(fused, places) * real, axis=1)
    total = tf.zeros((tf.shape(places)[0], tf.shape(fits)[1]))
    for_word = tf.transpose(places)
    for place in tf.range(tf.shape(places)[1]):  # never (n, L, B) at once
        total += tf.gather(fits, for_word[place]) * real[:, place]
    return bilinear.factor * total * inverse_length(bilinear.query_gain * queries)


@traced
def _first_states(inputs, words):
    """States after the first word: no state before it, so no recurrent product."""
    i, _, g, o = tf.split(tf.gather(inputs, words), 4, axis=-1)
    c = tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


@traced
def _next_states(h, c, parents, inputs, words, recurrent):
    """One step of the LSTM for nodes (n,) of the tree, in Keras' order of gates: h and c, each (n, B, H)."""
    B, H = tf.shape(h)[1], tf.shape(h)[2]
    before = tf.reshape(tf.gather(h, parents), (-1, H))
    z = tf.matmul(before, recurrent) + tf.reshape(tf.gather(inputs, words), (-1, 4 * H))
    i, f, g, o = tf.split(z, 4, axis=1)
    c = tf.sigmoid(f) * tf.reshape(tf.gather(c, parents), (-1, H)) + tf.sigmoid(i) * tf.tanh(g)
    h = tf.sigmoid(o) * tf.tanh(c)
    return tf.reshape(h, (-1, B, H)), tf.reshape(c, (-1, B, H))


@traced
def _score_states(h, nodes, mlp):
    """Eq. 5 for the states of some nodes: (m, B)."""
    last = tf.gather(h, nodes)  # (m, B, H)
    return tf.reshape(apply_mlp(tf.reshape(last, (-1, tf.shape(h)[2])), mlp), tf.shape(last)[:2])
