"""Keras callbacks that every training has, of the matcher and of the detector alike: speed and history.

Out: a CSV of the epochs, TensorBoard's curves, and one clear error where a loss is no number.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.reading.documents import read_text
from bssan_tf.tools.files import write_text


class Throughput(tf.keras.callbacks.Callback):
    """Adds `pairs_per_s`, positive and negative pairs trained on per second, to the logs of batches and epochs.

    The first step of an epoch is not counted: it may build the graph, or wait for the first batch.

    Args:
        per_step: how many a step has; of pairs B (1 + K).
        unit: what is counted; of photos the name is `photos_per_s`.
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


class HistoryFile(tf.keras.callbacks.Callback):
    """Append each epoch's numbers to a CSV file; epochs that a resumed run repeats are replaced."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        rows = [row for row in read_history(self.path) if int(row["epoch"]) <= epoch]
        # Keras 3's plateau calls `learning_rate` what stands there as `lr` on both stacks
        told = {name: float(value) for name, value in logs.items() if name != "learning_rate"}
        rows.append({"epoch": epoch + 1, **told})
        columns = list(dict.fromkeys(name for row in reversed(rows) for name in row))  # earlier rows may have others
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


def read_history(path: Path) -> list[dict[str, str]]:
    """The rows of a `HistoryFile`, none where it isn't there yet; UserError where it is damaged."""
    remedy = "it is only a record: mend it, or move it away"
    rows = list(csv.DictReader(io.StringIO(read_text(path, remedy)))) if os.path.lexists(path) else []
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values() or not row.get("epoch", "").isdecimal():
            raise UserError(f"{path}: line {line} is not a row of an epoch; {remedy}")
    return rows


@contextlib.contextmanager
def writing_logs(folder: Path) -> Iterator[None]:
    """Give an error of TensorFlow's writers, such as that of a full disk, the name of TensorBoard's folder."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = str(error.message).splitlines()[0]
        raise UserError(f"{folder}: TensorBoard's logs can't be written ({reason}); make room and go on") from error


class TensorBoard(tf.keras.callbacks.TensorBoard):
    """Keras' own, with errors that name its folder."""

    def on_epoch_end(self, epoch, logs=None):
        with writing_logs(self.log_dir):
            super().on_epoch_end(epoch, logs)


def not_finite(where: str) -> str:
    """What to tell a user whose training produced NaN or infinity."""
    remedy = "Lower --learning-rate, or set --clip-norm 1"
    return f"{where}: not a number; training has diverged. What earlier epochs saved is kept. {remedy}"


class DivergedError(UserError):
    """A loss or a score is no number, because of the training or of its data."""


class StopAtNaN(tf.keras.callbacks.Callback):
    """End training with a clear word at the first loss that is not a finite number."""

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise DivergedError(not_finite(f"loss at step {batch + 1} of the epoch"))
