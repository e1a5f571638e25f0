"""O2W scores of pictures and captions: all but the attention and the small end of the MLP is done once a side.

The first Dense layer is linear in the object o and in the attended words u = Σ β_k s_k, so its object half is
computed once for each object and its text half once for each word: K u = Σ β_k (K s_k). Captions are scored in groups
of the same length, so that none is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bssan_tf.models.improved.bilinear import inverse_length
from bssan_tf.scoring.folding import Bilinear, Dense, FoldedNetwork, apply_mlp, weights_of
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.tracing import traced

GROUP = 128  # captions of one group at most
PAIR_ROWS = 8192  # rows (caption, picture, object) of one product

Group = tuple[np.ndarray, "WordSide"]  # captions of one length, int (n,) places in `tree.captions`, and their words


class WordSide(NamedTuple):
    """What is known of n captions of one length l before any picture, all float."""

    keys: tf.Tensor  # (n, l, S), the Bi-LSTM's states, as objects compare with them
    hidden: tf.Tensor  # (n, l, H1), the states through the text half of the first Dense layer
    fused: tf.Tensor | None  # (n, l, F), B s of the fusion
    scales: tf.Tensor | None  # (n, l, 1), 1 / length of the keys where products are cosines


class ObjectSide(NamedTuple):
    """What is known of B pictures before any caption."""

    queries: tf.Tensor  # float (B, P, S), o' W of Eq. 10
    hidden: tf.Tensor  # float (B, P, H1), the objects through their half of the first Dense layer, with its bias
    fused: tf.Tensor | None  # float (B, P, F), A o of the fusion
    valid: tf.Tensor  # bool (B, P), False at padded objects


class PairWeights(NamedTuple):
    """Weights that a pair needs."""

    softmax: tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]  # b, sharpness, γ of the gate
    from_fusion: tf.Tensor | None  # (F, H1)
    mlp: list[Dense]  # after its first layer
    bilinear: Bilinear | None


class FastO2W(FoldedNetwork):
    """The O2W network of a scorer, for inference; its `o2w_text` is called for the text side."""

    arrays = ("objects", "valid")

    def __init__(self, text_network: tf.keras.Model, network: tf.keras.Model):
        super().__init__(network)
        self.states_of = _traced_text(text_network)
        (kernel, self.bias), *rest = self.mlp
        Q, S = self.W.shape
        self.from_object, self.from_state, from_fusion = tf.split(kernel, [Q, S, kernel.shape[0] - Q - S])
        self.weights = PairWeights(self.softmax, from_fusion if self.F else None, rest, self.bilinear)

    def side_bytes(self, count: int) -> int:
        """What the sides of so many words, or objects, take: S + H1 + F numbers each."""
        return 4 * count * (self.W.shape[1] + self.from_state.shape[1] + self.F)

    def bytes_per_picture(self, tree: PrefixTree, objects: int) -> int:
        """See `FoldedNetwork`."""
        return 4 * objects * (2 * self.W.shape[0] + self.W.shape[1] + 2 * self.from_state.shape[1])

    def fixed_bytes(self, tree: PrefixTree, objects: int) -> int:
        """See `FoldedNetwork`."""
        L = int(tree.lengths.max(initial=0))
        S, hidden = self.from_state.shape
        products = 4 * PAIR_ROWS * (3 * hidden + 2 * self.F + 3 * L) + 4 * GROUP * L * 12 * S
        return self.side_bytes(int(tree.lengths.sum())) + products

    def prepare(self, tree: PrefixTree, embed: Callable[[tf.Tensor], tf.Tensor]) -> list[Group]:
        """The text side of captions, see `FoldedNetwork`."""
        groups = []
        for length in np.unique(tree.lengths):
            same = np.flatnonzero(tree.lengths == length)
            for start in range(0, len(same), GROUP):
                captions = same[start : start + GROUP]
                groups.append((captions, self._word_side(tree.captions[captions, :length], embed)))
        return groups

    def _word_side(self, tokens: np.ndarray, embed) -> WordSide:
        if tokens.shape[1]:
            states = self.states_of(embed(tokens), tf.ones(tokens.shape, bool))
        else:
            states = tf.zeros((*tokens.shape, self.from_state.shape[0]))
        fused = None if self.B is None else tf.matmul(states, self.B)
        keys = self.keys_seen(states) if tokens.shape[1] else states
        scales = inverse_length(keys) if self.cosine else None
        return WordSide(keys, tf.matmul(states, self.from_state), fused, scales)

    def prepare_pictures(self, block: Mapping[str, tf.Tensor]) -> ObjectSide:
        """The object side of pictures: `objects` float16 or float32 (B, P, Q), as stored, and `valid` bool (B, P)."""
        objects = self.norm(block["objects"])
        queries, hidden, fused = _project_objects(objects, self.W, self.from_object, self.bias, self.A)
        return ObjectSide(self.scaled(queries), hidden, fused, block["valid"])

    def score(
        self, tree: PrefixTree, text: list[Group], pictures: ObjectSide, scored: Callable[[int], None] = lambda n: None
    ) -> np.ndarray:
        """Scores float32 (N_u, B) of a block of pictures with all captions of a page, see `FoldedNetwork`."""
        B, P = pictures.valid.shape
        scores = np.empty((len(tree.captions), B), np.float32)
        step = max(1, PAIR_ROWS // (B * P))
        for captions, words in text:
            for start in range(0, len(captions), step):
                some = slice(start, start + step)
                part = WordSide(*(None if array is None else array[some] for array in words))
                scores[captions[some]] = _score_pairs(part, pictures, self.weights).numpy()
                scored(len(captions[some]))
        return scores


def _traced_text(text_network: tf.keras.Model):
    """The text side as a function that is traced once for all lengths and kept with the model."""
    if not hasattr(text_network, "states_of"):
        inputs = [text_network.input[name] for name in ("words", "mask")]
        text_network.states_of = tf.function(
            lambda words, mask: text_network({"words": words, "mask": mask}, training=False),
            input_signature=[tf.TensorSpec(given.shape, given.dtype) for given in inputs],
            autograph=False,
        )
    return text_network.states_of


@traced
def _project_objects(objects, W, from_object, bias, A):
    """o' W of Eq. 10, the object half of the first Dense layer with its bias, and A o or None: (B, P, ...)."""
    return (
        tf.einsum("ipq,qs->ips", objects, W),
        tf.einsum("ipq,qh->iph", objects, from_object) + bias,
        None if A is None else tf.einsum("ipq,qf->ipf", objects, A),
    )


