"""Optimizers with two learning rates: O2W's own weights take a share of the steps that all others take.

Adam moves each weight by about the learning rate, whatever the size of its gradient, so a factor on O2W's loss would
not slow it down. In: gradients and variables as for Keras' optimizers, whose arguments these take.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.models.layers import register


class _TwoRates(tf.keras.optimizers.Optimizer):
    """Steps of `o2w_rate` times their length for variables whose name begins with `o2w`; weight decay is alike for all.

    Args:
        o2w_rate: that share, above 0.
    """

    def __init__(self, *args, o2w_rate: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.o2w_rate = o2w_rate

    def update_step(self, gradient, variable):
        if self.o2w_rate == 1 or not variable.name.startswith("o2w"):
            super().update_step(gradient, variable)
            return
        before = tf.identity(variable)
        super().update_step(gradient, variable)
        variable.assign(before + self.o2w_rate * (variable - before))

    def get_config(self):
        return {**super().get_config(), "o2w_rate": self.o2w_rate}


@register
class TwoRateAdam(_TwoRates, tf.keras.optimizers.Adam):
    """Adam (Kingma & Ba, 2015) with a rate of its own for O2W."""


@register
class TwoRateSGD(_TwoRates, tf.keras.optimizers.SGD):
    """SGD with momentum and a rate of its own for O2W."""
