"""The words-to-regions network of the paper (Fig. 3): attention of each word, an LSTM, an MLP, one score a pair.

`build_w2r` makes it as a functional model of its own, from word vectors and region features to Y and α (Eq. 1-6).
What `improved` adds to it is in models/improved.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.config.settings import ModelConfig
from bssan_tf.models.attention import WordToRegionAttention
from bssan_tf.models.blocks import Network, mlp, regularizer
from bssan_tf.models.pairing import MergePairs, SplitPairs


def w2r_inputs(config: ModelConfig) -> dict[str, tf.Tensor]:
    """Inputs of W2R, for C captions beside each picture."""
    return {
        "regions": tf.keras.Input((None, config.M), name="regions"),  # float32 (B, D, M)
        "words": tf.keras.Input((None, None, config.E), name="words"),  # float32 (B, C, L, E), the words' vectors
        "mask": tf.keras.Input((None, None), dtype="bool", name="mask"),  # (B, C, L), False at padding
        "uniform": tf.keras.Input((None,), dtype="bool", name="uniform"),  # (B, C), True where α = 1/D (Eq. 8)
    }


def build_w2r(config: ModelConfig, l2: float = 0.0) -> Network:
    """The W2R network, inputs as `w2r_inputs`; `l2` is δ of Eq. 18.

    Outputs:
        w2r: float32 (B, C), Y of Eq. 6.
        alpha: float32 (B, C, L, D), Eq. 1; zero for padding.
    """
    inputs = w2r_inputs(config)
    regions, words, mask, uniform = inputs.values()
    attention = WordToRegionAttention(l2, name="w2r_attention")
    u, alpha = attention([words, regions, mask, uniform])  # Eq. 1-4
    c = tf.keras.layers.Concatenate(name="w2r_concat")([u, words])  # c_k = [u_k ; t_k], (B, C, L, M + E)
    y = score_words(config, l2, c, mask)
    return Network(tf.keras.Model(inputs, {"w2r": y, "alpha": alpha}, name="w2r"), attention)


def score_words(config: ModelConfig, l2: float, c: tf.Tensor, mask: tf.Tensor, drop=None, silent: bool = False):
    """LSTM and MLP over c (B, C, L, F), masked by (B, C, L): Y, float32 (B, C) (Eq. 5, 6).

    `drop` is a layer before the LSTM, or None; `silent` as of `mlp`.
    """
    rows = MergePairs(name="w2r_pairs")(c)  # (B C, L, F)
    rows = drop(rows) if drop else rows
    lstm = tf.keras.layers.LSTM(
        config.H, kernel_regularizer=regularizer(l2), recurrent_regularizer=regularizer(l2), name="w2r_lstm"
    )
    last = lstm(rows, mask=MergePairs(name="w2r_mask")(mask))  # (B C, H)
    y = mlp(config.w2r_mlp, l2, "w2r_mlp", config.H, silent)(last)  # Eq. 5
    return SplitPairs(dtype="float32", name="w2r_score")([y, c])  # Eq. 6
