"""Dropout that a resumed run repeats, of the matcher and of the detector."""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.tools.stack import counted_once, register


@register
class ReplayableDropout(tf.keras.layers.Layer):
    """Dropout whose masks depend on seed, step and replica alone, so that a resumed run draws the masks it would have.

    Keras' own Dropout keeps the state of its generator outside checkpoints; here the step is a weight.

    Args:
        rate: share of the entries set to zero in training; the rest is scaled by 1 / (1 - rate).
        seed: masks differ between layers of different seeds.
        shared: axes along which the mask is the same; (1,) drops a dimension of all regions or objects of a picture.
    """

    def __init__(self, rate: float, seed: int = 0, shared: tuple[int, ...] = (), **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.shared = tuple(shared)

    def build(self, input_shape):
        self.step = self.add_weight(name="step", shape=(), **counted_once())
        super().build(input_shape)

    def call(self, features, training=None):
        if not training:
            return features
        self.step.assign_add(1)
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0  # none while a graph is put together
        seed = tf.stack([self.seed + 1000 * replica, tf.convert_to_tensor(self.step)])
        noise = tf.unstack(tf.shape(features))
        for axis in self.shared:
            noise[axis] = 1
        return tf.nn.experimental.stateless_dropout(features, self.rate, seed=seed, noise_shape=noise)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed, "shared": self.shared}
