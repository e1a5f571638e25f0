"""What both networks are built from: the MLP of Table I and the L2 term of Eq. 18."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


def mlp(units: tuple[int, ...], l2: float, name: str, inputs: int, silent: bool = False) -> tf.keras.Model:
    """Dense -> BatchNorm -> tanh for each of `units`, then a linear Dense(1): (R, inputs) -> (R, 1). Table I.

    BatchNorm's statistics are those of the global batch on several devices. A `silent` MLP starts with its last layer
    at zero, so that at first another score beside it rules alone.
    """
    features = rows = tf.keras.Input((inputs,))
    for i, n in enumerate(units, 1):
        features = tf.keras.layers.Dense(n, kernel_regularizer=regularizer(l2), name=f"{name}_dense{i}")(features)
        # momentum 0.9: an epoch on small corpora is too short for Keras' 0.99 to forget its start
        norm = tf.keras.layers.BatchNormalization(momentum=0.9, synchronized=True, name=f"{name}_norm{i}")
        features = tf.keras.layers.Activation("tanh", name=f"{name}_tanh{i}")(norm(features))
    start = "zeros" if silent else "glorot_uniform"
    out = tf.keras.layers.Dense(
        1, kernel_initializer=start, kernel_regularizer=regularizer(l2), dtype="float32", name=f"{name}_out"
    )
    return tf.keras.Model(rows, out(features), name=name)


def regularizer(l2: float):
    """δ Σ W² for one kernel (Eq. 18), or None."""
    return tf.keras.regularizers.L2(l2) if l2 else None


@dataclass(frozen=True, eq=False)
class Network:
    """W2R or O2W: its functional model and its attention."""

    model: tf.keras.Model  # named inputs and outputs, as of `build_w2r` and `build_o2w`
    attention: tf.keras.layers.Layer
    words_ask: bool = True  # whether words are the queries (W2R), or objects are (O2W)

    def scaled(self, features: np.ndarray) -> np.ndarray:
        """Regions or objects float (..., M) as the attention sees them: float32."""
        return np.asarray(features, np.float32)

    def projected(self, scaled: np.ndarray) -> np.ndarray:
        """What words are compared with, of `scaled` float32 (n, M); itself where there is no space of both."""
        return scaled

    def start_from(
        self, maps: np.ndarray, look: np.ndarray, sample: np.ndarray, text: np.ndarray, first: int = 0
    ) -> None:
        """Let the network begin with maps from regions or objects to d dimensions of the text.

        Args:
            maps, look: float32 (M, d), for a fusion, if there is one, and for the attention.
            sample, text: float32 (n, M) and (k, d), regions or objects as the attention sees them, and words.
            first: place of these dimensions in the text.
        """
        count = min(len(sample), len(text))
        self.attention.start_from(look, ((sample[:count] @ look) * text[:count]).sum(axis=1), first)
