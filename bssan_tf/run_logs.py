"""Keras callbacks that write down what a run does: throughput, TensorBoard's pictures and settings, history.csv.

They read the epoch's logs, which RetrievalValidation of callbacks.py has filled before, and change nothing else.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.config import Config
from bssan_tf.files import write_text


class Throughput(tf.keras.callbacks.Callback):
    """Adds `pairs_per_s`, positive and negative pairs trained on per second, to the logs of batches and epochs.
    Of another unit, its own name: `photos_per_s`.

    The first step of an epoch is not counted: it may build the graph, or wait for the first batch.

    Args:
        per_step: how many a step has; of pairs B (1 + K).
        unit: what is counted.
    """

    def __init__(self, per_step: int, unit: str = "pairs"):
        super().__init__()
        self.per_step, self.name = per_step, f"{unit}_per_s"

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.steps, self.rate = None, 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        if self.start is None:
            self.start = time.perf_counter()
            return
        self.steps += 1
        self.rate = self.steps * self.per_step / max(time.perf_counter() - self.start, 1e-9)
        logs[self.name] = self.rate

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.rate


class AttentionImages(tf.keras.callbacks.Callback):
    """Write the attention pictures of a few fixed pairs to TensorBoard after every `every` epochs.

    Args:
        logs: TensorBoard's folder.
        draw: returns {title: uint8 (H, W, 3)}.
    """

    def __init__(self, logs: Path, draw: Callable[[], dict[str, np.ndarray]], every: int = 1):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(logs))
        self.draw, self.every = draw, every

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self.every == 0:
            with self.writer.as_default():
                for title, image in self.draw().items():
                    tf.summary.image(title, image[None], step=epoch)
                self.writer.flush()


class RunHparams(tf.keras.callbacks.Callback):
    """Show the run's settings in TensorBoard's HParams tab, beside its rsum.

    Args:
        logs: TensorBoard's folder.
        config: the run's config.
    """

    def __init__(self, logs: Path, config: Config):
        super().__init__()
        self.logs, self.config = logs, config

    def on_train_begin(self, logs=None):
        from tensorboard.plugins.hparams import api as hp

        values = {"preset": self.config.preset, "size": self.config.size}
        for section in (self.config.model, self.config.training):
            values |= {name: _shown(value) for name, value in dataclasses.asdict(section).items()}
        # TensorBoard takes a session's metrics from its folder and those below: train/ and validation/
        with tf.summary.create_file_writer(str(self.logs)).as_default():
            hp.hparams(values, trial_id=self.logs.parent.name)


def _shown(value):
    return value if isinstance(value, (bool, int, float, str)) else str(value)


class HistoryFile(tf.keras.callbacks.Callback):
    """Append each epoch's numbers to a CSV file; epochs that a resumed run repeats are replaced."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        rows = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
        rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())
