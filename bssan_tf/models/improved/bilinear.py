"""The fusion (A u)∘(B t), and a score beside the MLP's that is its normalised sum."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from bssan_tf.models.attention import attended
from bssan_tf.models.blocks import regularizer
from bssan_tf.tools.stack import in_own_dtype, register

SHY = 0.1  # factor on the random weights of A that a start leaves: they count in the bilinear score's lengths
LEAST_GAIN = 0.1  # of a dimension that does not vary, in units of the root mean square: at 0 it would stay there


class Fusion:
    """A visual and B textual: float (..., Q) and (..., S) to (..., F) each.

    `size` is F and `l2` is δ of Eq. 18; the two layers are `name`_A and `name`_B.
    """

    def __init__(self, size: int, l2: float, name: str):
        self.A, self.B = (
            tf.keras.layers.Dense(size, use_bias=False, kernel_regularizer=regularizer(l2), name=f"{name}_{side}")
            for side in "AB"
        )

    def __call__(self, visual: tf.Tensor, textual: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.A(visual), self.B(textual)

    def project(self, visual: np.ndarray) -> np.ndarray:
        """A visual, outside of the graph: float32 (n, Q) to (n, F)."""
        return visual @ self.A.get_weights()[0]

    def start_from(self, maps: np.ndarray, first: int) -> None:
        """A from `maps` (Q, d), B picks the dimensions `first` ... of the text; what is left is near 0."""
        A, B = (layer.get_weights()[0] for layer in (self.A, self.B))
        d = maps.shape[1]
        A *= SHY
        A[:, :d] = maps
        B[:] = 0  # what is left of B is learned; at random it would drown what the CCA knows
        B[first + np.arange(d), np.arange(d)] = 1
        self.A.set_weights([A])
        self.B.set_weights([B])


@register
class AttendedProjections(tf.keras.layers.Layer):
    """A u of each word from the projected regions, as Σ_i α_i A v_i: cheaper where a picture has several captions.

    Call arguments (a list): alpha float (B, C, L, D), projections A v float (B, D, F). Returns float (B, C, L, F).
    """

    def call(self, inputs):
        alpha, projections = in_own_dtype(self, *inputs)
        return attended(alpha, projections)


@register
class BilinearScore(tf.keras.layers.Layer):
    """s Σ_k <q_k, a_k / |a_k|> / |Σ_k q_k|: how well queries fit what they attend to; the length of q_k is its weight.

    Where all queries attend alike, it is s times the cosine of their sum with what is attended to: from a CCA's
    projections, the CCA's score. Compare the word-region similarity of SCAN (Lee et al., ECCV 2018).

    With weighted lengths |x| is √Σ_f (g_f x_f)². Where g holds the deviations of the other side's dimensions, a length
    is the deviation of a caption's scores over pictures, or of a picture's over captions. Without this normalisation,
    captions of widely spread scores win for every picture (Auckenthaler et al., Digital Signal Processing 2000).

    Args:
        scale: start of s, which is learned.
        weighted: lengths have learned weights g, `query_gain` and `attended_gain`, float (F,), which start at 1.

    Call arguments (a list):
        queries, attended: float (B, C, K, F); B t and A u of each word (W2R), A o and B u of each object (O2W).
        mask: bool (B, C, K), False at padding, which counts nowhere.
            Queries and mask may have 1 in place of B or C.

    Returns:
        float (B, C); 0 where there is no query.
    """

    def __init__(self, scale: float = 14.0, weighted: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.weighted = weighted

    def build(self, input_shape):
        start = tf.keras.initializers.Constant(math.log(self.scale))
        self.log_scale = self.add_weight(name="log_scale", shape=(), initializer=start)
        if self.weighted:
            for side in ("query_gain", "attended_gain"):
                setattr(self, side, self.add_weight(name=side, shape=input_shape[0][-1:], initializer="ones"))
        super().build(input_shape)

    def call(self, inputs):
        queries, attended, mask = inputs
        queries, attended, log_scale = in_own_dtype(self, queries, attended, self.log_scale)
        queries *= tf.cast(mask, queries.dtype)[..., None]
        squares, total = attended * attended, tf.reduce_sum(queries, axis=-2)
        if self.weighted:  # a product of squares: g a itself would be one more array of (B, C, K, F)
            query_gain, attended_gain = in_own_dtype(self, self.query_gain, self.attended_gain)
            squares, total = tf.tensordot(squares, attended_gain**2, 1), query_gain * total
        else:
            squares = tf.reduce_sum(squares, axis=-1)
        fits = tf.reduce_sum(queries * attended, axis=-1) * _inverse_root(squares)  # (B, C, K)
        return tf.exp(log_scale) * tf.reduce_sum(fits, axis=-1) * inverse_length(total)[..., 0]

    def start_from(self, queries: np.ndarray, attended: np.ndarray) -> None:
        """Weighted lengths from samples of both sides, float (n, F) and (m, F): each becomes a deviation of scores."""
        if self.weighted:
            self.query_gain.assign(_gains(attended, queries))
            self.attended_gain.assign(_gains(queries, attended))

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "weighted": self.weighted}


def _gains(other: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Deviation of each dimension on the other side, (n, F), in units that keep the mean length of `vectors` (m, F).

    1 where the other side does not vary, or all vectors are 0.
    """
    gains = other.std(axis=0)
    if not gains.any() or not vectors.any():
        return np.ones_like(gains)
    gains = np.maximum(gains, LEAST_GAIN * np.sqrt(np.mean(gains**2)))
    lengths, weighted = (np.linalg.norm(x, axis=1).mean() for x in (vectors, gains * vectors))
    return gains * (lengths / weighted)


def inverse_length(x):
    """1 / |x| over the last axis, kept: (..., F) -> (..., 1); finite, also its gradient, where x is 0."""
    return _inverse_root(tf.reduce_sum(x * x, axis=-1, keepdims=True))


def _inverse_root(squares):
    return tf.math.rsqrt(squares + 1e-9)


def unit(x):
    """x / |x| over the last axis, 0 where x is 0."""
    return x * inverse_length(x)
