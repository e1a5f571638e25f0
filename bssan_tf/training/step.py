"""What a model is trained with: its losses and their weights, metrics, optimizer, and precision of the products.

In: a Bssan or its siamese network, and the run's Config. Out: the siamese network compiled in place, ready to fit, or
a copy of the model that is trained in its place.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.config.schema import Config, TrainingConfig
from bssan_tf.models.bssan import Bssan
from bssan_tf.training.losses import ActiveHinges, PairwiseHinge, RankingSoftmax
from bssan_tf.training.optimizers import TwoRateAdam, TwoRateSGD


def compile_siamese(siamese: tf.keras.Model, config: Config) -> None:
    """Losses of Eq. 7 and 17 with the weights of Eq. 18 (δ is in the layers), and the optimizer."""
    training = config.training
    names = list(siamese.output)
    weights = {"w2r": 1.0, "o2w": config.model.o2w_weight if "w2r" in names else 1.0}
    more = {"all": training.all_pairs, "pooled": training.pooled_pairs}
    weights |= {f"{name}_{kind}": factor * weights[name] for name in weights for kind, factor in more.items()}
    losses = {name: _loss(training, of_all=name.endswith(("_all", "_pooled"))) for name in names}
    prefixes = {name: "" if len(names) > 1 else f"{name}_" for name in names}
    optimizer = _optimizer(training)
    decaying = ("kernel:0", "/W:0")  # what the L2 term covers, too
    optimizer.exclude_from_weight_decay([v for v in siamese.trainable_variables if not v.name.endswith(decaying)])
    siamese.compile(
        optimizer=optimizer,
        loss=losses,
        loss_weights={name: weights[name] for name in names},
        metrics={name: _metrics(losses[name], training.margin, prefixes[name]) for name in names},
    )
    optimizer.build(siamese.trainable_variables)  # now, so that a saved state finds its slots
    # as are the means of what is logged: made in the first step, they would have it traced a second time
    siamese.compiled_loss.build(siamese.output)
    siamese.compiled_metrics.build(siamese.output, siamese.output)


def _loss(training: TrainingConfig, of_all: bool) -> tf.keras.losses.Loss:
    """The ranking loss, in both directions where each caption was scored with as many pictures, too."""
    symmetric = of_all or training.negative_source == "batch"
    if training.loss == "hinge":
        return PairwiseHinge(training.margin, symmetric, training.hinge)
    return RankingSoftmax(symmetric)


def spent_loss(training: TrainingConfig) -> float:
    """A ranking loss below this leaves nothing to learn; 0 where none would say so."""
    if training.loss == "softmax":
        return 0.02
    # a semi-hard hinge is 0 where every negative is above the positive, too
    return 0.02 * training.margin * {"sum": training.negatives, "semi_hard": 0}.get(training.hinge, 1)


def _optimizer(training: TrainingConfig) -> tf.keras.optimizers.Optimizer:
    options = {
        "learning_rate": training.learning_rate,
        "o2w_rate": training.o2w_rate,
        "global_clipnorm": training.clip_norm or None,
        "weight_decay": training.weight_decay or None,
        "use_ema": training.ema > 0,
        "ema_momentum": training.ema,
    }
    if training.optimizer == "sgd":
        return TwoRateSGD(**options, momentum=training.momentum)
    return TwoRateAdam(**options)


def trained_copy(model: Bssan, in_bfloat16: bool) -> Bssan:
    """A model with the same weights, for training; weights and scores are float32, products bfloat16 on request."""
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if in_bfloat16 else "float32")
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
