"""Ranking losses over the scores of a picture with its caption and with K others.

Every loss takes scores float32 (B, 1 + K): column 0 is the positive pair (V_i, T_i), column k a negative one.
With `--negative-source batch` column k holds the pair (V_i, T_{i+k}); caption j was scored with V_j and V_{j-k}, too.
A `symmetric` loss then ranks the pictures of each caption as well. The targets are not looked at.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.tools.stack import register


def caption_view(scores: tf.Tensor) -> tf.Tensor:
    """Re-order scores (V_i, T_{i+k}) of shape (B, 1 + K) so that row j holds all scores of caption j."""
    columns = tf.unstack(scores, axis=1)
    return tf.stack([tf.roll(column, k, axis=0) for k, column in enumerate(columns)], axis=1)  # (B, 1 + K)


class _RankingLoss(tf.keras.losses.Loss):
    """Mean of `row_loss`, (B, 1 + K) -> (B,), over the batch; over both directions if `symmetric`."""

    def __init__(self, symmetric: bool, name: str):
        super().__init__(name=name)  # reduction AUTO: the mean over the global batch, also under a strategy
        self.symmetric = symmetric

    def call(self, y_true, y_pred):
        del y_true
        loss = self.row_loss(y_pred)  # (B,)
        return 0.5 * (loss + self.row_loss(caption_view(y_pred))) if self.symmetric else loss

    def get_config(self):
        return {"symmetric": self.symmetric, "name": self.name}


@register
class PairwiseHinge(_RankingLoss):
    """max[0, margin - Y + Y⁻] (Eq. 7 and 17; margin is their M, above 0), averaged over the negatives and the batch."""

    def __init__(self, margin: float = 0.2, symmetric: bool = False, name: str = "pairwise_hinge"):
        super().__init__(symmetric, name)
        self.margin = margin

    def row_loss(self, scores):
        return tf.reduce_mean(tf.nn.relu(self.margin - scores[:, :1] + scores[:, 1:]), axis=1)  # Eq. 7, 17

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}


@register
class RankingSoftmax(_RankingLoss):
    """-log softmax of the positive among its K negatives: InfoNCE (van den Oord et al., 2018), no temperature."""

    def __init__(self, symmetric: bool = False, name: str = "ranking_softmax"):
        super().__init__(symmetric, name)

    def row_loss(self, scores):
        return -tf.nn.log_softmax(scores, axis=1)[:, 0]


@register
class ActiveHinges(tf.keras.metrics.Mean):
    """Share of the negatives whose hinge max[0, margin - Y + Y⁻] is above 0; 0 means that nothing is learned."""

    def __init__(self, margin: float = 0.2, name: str = "active", **kwargs):
        super().__init__(name=name, **kwargs)
        self.margin = margin

    def update_state(self, y_true, y_pred, sample_weight=None):
        del y_true, sample_weight
        return super().update_state(tf.cast(self.margin - y_pred[:, :1] + y_pred[:, 1:] > 0, tf.float32))

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}
