"""Small layers of the networks: masking, objects beside the C captions of each picture, the sum of Eq. 19."""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.tools.stack import in_own_dtype, register


@register
class WordMask(tf.keras.layers.Layer):
    """tokens int32 (N, L) -> bool (N, L): True at words, False at padding."""

    def call(self, tokens):
        return tf.not_equal(tokens, 0)


@register
class RealWords(tf.keras.layers.Layer):
    """Words (N, L, F) and mask (N, L) -> (N, L, F), zero at padding."""

    def call(self, inputs):
        words, mask = inputs
        (words,) = in_own_dtype(self, words)
        return words * tf.cast(mask, words.dtype)[..., None]


@register
class MaxOverTime(tf.keras.layers.Layer):
    """Largest feature of the windows that begin at a real word: (N, L, H), none below 0, and mask (N, L) -> (N, H).

    0 where there is no word. Reference: Kim, Convolutional Neural Networks for Sentence Classification, EMNLP 2014.
    """

    def call(self, inputs):
        windows, mask = inputs
        (windows,) = in_own_dtype(self, windows)
        return tf.reduce_max(windows * tf.cast(mask, windows.dtype)[..., None], axis=1)


@register
class KeepValidObjects(tf.keras.layers.Layer):
    """Rows of real objects only, so that BatchNorm sees no padding: (B, C, P, F) and valid (B, P) -> (R, F)."""

    def call(self, inputs):
        features, valid = inputs
        return tf.boolean_mask(features, _kept_pairs(_valid_pairs(features, valid)))


@register
class MeanOverObjects(tf.keras.layers.Layer):
    """Y' = mean of y' over a picture's real objects (Eq. 14): scores (R, 1) -> (B, C); 0 where there is no object.

    Call arguments (a list): scores (R, 1) as kept by KeepValidObjects, features (B, C, P, F), valid (B, P).
    """

    def call(self, inputs):
        scores, features, valid = inputs
        real = _valid_pairs(features, valid)  # (B, C, P)
        places = tf.where(_kept_pairs(real))
        per_object = tf.scatter_nd(places, scores[:, 0], tf.shape(real, out_type=tf.int64))
        real = tf.cast(real, scores.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(per_object * real, axis=-1), tf.reduce_sum(real, axis=-1))


def _kept_pairs(real):
    """`real`, or the very first place where none is: BatchNorm has no mean of no rows."""
    shape = tf.shape(real)
    first = tf.reshape(tf.equal(tf.range(tf.size(real)), 0), shape)
    return real | (first & ~tf.reduce_any(real))


def _valid_pairs(features, valid):
    return tf.broadcast_to(valid[:, None, :], tf.shape(features)[:3])


@register
class RepeatForCaptions(tf.keras.layers.Layer):
    """(B, P, ...) -> (B, C, P, ...), one copy for each caption; the second argument is any tensor (B, C, ...)."""

    def call(self, inputs):
        objects, paired = inputs
        shape = tf.shape(objects)
        return tf.broadcast_to(objects[:, None], tf.concat([shape[:1], tf.shape(paired)[1:2], shape[1:]], axis=0))


@register
class MatchingScore(tf.keras.layers.Layer):
    """MS = Y + λ Y' (Eq. 19); `weight` is λ."""

    def __init__(self, weight: float = 0.6, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, inputs):
        w2r, o2w = inputs
        return w2r + self.weight * o2w

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
