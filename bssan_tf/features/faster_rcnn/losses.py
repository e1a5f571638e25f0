"""The four losses of Faster R-CNN as layers, each float32 (B,); Ren et al., Eq. 1, Girshick, Fast R-CNN, Eq. 3.

Each is a sum over a photo's drawn anchors or RoIs, divided by their number, that of the background ones included.
"""

from __future__ import annotations

import tensorflow as tf


def _mean(values: tf.Tensor, used: tf.Tensor) -> tf.Tensor:
    """Mean over the values (B, n) whose `used` (B, n) is 1: (B,); 0 where there is none."""
    return tf.math.divide_no_nan(tf.reduce_sum(values * used, -1), tf.reduce_sum(used, -1))


class ObjectLoss(tf.keras.layers.Layer):
    """Cross-entropy of RPN's log odds (B, N) against labels (B, N), 1 for objects, over the anchors used (B, N)."""

    def call(self, inputs):
        logits, labels, used = inputs
        return _mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), logits), used)


class ClassLoss(tf.keras.layers.Layer):
    """Cross-entropy of logits (B, R, C) against classes (B, R), over the RoIs whose `used` (B, R) is 1."""

    def call(self, inputs):
        logits, classes, used = inputs
        return _mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits), used)


class BoxLoss(tf.keras.layers.Layer):
    """Smooth L1 over the objects, divided by the number of all that are used; quadratic below 1 / sigma².

    Called on (deltas, targets (B, n, 4), classes (B, n), used (B, n)): classes above 0 are objects. Deltas are
    (B, n, 4), or (B, n, 4 C) with four values for each class in turn, of which the object's own count.
    """

    def __init__(self, sigma, **kwargs):
        super().__init__(**kwargs)
        self.sigma = sigma

    def call(self, inputs):
        deltas, targets, classes, used = inputs
        if deltas.shape[-1] != 4:
            by_class = tf.reshape(deltas, (tf.shape(deltas)[0], -1, deltas.shape[-1] // 4, 4))
            deltas = tf.gather(by_class, classes, batch_dims=2)
        away, bend = tf.abs(deltas - targets), 1.0 / self.sigma**2
        smooth = tf.where(away < bend, 0.5 * away**2 / bend, away - 0.5 * bend)
        return _mean(tf.where(classes > 0, tf.reduce_sum(smooth, -1), 0.0), used)
