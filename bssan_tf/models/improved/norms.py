"""Scaling of the visual features before the attentions."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from bssan_tf.tools.stack import in_own_dtype, register


@register
class FeatureNorm(tf.keras.layers.Layer):
    """Scale of the visual features (..., M); raw conv5_4 activations reach 390 and saturate the tanh of Eq. 2.

    Args:
        mode: `none`, the paper's; `sqrt_l2`, the signed root, then rows of unit length; or `centred`, the signed root,
            less the mean of each dimension, divided by one deviation for all, so that what is strong in the map stays
            strong. The statistics of the last come from `adapt`.
    """

    def __init__(self, mode: str = "none", **kwargs):
        super().__init__(**kwargs)
        self.mode = mode

    @property
    def fitted(self) -> bool:
        """Whether the mode has statistics."""
        return self.mode == "centred"

    def build(self, input_shape):
        if self.fitted:
            shape = input_shape[-1:]
            self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros", trainable=False)
            self.variance = self.add_weight(name="variance", shape=shape, initializer="ones", trainable=False)
        super().build(input_shape)

    def adapt(self, features: np.ndarray) -> None:
        """Take the statistics from rows float (n, M) as stored."""
        rows = _signed_root(tf.constant(features, tf.float32)).numpy().astype(np.float64)
        self.mean.assign(rows.mean(axis=0))
        self.variance.assign(np.full(rows.shape[1], rows.var(axis=0).mean()) + 1e-8)  # finite if nothing varies

    def call(self, features):
        if self.mode == "none":
            return features
        features = _signed_root(features)
        if self.fitted:
            mean, variance = in_own_dtype(self, self.mean, self.variance)
            return (features - mean) * tf.math.rsqrt(variance)
        return tf.math.l2_normalize(features, axis=-1, epsilon=1e-12)

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


def _signed_root(features):
    return tf.sign(features) * tf.sqrt(tf.abs(features))
