"""Parts of the network for inference: MLPs with BatchNorm folded into the Dense layer before it, scaled features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bssan_tf.scoring.tracing import traced

Dense = tuple[tf.Tensor, tf.Tensor]  # kernel (F, n), bias (n,)
Bilinear = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # s (), weights (F,) or () of queries and of what they attend to


def traced_norm(layer: tf.keras.layers.Layer) -> Callable[[tf.Tensor], tf.Tensor]:
    """A FeatureNorm as a graph of its own: float16 or float32 (..., M), as stored -> float32.

    In a graph its steps use each other's memory again, and TensorFlow converts float16 far faster than NumPy.
    """
    return traced(lambda features: layer(tf.cast(features, tf.float32)))


def folded_mlp(network: tf.keras.Model, name: str) -> list[Dense]:
    """Kernels and biases of the MLP `name` of a network, the same function with one layer for each Dense.

    Args:
        network: holds `{name}_dense1`, `{name}_norm1`, ... `{name}_out`, as `models.w2r.mlp` names them.
    """
    layers, names = [], {layer.name for layer in network.layers}
    i = 1
    while f"{name}_dense{i}" in names:
        kernel, bias = network.get_layer(f"{name}_dense{i}").get_weights()
        norm = network.get_layer(f"{name}_norm{i}")
        gamma, beta, mean, variance = norm.get_weights()
        factor = gamma / np.sqrt(variance + norm.epsilon)
        layers.append((tf.constant(kernel * factor), tf.constant((bias - mean) * factor + beta)))
        i += 1
    kernel, bias = network.get_layer(f"{name}_out").get_weights()
    return [*layers, (tf.constant(kernel), tf.constant(bias))]


def bilinear_weights(network: tf.keras.Model, name: str) -> Bilinear | None:
    """Factor s and weights of the lengths of a network's BilinearScore, or None where it has none."""
    if name not in {layer.name for layer in network.layers}:
        return None
    layer = network.get_layer(name)
    gains = (layer.query_gain.numpy(), layer.attended_gain.numpy()) if layer.weighted else (1.0, 1.0)
    return tf.exp(tf.constant(layer.log_scale.numpy())), *(tf.constant(gain) for gain in gains)


def apply_mlp(features: tf.Tensor, layers: list[Dense]) -> tf.Tensor:
    """(R, F) -> scores (R,): tanh after every layer but the last."""
    for kernel, bias in layers[:-1]:
        features = tf.tanh(tf.matmul(features, kernel) + bias)
    kernel, bias = layers[-1]
    return (tf.matmul(features, kernel) + bias)[:, 0]
