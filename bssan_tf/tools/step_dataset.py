"""Batches that are a function of the step number, as a prefetching tf.data.Dataset.

So a resumed training goes on with the batches of an uninterrupted one. An error of that function is raised as itself,
where TensorFlow would wrap it into one of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError


class StepDataset:
    """Steps of a training as data.

    Args:
        batch: step, counted from 0 -> {name: array}.
        specs: shape and dtype of each array, by name.
        readers: threads that make batches, whose order stays that of the steps; None: one batch after the other.
        targets: what Keras compares the outputs with, the same at every step; None leaves them out.
    """

    def __init__(
        self,
        batch: Callable[[int], Mapping[str, np.ndarray]],
        specs: Mapping[str, tf.TensorSpec],
        readers: int | None = None,
        targets: Mapping[str, tf.Tensor] | None = None,
    ):
        self.batch, self.specs, self.readers, self.targets = batch, dict(specs), readers, targets
        self._error: UserError | OSError | None = None

    def steps(self, start: int, stop: int) -> tf.data.Dataset:
        """Steps start ... stop - 1, as {name: tensor}, or (inputs, targets)."""
        options = tf.data.Options()
        options.autotune.enabled = False  # nothing to tune, and its thread lets a run's end wait for up to a minute
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        in_order = None if self.readers is None else True
        dataset = tf.data.Dataset.range(start, stop).map(self._tensors, self.readers, deterministic=in_order)
        return dataset.prefetch(2).with_options(options)

    def _tensors(self, step):
        # not from_generator: ending one before its end can block for a minute
        arrays = tf.numpy_function(self._arrays, [step], [spec.dtype for spec in self.specs.values()])
        inputs = {name: tf.ensure_shape(a, spec.shape) for a, (name, spec) in zip(arrays, self.specs.items())}
        return inputs if self.targets is None else (inputs, dict(self.targets))

    def _arrays(self, step: np.ndarray) -> list[np.ndarray]:
        try:
            batch = self.batch(int(step))
        except (UserError, OSError) as error:
            self._error = error
            raise
        return [batch[name] for name in self.specs]

    @contextlib.contextmanager
    def own_errors(self) -> Iterator[None]:
        """Raise what went wrong in making a batch, where TensorFlow raises an error of its own instead."""
        try:
            yield
        except tf.errors.OpError as error:
            if self._error is None:
                raise
            raise self._error from error
