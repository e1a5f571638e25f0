"""What both networks share for inference: attention, fusion, bilinear score, MLP with BatchNorm folded into Dense."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bssan_tf.models.attention import Attention, energies, learned_weights
from bssan_tf.models.improved.attention import COSINE_SCALE, Gate, gated, less_mean
from bssan_tf.models.improved.bilinear import BilinearScore, unit
from bssan_tf.models.improved.norms import FeatureNorm
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

    `embed` takes int32 (...) to the words' vectors (..., E); `size` is D or P, regions or objects of a picture;
    `network` is the model `w2r` or `o2w` of a scorer.
    """

    arrays: tuple[str, ...]

    def __init__(self, network: tf.keras.Model):
        attention, norm = _layer(network, Attention), _layer(network, FeatureNorm) or FeatureNorm()
        # float16 as stored -> float32. As a graph its steps share memory, and it converts far faster than NumPy.
        self.norm = traced(lambda features: norm(tf.cast(features, tf.float32)))
        self.W, self.cosine = tf.constant(attention.W.numpy()), getattr(attention, "cosine", False)
        sharpness = tf.constant(attention.sharpness.numpy()) if getattr(attention, "scale", 0.0) else None
        self.centred, gate = getattr(attention, "centred", False), _layer(network, Gate)
        gamma = gate and tf.exp(tf.constant(gate.log_gamma.numpy()))
        self.softmax = (tf.constant(attention.b.numpy()), sharpness, gamma)  # as `weights_of` takes them
        fusion = {layer.name[-1]: layer for layer in network.layers if layer.name.endswith(("_fusion_A", "_fusion_B"))}
        self.A, self.B = (tf.constant(fusion[side].get_weights()[0]) if fusion else None for side in "AB")
        self.F = self.B.shape[1] if fusion else 0
        self.mlp = _folded_mlp(_layer(network, tf.keras.Model))
        bilinear = _layer(network, BilinearScore)
        self.bilinear = bilinear and _bilinear(bilinear)

    def scaled(self, queries: tf.Tensor) -> tf.Tensor:
        """Queries of the attention, of a fixed length where products are cosines."""
        return COSINE_SCALE * unit(queries) if self.cosine else queries

    def keys_seen(self, keys: tf.Tensor) -> tf.Tensor:
        """Keys of the attention (..., N_k, F), none of them padding, as the queries see them."""
        return less_mean(keys) if self.centred else keys


def _layer(network: tf.keras.Model, kind: type) -> tf.keras.layers.Layer | None:
    """The only layer of a kind, or None."""
    return next((layer for layer in network.layers if isinstance(layer, kind)), None)


def _folded_mlp(mlp: tf.keras.Model) -> list[Dense]:
    """The MLP of `models.blocks.mlp`, the same function with one layer for each Dense and its BatchNorm."""
    folded = []
    for layer in mlp.layers:
        if isinstance(layer, tf.keras.layers.Dense):
            folded.append(tuple(layer.get_weights()))
        elif isinstance(layer, tf.keras.layers.BatchNormalization):
            (kernel, bias), (gamma, beta, mean, variance) = folded[-1], layer.get_weights()
            factor = gamma / np.sqrt(variance + layer.epsilon)
            folded[-1] = kernel * factor, (bias - mean) * factor + beta
    return [(tf.constant(kernel), tf.constant(bias)) for kernel, bias in folded]


def weights_of(products: tf.Tensor, b: tf.Tensor, sharpness: tf.Tensor | None, gamma: tf.Tensor | None) -> tf.Tensor:
    """The weights of what is attended to, from the products float (..., N_k), all keys real (Eq. 1, 9; `Gate`)."""
    e = energies(products, b)
    weights = learned_weights(e if sharpness is None else e * sharpness)
    return weights if gamma is None else gated(weights, 1.0 / tf.cast(tf.shape(e)[-1], e.dtype), gamma)


def _bilinear(layer: tf.keras.layers.Layer) -> Bilinear:
    gains = (layer.query_gain.numpy(), layer.attended_gain.numpy()) if layer.weighted else (1.0, 1.0)
    return Bilinear(tf.exp(tf.constant(layer.log_scale.numpy())), *(tf.constant(gain) for gain in gains))


def apply_mlp(features: tf.Tensor, layers: list[Dense]) -> tf.Tensor:
    """(R, F) -> scores (R,): tanh after every layer but the last."""
    for kernel, bias in layers[:-1]:
        features = tf.tanh(tf.matmul(features, kernel) + bias)
    kernel, bias = layers[-1]
    return (tf.matmul(features, kernel) + bias)[:, 0]
