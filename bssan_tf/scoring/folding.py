"""What both networks share for inference: attention, fusion, bilinear score, MLP with BatchNorm folded into Dense."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bssan_tf.models.attention import COSINE_SCALE
from bssan_tf.models.layers import unit
from bssan_tf.scoring.tracing import traced

Dense = tuple[tf.Tensor, tf.Tensor]  # kernel (F, n), bias (n,)


class Bilinear(NamedTuple):
    """A BilinearScore: its factor s (), and the gains of queries and of what they attend to, (F,) or ()."""

    factor: tf.Tensor
    query_gain: tf.Tensor
    attended_gain: tf.Tensor


class FoldedNetwork:
    """What W2R and O2W have alike, for inference; weights are read when it is made.

    Both answer the same calls:
        prepare(tree, embed): the text side of a page of captions, what is known before any picture.
        prepare_pictures(block): the visual side of B pictures, from `arrays` of the feature store, as stored.
        score(tree, text, pictures, scored): float32 (N_u, B), the page's distinct captions with these pictures, rows as
            `tree.captions`; `scored` is told the number of captions whenever some are done.
        bytes_per_picture(tree, size): what one more picture in a block takes.
        fixed_bytes(tree, size): what a page takes whatever the block: its text side, and the products of one step.

    `embed` takes int32 (...) to the words' vectors (..., E); `size` is D or P, regions or objects of a picture.

    Args:
        network: the model `w2r` or `o2w` of a scorer.
        visual: `region` or `object`.
    """

    arrays: tuple[str, ...]

    def __init__(self, network: tf.keras.Model, visual: str):
        layers, name = {layer.name: layer for layer in network.layers}, network.name
        attention, norm = layers[f"{name}_attention"], layers[f"{visual}_norm"]
        # float16 as stored -> float32. As a graph its steps share memory, and it converts far faster than NumPy.
        self.norm = traced(lambda features: norm(tf.cast(features, tf.float32)))
        self.W, self.cosine = tf.constant(attention.W.numpy()), attention.cosine
        sharpness = tf.constant(attention.sharpness.numpy()) if attention.scale else None
        self.softmax = (tf.constant(attention.b.numpy()), sharpness)  # as `learned_weights` takes them
        self.A, self.B, self.F = None, None, 0
        if f"{name}_fusion_A" in layers:
            self.A, self.B = (tf.constant(layers[f"{name}_fusion_{side}"].get_weights()[0]) for side in "AB")
            self.F = self.B.shape[1]
        self.mlp = _folded_mlp(layers, f"{name}_mlp")
        self.bilinear = _bilinear(layers[f"{name}_bilinear"]) if f"{name}_bilinear" in layers else None

    def scaled(self, queries: tf.Tensor) -> tf.Tensor:
        """Queries of the attention, of a fixed length where products are cosines."""
        return COSINE_SCALE * unit(queries) if self.cosine else queries


def _folded_mlp(layers: dict[str, tf.keras.layers.Layer], name: str) -> list[Dense]:
    """The MLP of `models.w2r.mlp`, the same function with one layer for each Dense and its BatchNorm."""
    folded, i = [], 1
    while f"{name}_dense{i}" in layers:
        kernel, bias = layers[f"{name}_dense{i}"].get_weights()
        norm = layers[f"{name}_norm{i}"]
        gamma, beta, mean, variance = norm.get_weights()
        factor = gamma / np.sqrt(variance + norm.epsilon)
        folded.append((tf.constant(kernel * factor), tf.constant((bias - mean) * factor + beta)))
        i += 1
    kernel, bias = layers[f"{name}_out"].get_weights()
    return [*folded, (tf.constant(kernel), tf.constant(bias))]


def _bilinear(layer: tf.keras.layers.Layer) -> Bilinear:
    gains = (layer.query_gain.numpy(), layer.attended_gain.numpy()) if layer.weighted else (1.0, 1.0)
    return Bilinear(tf.exp(tf.constant(layer.log_scale.numpy())), *(tf.constant(gain) for gain in gains))


def apply_mlp(features: tf.Tensor, layers: list[Dense]) -> tf.Tensor:
    """(R, F) -> scores (R,): tanh after every layer but the last."""
    for kernel, bias in layers[:-1]:
        features = tf.tanh(tf.matmul(features, kernel) + bias)
    kernel, bias = layers[-1]
    return (tf.matmul(features, kernel) + bias)[:, 0]
