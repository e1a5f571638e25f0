"""The two attentions of the paper: each word over the regions (W2R), each object over the words (O2W).

Both are a softmax over e = tanh(query' W key + b) and a weighted sum of the keys; under Eq. 8 a negative pair
gets the same weight everywhere instead. All captions of a picture are attended to at once, so that nothing of
the picture is copied: C below counts the captions paired with each picture.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from bssan_tf.models.blocks import regularizer
from bssan_tf.tools.stack import in_own_dtype, register

LOGIT_SIZE = 0.5  # deviation of query' W key at a given start, where tanh is still nearly linear


def energies(products, b):
    """e = tanh(query' W key + b) (Eq. 2, 10)."""
    return tf.tanh(products + b)


def learned_weights(e, key_mask=None):
    """Softmax of e (..., N_k) over the keys (Eq. 1, 9); bool key_mask, False at padding, which gets no weight."""
    if key_mask is None:
        return tf.nn.softmax(e)  # Eq. 1
    return tf.nn.softmax(tf.where(key_mask, e, -1e9)) * tf.cast(key_mask, e.dtype)  # Eq. 9; no word, no weight


def even_weights(e, key_mask=None):
    """The same weight for each key, 1 over their number (Eq. 8); arguments as of `learned_weights`."""
    if key_mask is None:
        return tf.fill((1, 1, 1, 1), 1.0 / tf.cast(tf.shape(e)[-1], e.dtype))
    real = tf.cast(key_mask, e.dtype)
    return tf.math.divide_no_nan(real, tf.reduce_sum(real, axis=-1, keepdims=True))


def attended(alpha, regions):
    """u = Σ_i α_i v_i (Eq. 3): weights float (B, C, L, D) and regions (B, D, M) to (B, C, L, M)."""
    B, C, L, D = tf.unstack(tf.shape(alpha))
    u = tf.reshape(tf.matmul(tf.reshape(alpha, (B, C * L, D)), regions), (B, C, L, -1))
    return tf.ensure_shape(u, (regions.shape[0], *alpha.shape[1:3], regions.shape[-1]))  # what reshape does not see


class Attention(tf.keras.layers.Layer):
    """What both attentions share: W, b, the softmax and Eq. 8; `l2` is δ of the L2 term on W (Eq. 18).

    With `even`, W and b stay 0, so that every key has the same weight: what attention is worth is what this lacks.
    """

    def __init__(self, l2: float = 0.0, even: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.l2 = l2
        self.even = even

    def build(self, input_shape):
        shape = (input_shape[0][-1], input_shape[1][-1])
        how = {"initializer": "zeros", "trainable": False} if self.even else {"regularizer": regularizer(self.l2)}
        self.W = self.add_weight(name="W", shape=shape, **how)
        self.b = self.add_weight(name="b", shape=(), initializer="zeros", trainable=not self.even)
        super().build(input_shape)

    def compare(self, projected, keys):
        """Products of projected queries query' W (B, N_q, F) and keys (B, N_k, F), or (B, C, N_k, F) if they are words.

        Either may have 1 in place of B. Returns (B, N_q, N_k), or (B, C, N_q, N_k).
        """
        raise NotImplementedError

    def keys_seen(self, keys, key_mask=None):
        """The keys float (..., N_k, F) as the queries see them; bool key_mask (..., N_k), False at padding."""
        return keys

    def energies(self, products):
        return energies(products, *in_own_dtype(self, self.b))

    def weights_of(self, products, uniform, key_mask=None):
        """Weights float (..., N_k) from products, where bool `uniform` is True those of Eq. 8."""
        e = self.energies(products)
        return tf.where(uniform, even_weights(e, key_mask), learned_weights(e, key_mask))

    def start_from(self, look: np.ndarray, products: np.ndarray, first: int = 0) -> None:
        """W that compares d dimensions of the text, from `first` on, with `look` (M, d) of a region or object.

        Args:
            products: float (n,), a sample of the products under W = look; W is scaled by their deviation, and b takes
                off their mean.
        """
        if self.even:
            return
        factor = LOGIT_SIZE / max(float(products.std()), 1e-12)
        W = np.zeros(self.W.shape, np.float32)
        self.text_side(W)[first : first + look.shape[1]] = factor * look.T
        self.W.assign(W)
        self.b.assign(-factor * float(products.mean()))

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "even": self.even}


@register
class WordToRegionAttention(Attention):
    """W2R attention: which regions each word looks at (Eq. 1-4, 8).

    Call arguments (a list):
        words: float (B, C, L, E), C captions for each picture; (1, C, L, E) where all pictures share them.
        regions: float (B, D, M).
        mask: bool (B, C, L), False at padding.
        uniform: bool (B, C), True where the pair's attention is 1/D (Eq. 8).

    Returns:
        u: float (B, C, L, M), the attended regions of each word (Eq. 3).
        alpha: float (B, C, L, D), the weights (Eq. 1); zero for padding.

    Reference: Huang et al., TIP 2019, section IV-A.
    """

    def text_side(self, W):
        return W  # (E, M)

    def compare(self, projected, keys):
        return tf.matmul(projected, keys, transpose_b=True)

    def call(self, inputs):
        words, regions, mask, uniform = inputs
        words, regions, W = in_own_dtype(self, words, regions, self.W)
        own, C, L, E = tf.unstack(tf.shape(words))  # own is B, or 1 where all pictures share the captions
        B, D = tf.unstack(tf.shape(regions)[:2])
        queries = tf.reshape(words, (own, C * L, E))  # one product for all captions of a picture
        projected = tf.einsum("bqe,em->bqm", queries, W)
        products = tf.reshape(self.compare(projected, self.keys_seen(regions)), (B, C, L, D))
        alpha = self.weights_of(products, uniform[:, :, None, None])  # (B, C, L, D)
        alpha *= tf.cast(mask, alpha.dtype)[..., None]
        return attended(alpha, regions), alpha


@register
class ObjectToWordAttention(Attention):
    """O2W attention: which words each object looks at (Eq. 8-12).

    Call arguments (a list):
        objects: float (B, P, Q).
        states: float (B, C, L, S), the Bi-LSTM's states of C captions for each picture; or (1, C, L, S).
        mask: bool (B, C, L), False at padding, which gets no weight.
        uniform: bool (B, C), True where the pair's attention is 1 over the number of real words (Eq. 8).

    Returns:
        u: float (B, C, P, S), the attended words of each object (Eq. 11).
        beta: float (B, C, P, L), the weights (Eq. 9).

    Reference: Huang et al., TIP 2019, section IV-B.
    """

    def text_side(self, W):
        return W.T  # of (Q, S)

    def compare(self, projected, keys):
        return of_words("bps,bcls->bcpl", projected, keys)

    def call(self, inputs):
        objects, states, mask, uniform = inputs
        objects, states, W = in_own_dtype(self, objects, states, self.W)
        seen = self.keys_seen(states, mask)
        products = self.compare(tf.einsum("bpq,qs->bps", objects, W), seen)  # (B, C, P, L)
        beta = self.weights_of(products, uniform[:, :, None, None], mask[:, :, None, :])
        return of_words("bcpl,bcls->bcps", beta, states), beta  # Eq. 11


def of_words(equation: str, x, states):
    """An einsum with states (B, C, L, S), or (1, C, L, S) where all pictures share the captions.

    Not tf.matmul: with four axes, that of TensorFlow 2.20 and 2.21 spoils memory on CPUs (tensorflow#117700).
    """
    if states.shape[0] == 1:
        equation, states = equation.replace(",bc", ",c"), states[0]
    return tf.einsum(equation, x, states)
