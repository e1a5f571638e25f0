"""The words-to-regions network of the paper (Fig. 3): attention of each word, an LSTM, an MLP, one score a pair.

`build_w2r` makes it as a functional model of its own, from word vectors and region features to Y and α (Eq. 1-6).
In place of the LSTM, `w2r_text` cnn has the sentence CNN of Kim (EMNLP 2014). What `improved` adds is in
models/improved.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.config.settings import ModelConfig
from bssan_tf.models.attention import WordToRegionAttention
from bssan_tf.models.blocks import Network, mlp, regularizer
from bssan_tf.models.layers import MaxOverTime, RealWords
from bssan_tf.models.pairing import MergePairs, SplitPairs

WIDTHS = (2, 3, 4)  # words of a window of the CNN


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
    attention = WordToRegionAttention(l2, config.even_attention, name="w2r_attention")
    u, alpha = attention([words, regions, mask, uniform])  # Eq. 1-4
    c = tf.keras.layers.Concatenate(name="w2r_concat")([u, words])  # c_k = [u_k ; t_k], (B, C, L, M + E)
    y = score_words(config, l2, c, mask)
    return Network(tf.keras.Model(inputs, {"w2r": y, "alpha": alpha}, name="w2r"), attention)


def score_words(config: ModelConfig, l2: float, c: tf.Tensor, mask: tf.Tensor, drop=None, silent: bool = False):
    """LSTM or CNN, and MLP over c (B, C, L, F), masked by (B, C, L): Y, float32 (B, C) (Eq. 5, 6).

    `drop` is a layer before the LSTM or CNN, or None; `silent` as of `mlp`.
    """
    rows = MergePairs(name="w2r_pairs")(c)  # (B C, L, F)
    rows = drop(rows) if drop else rows
    read = _read_windows if config.w2r_text == "cnn" else _read_in_order
    text = read(config, l2, rows, MergePairs(name="w2r_mask")(mask))  # (B C, H) or (B C, 3 H)
    y = mlp(config.w2r_mlp, l2, "w2r_mlp", text.shape[-1], silent)(text)  # Eq. 5
    return SplitPairs(dtype="float32", name="w2r_score")([y, c])  # Eq. 6


def _read_in_order(config: ModelConfig, l2: float, rows: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The LSTM's last state, (N, H), for rows (N, L, F) and mask (N, L)."""
    lstm = tf.keras.layers.LSTM(
        config.H, kernel_regularizer=regularizer(l2), recurrent_regularizer=regularizer(l2), name="w2r_lstm"
    )
    return lstm(rows, mask=mask)


def _read_windows(config: ModelConfig, l2: float, rows: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Kim's CNN: H filters of each of `WIDTHS`, relu, max over time, side by side: (N, 3 H); arguments as above.

    A window begins at each real word; what it reaches beyond the caption is 0, so that any caption has windows.
    """
    rows, found = RealWords(name="w2r_cnn_words")([rows, mask]), []
    for width in WIDTHS:
        padded = tf.keras.layers.ZeroPadding1D((0, width - 1), name=f"w2r_cnn{width}_padded")(rows)
        windows = tf.keras.layers.Conv1D(
            config.H, width, activation="relu", kernel_regularizer=regularizer(l2), name=f"w2r_cnn{width}"
        )(padded)  # (N, L, H)
        found.append(MaxOverTime(name=f"w2r_cnn{width}_max")([windows, mask]))
    return tf.keras.layers.Concatenate(name="w2r_cnn")(found)
