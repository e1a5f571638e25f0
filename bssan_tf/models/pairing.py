"""The siamese part: layers that lay C captions beside each picture of a batch, and what comes of the pairs."""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.tools.stack import register


@register
class PairCaptions(tf.keras.layers.Layer):
    """Lay captions beside the pictures they are paired with: (N, ...) -> (B, C, ...).

    Args:
        how: which captions go with picture i.
            `own`: its own; N = B, C = 1.
            `random`: its own and K given ones; N = B (1 + K), picture by picture; C = 1 + K.
            `batch`: its own and those of the next K pictures, T_i, T_{i+1}, ... T_{i+K}, cyclic; N = B, C = 1 + K.
            `all`: each, laid down once for all pictures, not copied: (1, N, ...), which broadcasts.
        negatives: K.
    """

    def __init__(self, how: str = "own", negatives: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.how = how
        self.negatives = negatives

    def compute_mask(self, captions, mask=None):
        return None  # the layers that need a mask are given it; Keras 3 would warn that the Bi-LSTM's ends here

    def call(self, captions):
        rest = tf.shape(captions)[1:]
        if self.how == "own":
            paired = captions[:, None]
        elif self.how == "all":
            paired = captions[None]
        elif self.how == "random":
            paired = tf.reshape(captions, tf.concat([[-1, 1 + self.negatives], rest], axis=0))
        else:
            paired = tf.stack([tf.roll(captions, -k, axis=0) for k in range(1 + self.negatives)], axis=1)
        return tf.ensure_shape(paired, (None, None, *captions.shape[1:]))

    def get_config(self):
        return {**super().get_config(), "how": self.how, "negatives": self.negatives}


@register
class PositiveFirst(tf.keras.layers.Layer):
    """Scores (V_i, T_j) float (B, B) -> (V_i, T_{i+k}), cyclic: the positive pair, on the diagonal, gets column 0."""

    def call(self, scores):
        place = tf.range(tf.shape(scores)[0])
        return tf.gather(scores, (place[:, None] + place) % tf.size(place), batch_dims=1)


@register
class JoinNegatives(tf.keras.layers.Layer):
    """tokens (B, L) and negative tokens (B, K, L) -> (B (1 + K), L), picture by picture, the positive first."""

    def call(self, inputs):
        tokens, negatives = inputs
        joined = tf.concat([tokens[:, None], negatives], axis=1)
        return tf.reshape(joined, (-1, tf.shape(tokens)[1]))


@register
class UniformPairs(tf.keras.layers.Layer):
    """Which pairs are attended to under Eq. 8: bool (B, C), from the pairs' word mask (B, C, L).

    Args:
        mode: `learned`: no negative; `uniform`: each (columns 1 to K), the paper's; `mixed`: every second of the batch.
        positives: share of the positives (column 0), spread evenly over the batch.
    """

    def __init__(self, mode: str = "learned", positives: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.mode = mode
        self.positives = positives

    def call(self, mask):
        B, C = tf.shape(mask)[0], tf.shape(mask)[1]
        share = {"learned": 0.0, "uniform": 1.0, "mixed": 0.5}[self.mode]
        negatives = _spread_evenly(B * (C - 1), share)
        return tf.concat([_spread_evenly(B, self.positives)[:, None], tf.reshape(negatives, (B, C - 1))], axis=1)

    def get_config(self):
        return {**super().get_config(), "mode": self.mode, "positives": self.positives}


def _spread_evenly(count, share: float):
    """bool (count,), True for a share of the places, at even distances."""
    n = tf.cast(tf.range(count), tf.float32)
    return tf.floor((n + 1.0) * share) > tf.floor(n * share)


@register
class MergePairs(tf.keras.layers.Layer):
    """(B, C, ...) -> (B C, ...): positives and negatives as one batch for LSTM and MLP."""

    def call(self, paired):
        merged = tf.reshape(paired, tf.concat([[-1], tf.shape(paired)[2:]], axis=0))
        return tf.ensure_shape(merged, (None, *paired.shape[2:]))


@register
class SplitPairs(tf.keras.layers.Layer):
    """Scores (B C, 1) -> (B, C); the second argument is any tensor (B, C, ...)."""

    def call(self, inputs):
        scores, paired = inputs
        return tf.reshape(scores, tf.shape(paired)[:2])


@register
class FirstCaption(tf.keras.layers.Layer):
    """(B, 1, ...) -> (B, ...): the only caption of each picture."""

    def call(self, paired):
        return paired[:, 0]
