"""The two attentions of the paper: each word over the regions (W2R), each object over the words (O2W).

Both are a softmax over e = tanh(query' W key + b) and a weighted sum of the keys; under Eq. 8 a negative pair
gets the same weight everywhere instead. All captions of a picture are attended to at once, so that nothing of
the picture is copied: C below counts the captions paired with each picture.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.models.layers import unit

COSINE_SCALE = 4.0  # the products' largest size with cosine attention; tanh(4) is still below 1 in float32


def learned_weights(products, b, scale=None, key_mask=None):
    """softmax of e = tanh(products + b) over the last axis (Eq. 1, 2, 9, 10): float (..., N_k).

    Args:
        products: float (..., N_k), query' W key.
        b: scalar.
        scale: a factor on e, or None.
        key_mask: bool, broadcastable to products; False where a key is padding, which gets no weight. None: all real.
    """
    e = tf.tanh(products + b)  # Eq. 2, 10
    if scale is not None:
        e *= scale
    if key_mask is None:
        return tf.nn.softmax(e)  # Eq. 1
    return tf.nn.softmax(tf.where(key_mask, e, -1e9)) * tf.cast(key_mask, e.dtype)  # Eq. 9; no word, no weight


def attended(alpha, regions):
    """u = Σ_i α_i v_i (Eq. 3): weights float (B, C, L, D) and regions (B, D, M) to (B, C, L, M)."""
    B, C, L, D = tf.unstack(tf.shape(alpha))
    u = tf.reshape(tf.matmul(tf.reshape(alpha, (B, C * L, D)), regions), (B, C, L, -1))
    return tf.ensure_shape(u, (regions.shape[0], *alpha.shape[1:3], regions.shape[-1]))  # what reshape does not see


class _BilinearAttention(tf.keras.layers.Layer):
    """What both attentions share: W, b, the optional learned scale, the softmax and Eq. 8.

    Args:
        l2: weight δ of the L2 term on W (Eq. 18).
        scale: start value of a learned factor on e; 0 leaves e as Eq. 1 and 9 have it.
        cosine: products of unit vectors, times COSINE_SCALE, in place of those of Eq. 2 and 10.
    """

    def __init__(self, l2: float = 0.0, scale: float = 0.0, cosine: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.l2 = l2
        self.scale = scale
        self.cosine = cosine

    def add_bilinear(self, query_size: int, key_size: int) -> None:
        regularizer = tf.keras.regularizers.L2(self.l2) if self.l2 else None
        self.W = self.add_weight(name="W", shape=(query_size, key_size), regularizer=regularizer)
        self.b = self.add_weight(name="b", shape=(), initializer="zeros")
        if self.scale:
            start = tf.keras.initializers.Constant(float(self.scale))
            self.sharpness = self.add_weight(name="scale", shape=(), initializer=start)

    def weights_from(self, products, uniform, key_mask=None):
        """softmax of tanh(products + b) over the last axis (Eq. 1, 2, 9, 10), or the same weight for each key (Eq. 8).

        Args:
            products: float (..., N_k), query' W key.
            uniform: bool, broadcastable to products; True where Eq. 8 rules.
            key_mask: bool, broadcastable to products; False where a key is padding.
        """
        learned = learned_weights(products, self.b, self.sharpness if self.scale else None, key_mask)
        if key_mask is None:
            same = tf.fill((1, 1, 1, 1), 1.0 / tf.cast(tf.shape(products)[-1], products.dtype))
        else:
            real = tf.cast(key_mask, products.dtype)
            same = tf.math.divide_no_nan(real, tf.reduce_sum(real, axis=-1, keepdims=True))
        return tf.where(uniform, same, learned)  # Eq. 8

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "scale": self.scale, "cosine": self.cosine}


@tf.keras.saving.register_keras_serializable(package="bssan_tf")
class WordToRegionAttention(_BilinearAttention):
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

    def build(self, input_shape):
        words, regions = input_shape[:2]
        self.add_bilinear(words[-1], regions[-1])
        super().build(input_shape)

    def call(self, inputs):
        words, regions, mask, uniform = inputs
        own, C, L, E = tf.unstack(tf.shape(words))  # own is B, or 1 where all pictures share the captions
        B, D = tf.unstack(tf.shape(regions)[:2])
        queries = tf.reshape(words, (own, C * L, E))  # one product for all captions of a picture
        projected = tf.einsum("bqe,em->bqm", queries, self.W)
        keys = regions
        if self.cosine:
            projected, keys = COSINE_SCALE * unit(projected), unit(regions)
        products = tf.reshape(tf.matmul(projected, keys, transpose_b=True), (B, C, L, D))
        alpha = self.weights_from(products, uniform[:, :, None, None])  # (B, C, L, D)
        alpha *= tf.cast(mask, alpha.dtype)[..., None]
        return attended(alpha, regions), alpha


@tf.keras.saving.register_keras_serializable(package="bssan_tf")
class ObjectToWordAttention(_BilinearAttention):
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

    def build(self, input_shape):
        objects, states = input_shape[:2]
        self.add_bilinear(objects[-1], states[-1])
        super().build(input_shape)

    def call(self, inputs):
        objects, states, mask, uniform = inputs
        projected = tf.einsum("bpq,qs->bps", objects, self.W)[:, None]  # (B, 1, P, S)
        keys = states
        if self.cosine:
            projected, keys = COSINE_SCALE * unit(projected), unit(states)
        products = tf.matmul(projected, keys, transpose_b=True)  # (B, C, P, L)
        beta = self.weights_from(products, uniform[:, :, None, None], mask[:, :, None, :])
        return tf.matmul(beta, states), beta  # Eq. 11


@tf.keras.saving.register_keras_serializable(package="bssan_tf")
class AttendedProjections(tf.keras.layers.Layer):
    """A u of each word from the projected regions, as Σ_i α_i A v_i: the same; cheaper where a
    picture has many captions beside it, dearer where it has one.

    Call arguments (a list): alpha float (B, C, L, D), projections A v float (B, D, F).

    Returns:
        float (B, C, L, F).
    """

    def call(self, inputs):
        alpha, projections = inputs
        return attended(alpha, projections)
