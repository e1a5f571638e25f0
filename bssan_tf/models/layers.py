"""Small layers that both networks are put together from: normalisation, masking, fusion, dropout.

Shapes use the legend; C counts the captions that each picture of the batch is paired with.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from bssan_tf.config.schema import WITH_STATISTICS

register = tf.keras.saving.register_keras_serializable(package="bssan_tf")


@register
class FeatureNorm(tf.keras.layers.Layer):
    """Scale of the visual features (..., M): `none`, `sqrt` (signed root), `l2` (unit rows), `sqrt_l2`, `standard` or
    `centred`.

    Raw conv5_4 activations reach 390 and saturate the tanh of Eq. 2; the paper's text has `none`. The last two have
    statistics, which `adapt` takes: `standard` is `sqrt_l2` and then (x - mean) / deviation of each number; `centred`
    is `sqrt`, less the mean of each number, by one deviation for all: what is strong in the map stays strong.

    Args:
        mode: see above.
    """

    def __init__(self, mode: str = "none", **kwargs):
        super().__init__(**kwargs)
        self.mode = mode

    @property
    def fitted(self) -> bool:
        """Whether the mode has statistics."""
        return self.mode in WITH_STATISTICS

    def build(self, input_shape):
        if self.fitted:
            shape = input_shape[-1:]
            self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros", trainable=False)
            self.variance = self.add_weight(name="variance", shape=shape, initializer="ones", trainable=False)
        super().build(input_shape)

    def adapt(self, features: np.ndarray) -> None:
        """Take the statistics from rows float (n, M) as stored; without effect in modes that have none."""
        if self.fitted:
            rows = self._scaled(tf.constant(features, tf.float32)).numpy().astype(np.float64)
            variance = rows.var(axis=0)
            if self.mode == "centred":
                variance[:] = variance.mean()
            self.mean.assign(rows.mean(axis=0))
            self.variance.assign(variance + 1e-8)  # a number that never varies stays finite

    def call(self, features):
        scaled = self._scaled(features)
        return (scaled - self.mean) * tf.math.rsqrt(self.variance) if self.fitted else scaled

    def _scaled(self, features):
        if self.mode in ("sqrt", "sqrt_l2", "standard", "centred"):
            features = _signed_root(features)
        return _unit(features) if self.mode in ("l2", "sqrt_l2", "standard") else features

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


def _signed_root(features):
    return tf.sign(features) * tf.sqrt(tf.abs(features))


def _unit(features):
    return tf.math.l2_normalize(features, axis=-1, epsilon=1e-12)


@register
class WordMask(tf.keras.layers.Layer):
    """tokens int32 (N, L) -> bool (N, L): True at words, False at padding."""

    def call(self, tokens):
        return tf.not_equal(tokens, 0)


@register
class KeepValidObjects(tf.keras.layers.Layer):
    """Rows of real objects only: (B, C, P, F) and valid (B, P) -> (R, F).

    So BatchNorm never sees a padded object.
    """

    def call(self, inputs):
        features, valid = inputs
        return tf.boolean_mask(features, _kept_pairs(_valid_pairs(features, valid)))


@register
class MeanOverObjects(tf.keras.layers.Layer):
    """Y' = mean of y' over a picture's real objects (Eq. 14): scores (R, 1) -> (B, C); 0 where there is no object.

    Call arguments (a list): scores (R, 1) as kept by KeepValidObjects, features (B, C, P, F), valid (B, P).
    """

    def call(self, inputs):
        scores, features, valid = inputs
        real = _valid_pairs(features, valid)  # (B, C, P)
        places = tf.where(_kept_pairs(real))
        per_object = tf.scatter_nd(places, scores[:, 0], tf.shape(real, out_type=tf.int64))
        real = tf.cast(real, scores.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(per_object * real, axis=-1), tf.reduce_sum(real, axis=-1))


def _kept_pairs(real):
    """`real`, or the very first place where none is: BatchNorm has no mean of no rows."""
    shape = tf.shape(real)
    first = tf.reshape(tf.equal(tf.range(tf.size(real)), 0), shape)
    return real | (first & ~tf.reduce_any(real))


def _valid_pairs(features, valid):
    return tf.broadcast_to(valid[:, None, :], tf.shape(features)[:3])


@register
class RepeatForCaptions(tf.keras.layers.Layer):
    """(B, P, ...) -> (B, C, P, ...), one copy for each caption; the second argument is any tensor (B, C, ...)."""

    def call(self, inputs):
        objects, paired = inputs
        shape = tf.shape(objects)
        return tf.broadcast_to(objects[:, None], tf.concat([shape[:1], tf.shape(paired)[1:2], shape[1:]], axis=0))


@register
class BilinearScore(tf.keras.layers.Layer):
    """s Σ_k <q_k, a_k / |a_k|> / |Σ_k q_k|: how well queries fit what they attend to; the length of q_k is its weight.

    Under the same attention for every query it is s times the cosine of the queries' sum with what is attended to, so
    that from a CCA's projections the score is the CCA's. As the word-region similarity of SCAN (Lee et al., ECCV 2018).

    With weighted lengths |x| is √Σ_f (g_f x_f)². Where g of one side is what the numbers of the other vary by, a length
    is the deviation of a caption's scores over pictures, or of a picture's over captions, as in the score normalisation
    of speaker verification (Auckenthaler et al., Digital Signal Processing 2000): otherwise captions whose scores
    spread wide are found for every picture.

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
        queries *= tf.cast(mask, queries.dtype)[..., None]
        squares, total = attended * attended, tf.reduce_sum(queries, axis=-2)
        if self.weighted:  # a product of squares: g a itself would be one more array of (B, C, K, F)
            squares, total = tf.linalg.matvec(squares, self.attended_gain**2), self.query_gain * total
        else:
            squares = tf.reduce_sum(squares, axis=-1)
        fits = tf.reduce_sum(queries * attended, axis=-1) * _inverse_root(squares)  # (B, C, K)
        return tf.exp(self.log_scale) * tf.reduce_sum(fits, axis=-1) * inverse_length(total)[..., 0]

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "weighted": self.weighted}


