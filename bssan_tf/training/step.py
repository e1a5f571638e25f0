"""What a model is trained with: losses and their weights, metrics, optimizer, and precision of the products.

In: a Bssan or its siamese network, and the run's Config. Out: the network compiled, or a copy that is trained instead.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import TrainingConfig
from bssan_tf.models.bssan import Bssan
from bssan_tf.tools.stack import build_losses
from bssan_tf.training.losses import ActiveHinges, PairwiseHinge, RankingSoftmax
from bssan_tf.training.optimizers import TwoRateAdam, TwoRateSGD


def compile_siamese(siamese: tf.keras.Model, config: Config) -> None:
    """Losses of Eq. 7 and 17 with the weights of Eq. 18 (δ is in the layers), or one loss on `score`; the optimizer."""
    training, names = config.training, list(siamese.output)
    weights = {"w2r": 1.0, "o2w": config.model.o2w_weight if "w2r" in names else 1.0}
    weights |= {f"{name}_all": training.all_pairs * weight for name, weight in weights.items()} | {"score": 1.0}
    weights = {name: weights[name] for name in names}
    losses = {name: _loss(training, of_all=name.endswith("_all")) for name in names}
    prefix = "" if len(names) > 1 else f"{names[0]}_"  # Keras prefixes the metrics of several outputs itself
    options = {"o2w_rate": training.o2w_rate, "learning_rate": training.learning_rate}
    options["global_clipnorm"] = training.clip_norm or None
    sgd = training.optimizer == "sgd"
    optimizer = TwoRateSGD(**options, momentum=training.momentum) if sgd else TwoRateAdam(**options)
    metrics = {name: _metrics(losses[name], training.margin, prefix) for name in names}
    siamese.compile(optimizer, loss=losses, loss_weights=weights, metrics=metrics, jit_compile=False)
    optimizer.build(siamese.trainable_variables)  # now, so that a saved state finds its slots
    build_losses(siamese, training.batch_size)


def _loss(training: TrainingConfig, of_all: bool) -> tf.keras.losses.Loss:
    """The ranking loss, in both directions where each caption was scored with as many pictures, too."""
    symmetric = of_all or training.negative_source == "batch"
    return PairwiseHinge(training.margin, symmetric) if training.loss == "hinge" else RankingSoftmax(symmetric)


def spent_loss(training: TrainingConfig) -> float:
    """A ranking loss below this leaves nothing to learn."""
    return 0.02 if training.loss == "softmax" else 0.02 * training.margin


def copy_of(model: Bssan, mixed_precision: bool) -> Bssan:
    """A model with the same weights, products in bfloat16 where `mixed_precision`; weights and scores are float32."""
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if mixed_precision else "float32")
    try:
        other = Bssan(model.config, model.vocabulary_size, model.l2)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    other.scorer.set_weights(model.scorer.get_weights())
    return other


def _metrics(loss, margin: float, prefix: str) -> list[tf.keras.metrics.Metric]:
    """Ranking loss without the L2 term, and share of active hinges."""
    ranking = tf.keras.metrics.MeanMetricWrapper(loss.call, name=f"{prefix}ranking")
    return [ranking, ActiveHinges(margin, name=f"{prefix}active")]
