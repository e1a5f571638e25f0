"""O2W scores of pictures and captions: all but the attention and the small end of the MLP is done once a side.

The first Dense layer is linear in the object o and in the attended words u = Σ β_k s_k, so its object half is
computed once for each object and its text half once for each word: K u = Σ β_k (K s_k). Captions are scored in groups
of the same length, so that none is padded.
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

GROUP = 128  # captions of one group at most
PAIR_ROWS = 8192  # rows (caption, picture, object) of one product


@dataclass(frozen=True, eq=False)
class Group:
    """Captions of one length l, n of them.

    Attributes:
        captions: int (n,), places in `PrefixTree.captions`.
        states: float (n, l, S), the Bi-LSTM's.
        hidden: float (n, l, H1), the states through the text half of the first Dense layer.
        fused: float (n, l, F), B s of the fusion, or None.
        scales: float (n, l, 1), 1 / |s| where products are cosines, or None.
    """

    captions: np.ndarray
    states: tf.Tensor
    hidden: tf.Tensor
    fused: tf.Tensor | None
    scales: tf.Tensor | None


@dataclass(frozen=True, eq=False)
class ObjectSide:
    """What is known of B pictures before any caption.

    Attributes:
        queries: float (B, P, S), o' W of Eq. 10.
        hidden: float (B, P, H1), the objects through their half of the first Dense layer, with its bias.
        fused: float (B, P, F), A o of the fusion, or None.
        valid: bool (B, P), False at padded objects.
    """

    queries: tf.Tensor
    hidden: tf.Tensor
    fused: tf.Tensor | None
    valid: tf.Tensor


class FastO2W:
    """The O2W network of a scorer, for inference.

    Args:
        text_network: the model `o2w_text` of a scorer; called for the text side.
        network: its model `o2w`; the weights are read now.
    """

    def __init__(self, text_network: tf.keras.Model, network: tf.keras.Model):
        names = {layer.name for layer in network.layers}
        attention = network.get_layer("o2w_attention")
        self.states_of = _traced(text_network)
        self.norm = traced_norm(network.get_layer("object_norm"))
        self.W, self.cosine = tf.constant(attention.W.numpy()), attention.cosine
        self.attention = (
            tf.constant(attention.b.numpy()),
            tf.constant(attention.sharpness.numpy()) if attention.scale else None,
        )
        self.bilinear = bilinear_weights(network, "o2w_bilinear")
        (kernel, self.bias), *self.rest = folded_mlp(network, "o2w_mlp")
        Q, S = self.W.shape
        self.from_object, self.from_state, from_fusion = tf.split(kernel, [Q, S, kernel.shape[0] - Q - S])
        self.A = self.B = self.from_fusion = None
        if "o2w_fusion_A" in names:
            self.from_fusion = from_fusion
            self.A, self.B = (tf.constant(network.get_layer(f"o2w_fusion_{side}").get_weights()[0]) for side in "AB")

    def text_bytes(self, tree: PrefixTree) -> int:
        """What the text side of a page of captions takes."""
        return 4 * int(tree.lengths.sum()) * self._numbers()

    def side_bytes(self, objects: int) -> int:
        """What the object side of a picture takes once it is computed."""
        return 4 * objects * self._numbers()

    def _numbers(self) -> int:
        """S + H1 + F, of a word as of an object."""
        return self.W.shape[1] + self.from_state.shape[1] + (0 if self.B is None else self.B.shape[1])

    def bytes_per_picture(self, objects: int) -> int:
        """What one more picture in a block takes: its object side."""
        return 4 * objects * (2 * self.W.shape[0] + self.W.shape[1] + 2 * self.from_state.shape[1])

    def fixed_bytes(self, tree: PrefixTree) -> int:
        """What the products of one step take, however many pictures and captions there are; L is the longest one's."""
        L = int(tree.lengths.max(initial=0))
        S, hidden = self.from_state.shape
        F = 0 if self.B is None else self.B.shape[1]
        return 4 * PAIR_ROWS * (3 * hidden + 2 * F + 3 * L) + 4 * GROUP * L * 12 * S

    def prepare(self, tree: PrefixTree, embed: Callable[[tf.Tensor], tf.Tensor]) -> list[Group]:
        """The text side of captions.

        Args:
            embed: int32 (n, l) -> the words' vectors (n, l, E).
        """
        groups = []
        for length in np.unique(tree.lengths):
            same = np.flatnonzero(tree.lengths == length)
            for start in range(0, len(same), GROUP):
                captions = same[start : start + GROUP]
                groups.append(self._group(captions, tree.captions[captions, :length], embed))
        return groups

    def _group(self, captions: np.ndarray, tokens: np.ndarray, embed) -> Group:
        if tokens.shape[1]:
            states = self.states_of(embed(tokens), tf.ones(tokens.shape, bool))
        else:
            states = tf.zeros((*tokens.shape, self.from_state.shape[0]))
        fused = None if self.B is None else tf.matmul(states, self.B)
        scales = inverse_length(states) if self.cosine else None
        return Group(captions, states, tf.matmul(states, self.from_state), fused, scales)

    def prepare_objects(self, objects: tf.Tensor, valid: tf.Tensor) -> ObjectSide:
        """The object side of pictures: objects float16 or float32 (B, P, Q), as stored, and valid bool (B, P)."""
        queries, *rest = _object_side(self.norm(objects), self.W, self.from_object, self.bias, self.A)
        return ObjectSide(COSINE_SCALE * unit(queries) if self.cosine else queries, *rest, valid)

    def score(
        self, groups: list[Group], pictures: ObjectSide, count: int, scored: Callable[[int], None] = lambda n: None
    ) -> np.ndarray:
        """Scores of a block of pictures with all captions of a page.

        Args:
            groups: from `prepare`.
            pictures: from `prepare_objects`.
            count: N_u, number of captions in the page.
            scored: told the number of captions whenever some are done.

        Returns:
            float32 (N_u, B).
        """
        B, P = pictures.valid.shape
        scores = np.empty((count, B), np.float32)
        step = max(1, PAIR_ROWS // (B * P))
        for group in groups:
            for start in range(0, len(group.captions), step):
                some = slice(start, start + step)
                arrays = (group.states, group.hidden, group.fused, group.scales)
                text = [None if array is None else array[some] for array in arrays]
                part = _score_pairs(
                    pictures.queries, pictures.hidden, pictures.fused, pictures.valid,
                    *text, self.attention, self.from_fusion, self.rest, self.bilinear,
                )  # fmt: skip
                scores[group.captions[some]] = part.numpy()
                scored(len(group.captions[some]))
        return scores


def _traced(text_network: tf.keras.Model):
    """The text side as a function that is traced once for all lengths and kept with the model."""
    if not hasattr(text_network, "states_of"):
        words, mask = text_network.input["words"], text_network.input["mask"]
        text_network.states_of = tf.function(
            lambda words, mask: text_network({"words": words, "mask": mask}, training=False),
            input_signature=[tf.TensorSpec(words.shape, words.dtype), tf.TensorSpec(mask.shape, mask.dtype)],
        )
    return text_network.states_of


@traced
def _object_side(objects, W, from_object, bias, A):
    """o' W of Eq. 10, the object half of the first Dense layer with its bias, and A o or None: (B, P, ...)."""
    return (
        tf.einsum("ipq,qs->ips", objects, W),
        tf.einsum("ipq,qh->iph", objects, from_object) + bias,
        None if A is None else tf.einsum("ipq,qf->ipf", objects, A),
    )


@traced
def _score_pairs(
    queries, from_objects, A_o, valid, states, from_states, B_s, scales, attention, from_fusion, rest, bilinear
):
    """Eq. 9-14 for n captions of length l and B pictures: (n, B)."""
    n, length, S = tf.unstack(tf.shape(states))
    B, P = tf.shape(queries)[0], tf.shape(queries)[1]
    H1 = tf.shape(from_states)[2]
    products = tf.matmul(tf.reshape(states, (-1, S)), tf.reshape(queries, (-1, S)), transpose_b=True)
    products = tf.reshape(products, (n, length, B * P))
    if scales is not None:
        products *= scales
    products = tf.transpose(products, (0, 2, 1))
    beta = learned_weights(products, *attention)  # (n, B P, l)
    hidden = tf.matmul(beta, from_states) + tf.reshape(from_objects, (1, B * P, H1))
    real = tf.cast(valid, hidden.dtype)
    if B_s is not None:
        F = tf.shape(B_s)[2]
        attended = tf.matmul(beta, B_s)  # B u
        product = attended * tf.reshape(A_o, (1, B * P, F))  # (A o)∘(B u)
        hidden += tf.reshape(tf.matmul(tf.reshape(product, (-1, F)), from_fusion), (n, B * P, H1))
    y = apply_mlp(tf.reshape(tf.tanh(hidden), (-1, H1)), rest)
    total = tf.reduce_sum(tf.reshape(y, (n, B, P)) * real, axis=-1)
    y = tf.math.divide_no_nan(total, tf.reduce_sum(real, axis=-1))  # Eq. 14
    if bilinear is not None:
        factor, query_gain, attended_gain = bilinear
        fits = tf.reduce_sum(product, axis=-1) * inverse_length(attended_gain * attended)[..., 0]
        fits = tf.reduce_sum(tf.reshape(fits, (n, B, P)) * real, axis=-1)
        summed = tf.reduce_sum(A_o * real[..., None], axis=1)
        y += factor * fits * inverse_length(query_gain * summed)[:, 0]
    return y
