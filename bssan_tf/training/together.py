"""Training by several workers: the loop that Keras 3 has not for them, and callbacks that keep them alike.

The chief alone validates, judges and writes; the others hear from it how an epoch has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from bssan_tf.config.flags import moving_fields
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import fields_of
from bssan_tf.runs.folder import versions
from bssan_tf.tools.workers import Team


def fit_together(
    siamese: tf.keras.Model,
    team: Team,
    dataset: Callable[[], tf.data.Dataset],
    callbacks: Sequence[tf.keras.callbacks.Callback],
    epochs: int,
    initial_epoch: int,
    steps_per_epoch: int,
) -> None:
    """`Model.fit` under MultiWorkerMirroredStrategy, which Keras 3 refuses, and of which Keras 2 sums the metrics.

    `dataset` gives the batches of this worker's devices, in turns, each a share of the global one.
    """
    strategy = team.strategy

    @tf.function(autograph=False)
    def step(iterator):  # not a batch, of whose every length a graph would be traced
        told = strategy.run(siamese.train_step, args=(next(iterator),))
        names = sorted(told)
        rows = strategy.run(lambda values: tf.stack([values[name] for name in names]), args=(told,))
        means = strategy.reduce(tf.distribute.ReduceOp.MEAN, rows, axis=None)  # of all, in one message
        return dict(zip(names, tf.unstack(means)))

    turns = {"epochs": epochs, "steps": steps_per_epoch, "verbose": 0}
    told = tf.keras.callbacks.CallbackList(list(callbacks), model=siamese, **turns)
    batches = iter(strategy.distribute_datasets_from_function(lambda _: dataset()))
    siamese.stop_training = False
    told.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        siamese.reset_metrics()
        told.on_epoch_begin(epoch)
        for number in range(steps_per_epoch):
            told.on_train_batch_begin(number)
            logs = {name: float(value) for name, value in step(batches).items()}
            told.on_train_batch_end(number, logs)
        told.on_epoch_end(epoch, logs)
        if siamese.stop_training:
            break
    told.on_train_end(logs if epochs > initial_epoch else None)


def agree_on_settings(team: Team, config: Config, **more) -> None:
    """UserError, on all workers, where one has other versions or settings; where files lie may differ."""
    own = {name: value for name, value in versions().items() if name != "platform"}
    settings = {name: config[name] for name in fields_of() if name not in moving_fields()}
    team.agree({**own, **settings, **more})


class Hear(tf.keras.callbacks.Callback):
    """At the end of an epoch, what the chief's callbacks before this one have decided is so on all workers."""

    def __init__(self, team: Team):
        super().__init__()
        self.team = team

    def on_epoch_end(self, epoch, logs=None):
        rate = self.model.optimizer.learning_rate
        plain = {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
        heard = self.team.of_chief({"rate": float(rate.numpy()), "stop": self.model.stop_training, "logs": plain})
        rate.assign(heard["rate"])
        self.model.stop_training = heard["stop"]
        if not self.team.chief:
            logs.update(heard["logs"])