@traced
def _score_pairs(words: WordSide, objects: ObjectSide, weights: PairWeights) -> tf.Tensor:
    """Eq. 9-14 for n captions of length l and B pictures: (n, B)."""
    n, length, S = tf.unstack(tf.shape(words.keys))
    B, P, H1 = tf.unstack(tf.shape(objects.hidden))
    products = tf.matmul(tf.reshape(words.keys, (-1, S)), tf.reshape(objects.queries, (-1, S)), transpose_b=True)
    products = tf.reshape(products, (n, length, B * P))
    if words.scales is not None:
        products *= words.scales
    products = tf.transpose(products, (0, 2, 1))
    beta = weights_of(products, *weights.softmax)  # (n, B P, l)
    hidden = tf.matmul(beta, words.hidden) + tf.reshape(objects.hidden, (1, B * P, H1))
    real = tf.cast(objects.valid, hidden.dtype)
    if words.fused is not None:
        F = tf.shape(words.fused)[2]
        attended = tf.matmul(beta, words.fused)  # B u
        product = attended * tf.reshape(objects.fused, (1, B * P, F))  # (A o)∘(B u)
        hidden += tf.reshape(tf.matmul(tf.reshape(product, (-1, F)), weights.from_fusion), (n, B * P, H1))
    y = apply_mlp(tf.reshape(tf.tanh(hidden), (-1, H1)), weights.mlp)
    total = tf.reduce_sum(tf.reshape(y, (n, B, P)) * real, axis=-1)
    y = tf.math.divide_no_nan(total, tf.reduce_sum(real, axis=-1))  # Eq. 14
    if weights.bilinear is not None:
        factor, query_gain, attended_gain = weights.bilinear
        fits = tf.reduce_sum(product, axis=-1) * inverse_length(attended_gain * attended)[..., 0]
        fits = tf.reduce_sum(tf.reshape(fits, (n, B, P)) * real, axis=-1)
        summed = tf.reduce_sum(objects.fused * real[..., None], axis=1)
        y += factor * fits * inverse_length(query_gain * summed)[:, 0]
    return y
