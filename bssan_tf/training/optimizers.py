"""Optimizers with two learning rates: O2W's own weights take a share of the steps that all others take.

Adam moves each weight by about the learning rate, whatever its gradient: a factor on O2W's loss would not slow it down.
Smaller steps where less is to be learned, as in discriminative fine-tuning (Howard & Ruder, ACL 2018).
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.tools.stack import SharedSteps


class _TwoRates(SharedSteps):
    """Steps of `o2w_rate`, above 0, times their length for variables whose name begins with `o2w`."""

    def __init__(self, o2w_rate: float, **options):
        super().__init__(**options)
        self.o2w_rate = o2w_rate

    def share_of(self, path):
        return self.o2w_rate if path.startswith("o2w") else 1.0


class TwoRateAdam(_TwoRates, tf.keras.optimizers.Adam):
    """Adam (Kingma & Ba, 2015)."""


class TwoRateSGD(_TwoRates, tf.keras.optimizers.SGD):
    """SGD with momentum."""
