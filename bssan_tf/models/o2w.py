"""The object-to-words network (Fig. 4): a Bi-LSTM over the caption, attention of each object, an MLP (Eq. 9-16).

Two functional models: the text side, which knows no picture, and the rest, from objects and word states to Y'
and β. So the text side runs once for each caption, however many pictures it is compared with.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.config.schema import ModelConfig
from bssan_tf.models.attention import ObjectToWordAttention
from bssan_tf.models.layers import (
    BilinearScore,
    FeatureNorm,
    KeepValidObjects,
    MeanOverObjects,
    RepeatForCaptions,
    ReplayableDropout,
)
from bssan_tf.models.pairing import PairCaptions
from bssan_tf.models.w2r import drop_for_bilinear, mlp, project, regularizer


def build_o2w_text(config: ModelConfig, l2: float = 0.0) -> tf.keras.Model:
    """Word vectors to the states S of a Bi-LSTM with both directions averaged (section IV-B).

    Inputs: words float32 (N, L, E); mask bool (N, L), False at padding.
    Output: float32 (N, L, S).
    """
    words = tf.keras.Input((None, config.E), name="words")
    mask = tf.keras.Input((None,), dtype="bool", name="mask")
    lstm = tf.keras.layers.LSTM(
        config.S,
        return_sequences=True,
        kernel_regularizer=regularizer(l2),
        recurrent_regularizer=regularizer(l2),
        name="o2w_lstm",
    )
    states = tf.keras.layers.Bidirectional(lstm, merge_mode="ave", name="o2w_bilstm")(words, mask=mask)
    return tf.keras.Model({"words": words, "mask": mask}, states, name="o2w_text")


def build_o2w(config: ModelConfig, l2: float = 0.0) -> tf.keras.Model:
    """The O2W network behind its text side, as a functional model.

    Inputs:
        objects: float32 (B, P, Q).
        valid: bool (B, P), False at padded objects, which count nowhere.
        states: float32 (B, C, L, S), word states of C captions for each picture.
        mask: bool (B, C, L), False at padding.
        uniform: bool (B, C), True where β is the same for every word (Eq. 8).

    Outputs:
        o2w: float32 (B, C), Y' of Eq. 16.
        beta: float32 (B, C, P, L), Eq. 9; zero for padding.
    """
    objects = tf.keras.Input((None, config.Q), name="objects")
    valid = tf.keras.Input((None,), dtype="bool", name="valid")
    states = tf.keras.Input((None, None, config.S), name="states")
    mask = tf.keras.Input((None, None), dtype="bool", name="mask")
    uniform = tf.keras.Input((None,), dtype="bool", name="uniform")

    scaled = FeatureNorm(config.object_norm, dtype="float32", name="object_norm")(objects)
    scale = config.attention_scale if config.o2w_attention_scale is None else config.o2w_attention_scale
    attention = ObjectToWordAttention(l2=l2, scale=scale, cosine=config.cosine_attention, name="o2w_attention")
    u, beta = attention([scaled, states, mask, uniform])  # Eq. 12
    repeated = RepeatForCaptions(name="o2w_objects")([scaled, states])
    parts = [repeated, u]
    if config.fusion:
        Ao, Bu = project(config, l2, "o2w_fusion", drop_for_bilinear(config, "o2w_fusion_dropout", 4, scaled), u)
        Ao = PairCaptions("own", name="o2w_projected")(Ao)  # (B, 1, P, F), the same for every caption
        parts.append(tf.keras.layers.Multiply(name="o2w_fusion_product")([Ao, Bu]))
    c = tf.keras.layers.Concatenate(name="o2w_concat")(parts)  # c = [o ; u], (B, C, P, Q + S)
    rows = KeepValidObjects(name="o2w_rows")([c, valid])
    if config.dropout:
        rows = ReplayableDropout(config.dropout, seed=2, name="o2w_dropout")(rows)
    y = mlp(config.o2w_mlp, l2, "o2w_mlp", rows, silent=config.bilinear)  # Eq. 13
    y = MeanOverObjects(dtype="float32", name="o2w_score")([y, c, valid])  # Eq. 14
    if config.bilinear:
        real = PairCaptions("own", name="o2w_real")(valid)
        beside = BilinearScore(weighted=config.weighted_lengths, dtype="float32", name="o2w_bilinear")([Ao, Bu, real])
        y = tf.keras.layers.Add(dtype="float32", name="o2w_sum")([y, beside])
    inputs = {"objects": objects, "valid": valid, "states": states, "mask": mask, "uniform": uniform}
    return tf.keras.Model(inputs, {"o2w": y, "beta": beta}, name="o2w")
