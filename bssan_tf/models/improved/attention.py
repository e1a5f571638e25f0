"""What `improved` adds to the two attentions: cosines, a learned factor on e, and keys less their mean behind a gate.

The products of Eq. 2 and 10 grow in training until tanh is exactly 1 in float32; cosines, times a constant, don't.
What all regions of a picture (or all words of a caption) share says nothing about which of them is meant, and drowns
what does: queries compare with keys less their mean. What is attended to then stands beside this mean, through a gate,
so that attention may be sharp and the whole is kept.
"""

from __future__ import annotations

import math

import tensorflow as tf

from bssan_tf.models.attention import ObjectToWordAttention, WordToRegionAttention, even_weights, of_words
from bssan_tf.models.improved.bilinear import unit
from bssan_tf.tools.stack import in_own_dtype, register

COSINE_SCALE = 4.0  # the products' largest size with cosine attention; tanh(4) is still below 1 in float32


class _Sharpened:
    """Mixed into an attention of the paper.

    `scale`: start value of a learned factor on e; 0 leaves e as Eq. 1 and 9 have it.
    `cosine`: products of unit vectors, times COSINE_SCALE, in place of those of Eq. 2 and 10.
    `centred`: queries compare with the keys less the mean of all keys.
    """

    def __init__(self, l2: float = 0.0, scale: float = 0.0, cosine: bool = False, centred: bool = False, **kwargs):
        super().__init__(l2, **kwargs)
        self.scale = scale
        self.cosine = cosine
        self.centred = centred

    def build(self, input_shape):
        super().build(input_shape)
        if self.scale:
            start = tf.keras.initializers.Constant(float(self.scale))
            self.sharpness = self.add_weight(name="scale", shape=(), initializer=start)

    def compare(self, projected, keys):
        if self.cosine:
            projected, keys = COSINE_SCALE * unit(projected), unit(keys)
        return super().compare(projected, keys)

    def keys_seen(self, keys, key_mask=None):
        return less_mean(keys, key_mask) if self.centred else keys

    def energies(self, products):
        e = super().energies(products)
        return e * in_own_dtype(self, self.sharpness)[0] if self.scale else e

    def start_from(self, look, products, first=0):
        super().start_from(look, products, first)
        if self.cosine or self.centred:  # cosines' mean is no sum of products; centred keys have none
            self.b.assign(0.0)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "cosine": self.cosine, "centred": self.centred}


def less_mean(keys, key_mask=None):
    """Keys float (..., N_k, F) less their mean over the keys, over those of bool key_mask (..., N_k) if it is given."""
    if key_mask is None:
        return keys - tf.reduce_mean(keys, axis=-2, keepdims=True)
    real = tf.cast(key_mask, keys.dtype)[..., None]
    total, count = (tf.reduce_sum(x, axis=-2, keepdims=True) for x in (keys * real, real))
    return keys - tf.math.divide_no_nan(total, count)


@register
class SharpenedWordToRegionAttention(_Sharpened, WordToRegionAttention):
    """W2R's attention with cosines or a factor on e; calls as of WordToRegionAttention."""


@register
class SharpenedObjectToWordAttention(_Sharpened, ObjectToWordAttention):
    """O2W's attention with cosines or a factor on e; calls as of ObjectToWordAttention."""


@register
class Gate(tf.keras.layers.Layer):
    """γ α + (1 - γ) / N of an attention's weights α: their sum over keys v is v̄ + γ (Σ α v - v̄), v̄ the keys' mean.

    Args:
        start: initial value of γ, which is learned.
        of_words: the mask is of the keys (O2W); else of the queries (W2R), and a query at padding gets no weight.

    Call arguments (a list): weights float (B, C, N_q, N_k), mask bool (B, C, L). Returns float (B, C, N_q, N_k).
    """

    def __init__(self, start: float = 0.1, of_words: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.of_words = of_words

    def build(self, input_shape):
        start = tf.keras.initializers.Constant(math.log(self.start))
        self.log_gamma = self.add_weight(name="log_gamma", shape=(), initializer=start)  # so γ stays above 0
        super().build(input_shape)

    def call(self, inputs):
        alpha, mask = inputs
        gamma = tf.exp(*in_own_dtype(self, self.log_gamma))
        if self.of_words:
            return gated(alpha, even_weights(alpha, mask[:, :, None]), gamma)
        return gated(alpha, even_weights(alpha) * tf.cast(mask, alpha.dtype)[..., None], gamma)

    def get_config(self):
        return {**super().get_config(), "start": self.start, "of_words": self.of_words}


def gated(weights, even, gamma):
    """γ α + (1 - γ) / N."""
    return gamma * weights + (1.0 - gamma) * even


@register
class AttendedWords(tf.keras.layers.Layer):
    """Σ_k β_k s_k (Eq. 11) of weights float (B, C, P, L) and states (B, C, L, S), or (1, C, L, S): (B, C, P, S)."""

    def call(self, inputs):
        beta, states = in_own_dtype(self, *inputs)
        return of_words("bcpl,bcls->bcps", beta, states)
