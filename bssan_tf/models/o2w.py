"""The object-to-words network of the paper (Fig. 4): a Bi-LSTM over the caption, attention of each object, an MLP.

Two functional models (Eq. 9-16): the text side, which knows no picture, and the rest, from objects and word states to
Y' and β. So the text side runs once for each caption, however many pictures it is compared with. What `improved` adds
is in models/improved.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from bssan_tf.config.settings import ModelConfig
from bssan_tf.models.attention import ObjectToWordAttention
from bssan_tf.models.blocks import Network, mlp, regularizer
from bssan_tf.models.layers import KeepValidObjects, MeanOverObjects, RepeatForCaptions


def build_o2w_text(config: ModelConfig, l2: float = 0.0) -> tf.keras.Model:
    """Word vectors to the states S of a Bi-LSTM with both directions averaged (section IV-B).

    Inputs: words float32 (N, L, E); mask bool (N, L), False at padding.
    Output: float32 (N, L, S).
    """
    words = tf.keras.Input((None, config.E), name="words")
    mask = tf.keras.Input((None,), dtype="bool", name="mask")
    penalty = regularizer(l2)
    lstm = tf.keras.layers.LSTM(
        config.S, return_sequences=True, kernel_regularizer=penalty, recurrent_regularizer=penalty, name="o2w_lstm"
    )
    states = tf.keras.layers.Bidirectional(lstm, merge_mode="ave", name="o2w_bilstm")(words, mask=mask)
    return tf.keras.Model({"words": words, "mask": mask}, states, name="o2w_text")


def o2w_inputs(config: ModelConfig) -> dict[str, tf.Tensor]:
    """Inputs of O2W behind its text side, for C captions beside each picture."""
    return {
        "objects": tf.keras.Input((None, config.Q), name="objects"),  # float32 (B, P, Q)
        "valid": tf.keras.Input((None,), dtype="bool", name="valid"),  # (B, P), False at padding, counted nowhere
        "states": tf.keras.Input((None, None, config.S), name="states"),  # float32 (B, C, L, S), the words' states
        "mask": tf.keras.Input((None, None), dtype="bool", name="mask"),  # (B, C, L), False at padding
        "uniform": tf.keras.Input((None,), dtype="bool", name="uniform"),  # (B, C), True where β is even (Eq. 8)
    }


def build_o2w(config: ModelConfig, l2: float = 0.0) -> Network:
    """The O2W network behind its text side, inputs as `o2w_inputs`; `l2` is δ of Eq. 18.

    Outputs:
        o2w: float32 (B, C), Y' of Eq. 16.
        beta: float32 (B, C, P, L), Eq. 9; zero for padding.
    """
    inputs = o2w_inputs(config)
    objects, valid, states, mask, uniform = inputs.values()
    attention = ObjectToWordAttention(l2, config.even_attention, name="o2w_attention")
    u, beta = attention([objects, states, mask, uniform])  # Eq. 9-12
    repeated = RepeatForCaptions(name="o2w_objects")([objects, states])
    c = tf.keras.layers.Concatenate(name="o2w_concat")([repeated, u])  # c = [o ; u], (B, C, P, Q + S)
    y = score_objects(config, l2, c, valid)
    return Network(tf.keras.Model(inputs, {"o2w": y, "beta": beta}, name="o2w"), attention, words_ask=False)


def score_objects(config: ModelConfig, l2: float, c: tf.Tensor, valid: tf.Tensor, drop=None, silent: bool = False):
    """The MLP over c (B, C, P, F), and its mean over the objects of valid (B, P): Y', float32 (B, C) (Eq. 13-16).

    `drop` is a layer before the MLP, or None; `silent` as of `mlp`.
    """
    rows = KeepValidObjects(name="o2w_rows")([c, valid])  # (R, F)
    rows = drop(rows) if drop else rows
    y = mlp(config.o2w_mlp, l2, "o2w_mlp", c.shape[-1], silent)(rows)  # Eq. 13
    return MeanOverObjects(dtype="float32", name="o2w_score")([y, c, valid])  # Eq. 14


FORGET = -1.0  # bias of the Bi-LSTM's forget gates: they start at sigmoid(-1) = 0.27, so a state is mostly its word
GATES = 0.1  # factor on random weights that are left: the Bi-LSTM's other gates start half open for every word
STATE_GAIN = 0.3  # from a word's dimensions to the Bi-LSTM's candidate; input and output gates together quarter it


def start_text(text: tf.keras.Model, first: int, d: int) -> None:
    """Let the Bi-LSTM's candidates begin as the dimensions `first` ... of the words, d of them."""
    both = text.get_layer("o2w_bilstm")
    for layer in (both.forward_layer, both.backward_layer):
        kernel, recurrent, bias = layer.get_weights()  # gates i, f, c, o
        S = len(recurrent)
        candidates = 2 * S + np.arange(d)
        kernel *= GATES
        kernel[:, candidates] = 0  # else GloVe's common mean would be in every state
        kernel[first + np.arange(d), candidates] = STATE_GAIN
        recurrent *= GATES
        bias[:] = 0
        bias[S : 2 * S] = FORGET
        layer.set_weights([kernel, recurrent, bias])
