"""Keras callbacks that every training has, of the matcher and of the detector alike: speed, history, resume.

Out: a CSV of the epochs, the state that a resumed training goes on from, and one clear error where a loss is no number.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.tools.files import write_json, write_text


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
        saved = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        rows = [row for row in csv.DictReader(io.StringIO(saved)) if int(row["epoch"]) <= epoch]
        rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


def not_finite(where: str) -> str:
    """What to tell a user whose training produced NaN or infinity."""
    remedy = "Lower --learning-rate, or set --clip-norm 1"
    return f"{where}: not a number; training has diverged. What earlier epochs saved is kept. {remedy}"


class StopAtNaN(tf.keras.callbacks.Callback):
    """End training with a clear word at the first loss that is not a finite number."""

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise UserError(not_finite(f"loss at step {batch + 1} of the epoch"))


class TrainingState(tf.keras.callbacks.Callback):
    """Save after every epoch all that a resumed run needs: weights, optimizer, and what the callbacks remember.

    Keras' BackupAndRestore would forget the last, so also the best score so far.

    Args:
        folder: holds the TensorFlow checkpoint and `callbacks-N.json`.
        remembered: {callback: names of its attributes to keep}.

    Attributes:
        stopped: whether training had been stopped early, or by the time limit, when the state was saved.
        saved_weights: names of the trainable weights in the order of the saved state; None before it is read.
    """

    def __init__(self, folder: Path, remembered: dict[tf.keras.callbacks.Callback, tuple[str, ...]]):
        super().__init__()
        self.folder, self.remembered, self.stopped = folder, remembered, False
        self.saved_weights: list[str] | None = None

    def _manager(self) -> tf.train.CheckpointManager:
        checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.model.optimizer)
        return tf.train.CheckpointManager(checkpoint, str(self.folder), max_to_keep=2)

    def on_train_begin(self, logs=None):
        # behind the callbacks that it remembers: they have just forgotten everything, as Keras has it
        if latest_epoch(self.folder):
            self.restore_remembered()
            foreign = f"{self.folder}: saved by another version of bssan_tf; go on with that one, or train the run anew"
            if self.saved_weights != self._weights():  # a checkpoint matches by order, not by name
                raise UserError(foreign)
            manager = self._manager()
            try:
                manager.checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
            except (ValueError, AssertionError):  # of other shapes, or absent
                raise UserError(foreign) from None

    def restore_remembered(self) -> None:
        """Give the callbacks back what they remembered at the last finished epoch."""
        path = self.folder / f"callbacks-{latest_epoch(self.folder)}.json"
        state = json.loads(path.read_text(encoding="utf-8"))
        for callback, names in self.remembered.items():
            for name in names:
                setattr(callback, name, state[type(callback).__name__][name])
        self.stopped, self.saved_weights = state["stopped"], state.get("weights")

    def _weights(self) -> list[str]:
        return [variable.name for variable in self.model.trainable_variables]

    def on_epoch_end(self, epoch, logs=None):
        self.stopped = self.model.stop_training
        state = {"stopped": self.stopped, "weights": self._weights()}
        for callback, names in self.remembered.items():
            state[type(callback).__name__] = {name: _plain(getattr(callback, name)) for name in names}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"callbacks-{epoch + 1}.json", state)  # first: a checkpoint is never without it
        self._manager().save(checkpoint_number=epoch + 1)
        for old in self.folder.glob("callbacks-*.json"):
            if int(old.stem.rsplit("-", 1)[1]) < epoch:
                old.unlink()


def latest_epoch(folder: Path) -> int:
    """Number of epochs that the state saved in a folder has behind it; 0 if there is none."""
    latest = tf.train.latest_checkpoint(str(folder))
    return int(latest.rsplit("-", 1)[1]) if latest else 0


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value
