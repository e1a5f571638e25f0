"""What a model is trained with: its losses and their weights, metrics, optimizer, and precision of the products.

In: a Bssan or its siamese network, and the run's Config. Out: the siamese network compiled in place, ready to fit, or
a copy of the model that multiplies in bfloat16.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.config import Config
from bssan_tf.losses import ActiveHinges, PairwiseHinge, RankingSoftmax
from bssan_tf.models.bssan import Bssan
from bssan_tf.optimizers import TwoRateAdam, TwoRateSGD


def compile_siamese(siamese: tf.keras.Model, config: Config) -> None:
    """Losses of Eq. 7 and 17 with the weights of Eq. 18 (δ is in the layers), and the optimizer."""
    training = config.training
    symmetric = training.negative_source == "batch"
    if training.loss == "hinge":
        loss = PairwiseHinge(training.margin, symmetric)
    else:
        loss = RankingSoftmax(symmetric)
    rates = {"learning_rate": training.learning_rate, "o2w_rate": training.o2w_rate}
    clip = training.clip_norm or None
    if training.optimizer == "sgd":
        optimizer = TwoRateSGD(**rates, momentum=training.momentum, global_clipnorm=clip)
    else:
        optimizer = TwoRateAdam(**rates, global_clipnorm=clip)
    names = list(siamese.output)
    weights = {"w2r": 1.0, "o2w": config.model.o2w_weight if "w2r" in names else 1.0}
    weights |= {f"{name}_all": training.all_pairs * weight for name, weight in weights.items()}
    siamese.compile(
        optimizer=optimizer,
        loss={name: loss for name in names},
        loss_weights={name: weights[name] for name in names},
        metrics={name: _metrics(loss, training.margin, "" if len(names) > 1 else f"{name}_") for name in names},
    )
    optimizer.build(siamese.trainable_variables)  # now, so that a saved state finds its slots


def in_bfloat16(model: Bssan) -> Bssan:
    """A model with the same weights whose products are in bfloat16; weights and scores stay float32."""
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        other = Bssan(model.config, model.vocabulary_size, model.l2)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    other.scorer.set_weights(model.scorer.get_weights())
    return other


def _metrics(loss, margin: float, prefix: str) -> list[tf.keras.metrics.Metric]:
    """Ranking loss without the L2 term, and share of active hinges. Keras prefixes them where outputs are several."""
    ranking = tf.keras.metrics.MeanMetricWrapper(loss.call, name=f"{prefix}ranking")
    return [ranking, ActiveHinges(margin, name=f"{prefix}active")]
