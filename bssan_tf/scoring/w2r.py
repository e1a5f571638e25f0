"""W2R scores of pictures and captions, every product computed once where Keras computes it many times.

What a word finds in a picture depends on the two alone: attention, u and the LSTM's input product are computed once
for each distinct word and picture. States of the LSTM are computed once for each prefix (see prefix_tree.py), level
by level, for a block of pictures at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from bssan_tf.models.attention import COSINE_SCALE, learned_weights
from bssan_tf.models.layers import inverse_length, unit
from bssan_tf.scoring.folding import apply_mlp, bilinear_weights, folded_mlp, traced_norm
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.tracing import traced

SLAB_ROWS = 2048  # rows of one product; from 512 on matrix products run at full speed


@dataclass(frozen=True, eq=False)
class W2RText:
    """What is known of captions before any picture.

    Attributes:
        tree: the captions.
        queries: float (V, M), t' W of Eq. 2, for each distinct word; of fixed length where products are cosines.
        inputs: float (V, 4H), the words' part of the LSTM's input product, with its bias.
        fused: float (V, F), B t of the fusion, or None.
    """

    tree: PrefixTree
    queries: tf.Tensor
    inputs: tf.Tensor
    fused: tf.Tensor | None


class FastW2R:
    """The W2R network of a scorer, for inference.

    Args:
        network: the model `w2r` of a scorer; its weights are read now.
    """

    def __init__(self, network: tf.keras.Model):
        names = {layer.name for layer in network.layers}
        attention = network.get_layer("w2r_attention")
        self.norm = traced_norm(network.get_layer("region_norm"))
        self.W, self.cosine = tf.constant(attention.W.numpy()), attention.cosine
        self.attention = (
            tf.constant(attention.b.numpy()),
            tf.constant(attention.sharpness.numpy()) if attention.scale else None,
        )
        kernel, recurrent, self.bias = network.get_layer("w2r_lstm").get_weights()
        E, M = self.W.shape
        self.from_region, self.from_word, from_fusion = np.split(kernel, [M, M + E])
        self.from_word, self.recurrent = tf.constant(self.from_word), tf.constant(recurrent)
        self.A = self.B = None
        if "w2r_fusion_A" in names:
            self.A, self.B = (tf.constant(network.get_layer(f"w2r_fusion_{side}").get_weights()[0]) for side in "AB")
            self.from_region = np.concatenate([self.from_region, from_fusion])
        self.from_region = tf.constant(self.from_region)
        self.mlp = folded_mlp(network, "w2r_mlp")
        self.bilinear = bilinear_weights(network, "w2r_bilinear")
        self.no_word = float(apply_mlp(tf.zeros((1, recurrent.shape[0])), self.mlp))

    @property
    def gates(self) -> int:
        """4H."""
        return self.recurrent.shape[1]

    def bytes_per_picture(self, tree: PrefixTree, regions: int) -> int:
        """What one more picture in a block takes: input products, states, its regions."""
        states = 3 * tree.width * self.gates // 4  # h and c of a level, and of the part of it that is still read
        return 4 * (len(tree.words) * self.gates + states + 2 * regions * self.W.shape[1])

    def fixed_bytes(self, tree: PrefixTree, regions: int) -> int:
        """What a page of captions takes whatever the block of pictures: its text side, and one slab."""
        M, F = self.from_region.shape[0], 0 if self.B is None else self.B.shape[1]
        text = len(tree.words) * (self.gates + M + F)
        return 4 * (text + SLAB_ROWS * max(3 * self.gates, 2 * self.gates + 2 * M + 3 * regions))

    def prepare(self, tree: PrefixTree, vectors: tf.Tensor) -> W2RText:
        """The text side of captions; vectors: float (V, E) of the tree's words."""
        queries = tf.matmul(vectors, self.W)
        return W2RText(
            tree,
            queries=COSINE_SCALE * unit(queries) if self.cosine else queries,
            inputs=tf.matmul(vectors, self.from_word) + self.bias,
            fused=None if self.B is None else tf.matmul(vectors, self.B),
        )

    def score(self, text: W2RText, regions: tf.Tensor, scored: Callable[[int], None] = lambda n: None) -> np.ndarray:
        """Scores of a block of pictures with all captions of a page.

        Args:
            text: from `prepare`.
            regions: float16 or float32 (B, D, M), as stored.
            scored: told the number of captions whenever some are done.

        Returns:
            float32 (N_u, B), rows as `text.tree.captions`.
        """
        scores = np.full((len(text.tree.captions), len(regions)), self.no_word, np.float32)
        scored(int((text.tree.lengths == 0).sum()))
        if not text.tree.levels:
            return scores
        products, fits = self._word_products(text, self.norm(regions))
        step = max(1, SLAB_ROWS // len(regions))
        above: list[State] = []
        for level in text.tree.levels:
            states = []
            for start in range(0, len(level.parents), step):
                nodes = slice(start, start + step)
                if not above:
                    states.append(_first_states(products, level.words[nodes]))
                else:
                    h, c, parents = _slabs_of(above, level.parents[nodes], step)
                    states.append(_next_states(h, c, parents, products, level.words[nodes], self.recurrent))
                ends = _within(level.end_nodes, start, step)
                if ends.stop > ends.start:
                    last = _score_states(states[-1][0], level.end_nodes[ends] - start, self.mlp)
                    scores[level.end_captions[ends]] = last.numpy()
                    scored(ends.stop - ends.start)
            above = states
        if self.bilinear is not None:
            scores += self._bilinear_scores(text, fits)
        return scores

    def _bilinear_scores(self, text: W2RText, fits: tf.Tensor) -> np.ndarray:
        """BilinearScore of every caption and picture, float32 (N_u, B), from that of words and pictures (V, B)."""
        tree = text.tree
        found = np.zeros((len(tree.captions), fits.shape[1]), np.float32)
        for start in range(0, len(found), SLAB_ROWS):
            some = slice(start, start + SLAB_ROWS)
            places = np.searchsorted(tree.words, tree.captions[some]) * (tree.captions[some] != 0)
            longest = int(tree.lengths[some].max(initial=0))
            places = places[:, :longest].astype(np.int32)
            found[some] = _bilinear_sums(fits, text.fused, places, tree.captions[some, :longest] != 0, self.bilinear)
        return found

    def _word_products(self, text: W2RText, regions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The LSTM's input product of every word beside every picture, bias included: (V, B, 4H).

        With a bilinear score also <B t, A u> / |A u| of each: (V, B).
        """
        V, B = len(text.tree.words), len(regions)
        products = tf.raw_ops.Empty(shape=(V, B, self.gates), dtype=tf.float32)
        step, fits = max(1, SLAB_ROWS // B), []
        scales = inverse_length(regions)[:, None, :, 0] if self.cosine else None
        for start in range(0, V, step):
            words = slice(start, start + step)
            fused = None if text.fused is None else text.fused[words]
            part, fit = _word_products(
                text.queries[words],
                text.inputs[words],
                fused,
                regions,
                scales,
                self.attention,
                self.A,
                self.from_region,
                self.bilinear,
            )
            # in place: the largest array there is, and concat or a Variable would hold it twice
            products = tf.raw_ops.InplaceUpdate(x=products, i=tf.range(start, start + len(part)), v=part)
            fits.append(fit)
        return products, None if self.bilinear is None else tf.concat(fits, axis=0)


State = tuple[tf.Tensor, tf.Tensor]  # h and c, each float (n, B, H)


def _slabs_of(above: list[State], parents: np.ndarray, step: int) -> tuple[tf.Tensor, tf.Tensor, np.ndarray]:
    """h and c of the slabs that hold the parents, and the parents' places in them.

    Parents ascend, so these are few, and earlier slabs are let go.
    """
    first, last = parents[0] // step, parents[-1] // step
    above[:first] = [None] * first  # their children are done
    h, c = zip(*above[first : last + 1])
    if len(h) > 1:
        h, c = [tf.concat(h, axis=0)], [tf.concat(c, axis=0)]
    return h[0], c[0], parents - first * step


def _within(ascending: np.ndarray, start: int, step: int) -> slice:
    """The part of ascending numbers that lies in [start, start + step)."""
    first, last = np.searchsorted(ascending, [start, start + step])
    return slice(int(first), int(last))


@traced
def _word_products(queries, inputs, fused, regions, scales, attention, A, from_region, bilinear):
    """Eq. 1-4 for words (v, M) and regions (B, D, M), then the LSTM's input product (v, B, 4H).

    Also <B t, A u> / |A u| (v, B), or None where there is no bilinear score.
    """
    B, v, gates = tf.shape(regions)[0], tf.shape(queries)[0], tf.shape(inputs)[1]
    products = tf.matmul(queries[None], regions, transpose_b=True)  # (B, v, D)
    if scales is not None:
        products *= scales  # (B, 1, D)
    u = tf.matmul(learned_weights(products, *attention), regions)  # Eq. 3
    u = tf.transpose(u, (1, 0, 2))  # (v, B, M)
    fits = None
    if fused is not None:
        projected = tf.matmul(u, A)
        u = tf.concat([u, projected * fused[:, None]], axis=-1)
        if bilinear is not None:
            _, _, gain = bilinear
            fits = tf.reduce_sum(projected * inverse_length(gain * projected) * fused[:, None], axis=-1)
    flat = tf.matmul(tf.reshape(u, (v * B, -1)), from_region)
    return tf.reshape(flat, (v, B, gates)) + inputs[:, None], fits


@traced
def _bilinear_sums(fits, fused, places, real, bilinear):
    """BilinearScore of captions, words at `places` (n, L), from fits (V, B) and B t (V, F): (n, B)."""
    real = tf.cast(real, fits.dtype)[..., None]
    queries = tf.reduce_sum(tf.gather(fused, places) * real, axis=1)
    total = tf.zeros((tf.shape(places)[0], tf.shape(fits)[1]))
    for_word = tf.transpose(places)
    for place in tf.range(tf.shape(places)[1]):  # never (n, L, B) at once
        total += tf.gather(fits, for_word[place]) * real[:, place]
    factor, gain, _ = bilinear
    return factor * total * inverse_length(gain * queries)


@traced
def _first_states(products, words):
    """States after the first word: no state before it, so no recurrent product."""
    i, _, g, o = tf.split(tf.gather(products, words), 4, axis=-1)
    c = tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


@traced
def _next_states(h, c, parents, products, words, recurrent):
    """One step of the LSTM for nodes (n,) of the tree, in Keras' order of gates: h and c, each (n, B, H)."""
    B, H = tf.shape(h)[1], tf.shape(h)[2]
    before = tf.reshape(tf.gather(h, parents), (-1, H))
    z = tf.matmul(before, recurrent) + tf.reshape(tf.gather(products, words), (-1, 4 * H))
    i, f, g, o = tf.split(z, 4, axis=1)
    c = tf.sigmoid(f) * tf.reshape(tf.gather(c, parents), (-1, H)) + tf.sigmoid(i) * tf.tanh(g)
    h = tf.sigmoid(o) * tf.tanh(c)
    return tf.reshape(h, (-1, B, H)), tf.reshape(c, (-1, B, H))


@traced
def _score_states(h, nodes, mlp):
    """Eq. 5 for the states of some nodes: (m, B)."""
    last = tf.gather(h, nodes)  # (m, B, H)
    return tf.reshape(apply_mlp(tf.reshape(last, (-1, tf.shape(h)[2])), mlp), tf.shape(last)[:2])
