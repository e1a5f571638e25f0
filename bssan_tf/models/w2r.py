"""The word-to-regions network (Fig. 3): attention, an LSTM over [u_k ; t_k], an MLP, one score a pair (Eq. 1-6).

`build_w2r` makes it as a functional model of its own, from word vectors and region features to Y and α.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.config.schema import ModelConfig
from bssan_tf.models.attention import AttendedProjections, WordToRegionAttention
from bssan_tf.models.layers import BilinearScore, FeatureNorm, ReplayableDropout
from bssan_tf.models.pairing import MergePairs, SplitPairs


def mlp(units: tuple[int, ...], l2: float, name: str, features: tf.Tensor, silent: bool = False) -> tf.Tensor:
    """Dense -> BatchNorm -> tanh for each of `units`, then a linear Dense(1): (R, F) -> (R, 1). Table I.

    Args:
        silent: the last layer starts at zero, so that at first another score beside it rules alone.
    """
    for i, n in enumerate(units, 1):
        features = tf.keras.layers.Dense(n, kernel_regularizer=regularizer(l2), name=f"{name}_dense{i}")(features)
        features = batch_norm(f"{name}_norm{i}")(features)
        features = tf.keras.layers.Activation("tanh", name=f"{name}_tanh{i}")(features)
    out = tf.keras.layers.Dense(
        1,
        kernel_initializer="zeros" if silent else "glorot_uniform",
        kernel_regularizer=regularizer(l2),
        dtype="float32",
        name=f"{name}_out",
    )
    return out(features)


def regularizer(l2: float):
    """δ Σ W² for one kernel (Eq. 18), or None."""
    return tf.keras.regularizers.L2(l2) if l2 else None


def batch_norm(name: str) -> tf.keras.layers.Layer:
    """BatchNorm whose statistics are those of the global batch on several devices."""
    # momentum 0.9: an epoch on small corpora is too short for Keras' 0.99 to forget its start
    return tf.keras.layers.BatchNormalization(momentum=0.9, synchronized=True, name=name)


def project(config: ModelConfig, l2: float, name: str, visual: tf.Tensor, textual: tf.Tensor) -> list[tf.Tensor]:
    """[A visual, B textual]: float (..., Q) and (..., S) to (..., F) each, F = `config.fusion`."""
    return [
        tf.keras.layers.Dense(config.fusion, use_bias=False, kernel_regularizer=regularizer(l2), name=f"{name}_{side}")(
            part
        )
        for side, part in (("A", visual), ("B", textual))
    ]


def drop_for_bilinear(config: ModelConfig, name: str, seed: int, visual: tf.Tensor) -> tf.Tensor:
    """Dropout of what the bilinear score sees of a picture (B, ..., Q), which does not pass that before LSTM and MLP.

    A number is dropped for all regions or objects of the picture: their sum would bring back what only some lack.
    """
    if not (config.bilinear and config.dropout):
        return visual
    between = tuple(range(1, len(visual.shape) - 1))
    return ReplayableDropout(config.dropout, seed=seed, shared=between, name=name)(visual)


def build_w2r(config: ModelConfig, l2: float = 0.0) -> tf.keras.Model:
    """The W2R network as a functional model.

    Inputs:
        regions: float32 (B, D, M).
        words: float32 (B, C, L, E), the word vectors of C captions for each picture.
        mask: bool (B, C, L), False at padding.
        uniform: bool (B, C), True where α = 1/D (Eq. 8).

    Outputs:
        w2r: float32 (B, C), Y of Eq. 6.
        alpha: float32 (B, C, L, D), Eq. 1; zero for padding.

    Args:
        l2: δ of Eq. 18.
    """
    regions = tf.keras.Input((None, config.M), name="regions")
    words = tf.keras.Input((None, None, config.E), name="words")
    mask = tf.keras.Input((None, None), dtype="bool", name="mask")
    uniform = tf.keras.Input((None,), dtype="bool", name="uniform")

    scaled = FeatureNorm(config.region_norm, dtype="float32", name="region_norm")(regions)
    attention = WordToRegionAttention(
        l2=l2, scale=config.attention_scale, cosine=config.cosine_attention, name="w2r_attention"
    )
    u, alpha = attention([words, scaled, mask, uniform])  # Eq. 4
    parts = [u, words]
    if config.fusion:
        Av, Bt = project(config, l2, "w2r_fusion", drop_for_bilinear(config, "w2r_fusion_dropout", 3, scaled), words)
        Au = AttendedProjections(name="w2r_fusion_attended")([alpha, Av])
        parts.append(tf.keras.layers.Multiply(name="w2r_fusion_product")([Au, Bt]))
    c = tf.keras.layers.Concatenate(name="w2r_concat")(parts)  # c = [u ; t], (B, C, L, M + E)
    c = MergePairs(name="w2r_pairs")(c)
    if config.dropout:
        c = ReplayableDropout(config.dropout, seed=1, name="w2r_dropout")(c)
    lstm = tf.keras.layers.LSTM(
        config.H, kernel_regularizer=regularizer(l2), recurrent_regularizer=regularizer(l2), name="w2r_lstm"
    )
    last = lstm(c, mask=MergePairs(name="w2r_mask")(mask))  # (B C, H)
    y = mlp(config.w2r_mlp, l2, "w2r_mlp", last, silent=config.bilinear)  # Eq. 5
    y = SplitPairs(dtype="float32", name="w2r_score")([y, words])  # Eq. 6
    if config.bilinear:
        beside = BilinearScore(weighted=config.weighted_lengths, dtype="float32", name="w2r_bilinear")([Bt, Au, mask])
        y = tf.keras.layers.Add(dtype="float32", name="w2r_sum")([y, beside])
    inputs = {"regions": regions, "words": words, "mask": mask, "uniform": uniform}
    return tf.keras.Model(inputs, {"w2r": y, "alpha": alpha}, name="w2r")