def inverse_length(x):
    """1 / |x| over the last axis, kept: (..., F) -> (..., 1); finite, also its gradient, where x is 0."""
    return _inverse_root(tf.reduce_sum(x * x, axis=-1, keepdims=True))


def _inverse_root(squares):
    return tf.math.rsqrt(squares + 1e-9)


def unit(x):
    """x / |x| over the last axis, 0 where x is 0."""
    return x * inverse_length(x)


@register
class ReplayableDropout(tf.keras.layers.Layer):
    """Dropout whose masks depend on seed and step alone, so that a resumed run draws the masks it would have drawn.
    Each replica has masks of its own.

    Keras' own Dropout keeps the state of its generator outside checkpoints; here the step is a weight.

    Args:
        rate: share of the entries set to zero in training; the rest is scaled by 1 / (1 - rate).
        seed: masks differ between layers of different seeds.
        shared: axes along which the mask is the same; (-1,) drops whole vectors, words for example.
    """

    def __init__(self, rate: float, seed: int = 0, shared: tuple[int, ...] = (), **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.shared = tuple(shared)

    def build(self, input_shape):
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(self, features, training=None):
        if not training:
            return features
        self.step.assign_add(1)
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0  # none while a graph is put together
        seed = tf.stack([self.seed + 1000 * replica, self.step.read_value()])
        noise = tf.unstack(tf.shape(features))
        for axis in self.shared:
            noise[axis] = 1
        return tf.nn.experimental.stateless_dropout(features, self.rate, seed=seed, noise_shape=noise)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed, "shared": self.shared}


@register
class MatchingScore(tf.keras.layers.Layer):
    """MS = Y + λ Y' (Eq. 19).

    Args:
        weight: λ.
    """

    def __init__(self, weight: float = 0.6, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, inputs):
        w2r, o2w = inputs
        return w2r + self.weight * o2w

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
