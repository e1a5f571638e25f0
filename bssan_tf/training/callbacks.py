"""Keras callbacks of a training run: validation by retrieval, the best model, resume, warnings.

Their order is set in steering.py: RetrievalValidation puts rsum into the epoch's logs, where the others read it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.config.schema import Config
from bssan_tf.metrics.calibration import fit_calibration
from bssan_tf.metrics.recall import retrieval_report
from bssan_tf.runs.weights import fresh_part, list_weights, note_weights
from bssan_tf.tools.files import naming
from bssan_tf.tools.keras_callbacks import DivergedError, not_finite, writing_logs
from bssan_tf.tools.stack import weights_of

logger = logging.getLogger(__name__)

MOST_CHANCE = 300.0  # rsum of chance, of 600; above it the first ten hold most pictures anyway, and rsum tells nothing


class RetrievalValidation(tf.keras.callbacks.Callback):
    """Score the validation split as at test time after every epoch, and put the results into the epoch's logs.

    Adds `val_rsum`, `val_i2t_R@1` and so on, and the mean scores of positive and of negative pairs. `score` returns
    {"score": (N_i, N_c), ...} for the validation pictures and captions; `image_of_caption` is int (N_c,).
    """

    def __init__(self, score: Callable[[], dict[str, np.ndarray]], image_of_caption: np.ndarray):
        super().__init__()
        self.score, self.image_of_caption, self.scores = score, image_of_caption, None

    def on_epoch_begin(self, epoch, logs=None):
        self.scores = None  # they may be large

    def calibrated_report(self) -> dict:
        """The report of the epoch, with what makes probabilities of its scores where they tell."""
        found = fit_calibration(self.scores, self.image_of_caption)
        return {**self.report, "calibration": found and found.told()}

    def on_epoch_end(self, epoch, logs=None):
        scores = self.score()
        if not all(np.isfinite(value).all() for value in scores.values()):
            raise DivergedError(not_finite(f"validation after epoch {epoch + 1}"))
        self.scores = scores["score"]
        self.report = retrieval_report(self.scores, self.image_of_caption)
        logs["val_rsum"] = self.report["rsum"]
        for direction in ("i2t", "t2i"):
            logs.update({f"val_{direction}_{name}": value for name, value in self.report[direction].items()})
        positive = np.arange(self.report["n_images"])[:, None] == self.image_of_caption
        for name, value in scores.items():
            logs[f"val_{name}_positive"] = float(value[positive].mean())
            logs[f"val_{name}_negative"] = float(value[~positive].mean())


class LearningRate(tf.keras.callbacks.Callback):
    """Raise the learning rate linearly from 0 over `warmup_steps`, and let it fall to 0 as a cosine over `total_steps`.

    With `total_steps` 0 it is left alone after the rise. Each epoch's logs have the rate of its last step, as `lr`.
    """

    def __init__(self, warmup_steps: int, learning_rate: float, total_steps: int = 0):
        super().__init__()
        self.warmup_steps, self.learning_rate, self.total_steps = warmup_steps, learning_rate, total_steps

    def on_train_batch_begin(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())  # of any replica
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.total_steps:
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total_steps)))
        elif step >= self.warmup_steps:
            return  # ReduceLROnPlateau may have lowered it
        self.model.optimizer.learning_rate.assign(rate)

    def on_epoch_end(self, epoch, logs=None):
        logs["lr"] = float(self.model.optimizer.learning_rate.numpy())


class BestScorer(tf.keras.callbacks.Callback):
    """Save the scorer in `path`, a .keras file that is replaced whole, after each epoch with the best rsum so far.

    What `report` then returns, a report of the last validation, is kept as `best_report`.
    """

    def __init__(self, scorer: tf.keras.Model, path: Path, report: Callable[[], dict]):
        super().__init__()
        self.scorer, self.path, self.report = scorer, path, report
        self.best, self.best_epoch, self.best_report = -np.inf, 0, None

    def on_epoch_end(self, epoch, logs=None):
        if logs["val_rsum"] > self.best:
            self.best, self.best_epoch, self.best_report = logs["val_rsum"], epoch + 1, self.report()
            with naming(self.path), fresh_part(self.path) as part:
                self.scorer.save(part)
                list_weights(part, weights_of(self.scorer))
                note_weights(self.path, part)  # first: a kill leaves the old file or the new one, and both are known
                part.replace(self.path)


class CollapseWarning(tf.keras.callbacks.Callback):
    """Warn, once, when a ranking loss, without the L2 term, is below `threshold` while retrieval is near chance.

    Nothing is said where `chance_rsum`, what random scores would reach, is above `MOST_CHANCE`. The advice depends on
    `negative_attention`.
    """

    def __init__(self, outputs: Sequence[str], chance_rsum: float, threshold: float, negative_attention: str):
        super().__init__()
        self.outputs, self.chance_rsum, self.threshold = outputs, chance_rsum, threshold
        if negative_attention == "learned":
            self.advice = "Remedy: lower --learning-rate, or more --negatives."
        else:
            self.advice = (
                "The network tells negatives by their uniform attention (Eq. 8), not by what they show. "
                "Remedy: --negative-attention learned."
            )
        self.announced = False

    def on_epoch_end(self, epoch, logs=None):
        losses = {name: logs[f"{name}_ranking"] for name in self.outputs}
        gone = [name for name, loss in losses.items() if loss < self.threshold]
        near_chance = logs["val_rsum"] < self.chance_rsum + 0.1 * (600 - self.chance_rsum)
        if gone and near_chance and self.chance_rsum < MOST_CHANCE and not self.announced:
            self.announced = True
            loss = f"the loss of {' and '.join(gone)} is {max(losses[name] for name in gone):.4f}"
            rsum = f"rsum is {logs['val_rsum']:.1f} where chance is {self.chance_rsum:.1f}"
            told = f"{loss}, nothing is left to learn, but {rsum}. {self.advice}"
            logger.warning("COLLAPSE after epoch %d: %s", epoch + 1, told)


class TimeLimit(tf.keras.callbacks.Callback):
    """Stop after the epoch in which the training time of the whole run passes a limit of `minutes`; 0 for none.

    That the limit may cut off a cosine `schedule` of the learning rate is said before the first step.
    """

    def __init__(self, minutes: float, schedule: str = "plateau"):
        super().__init__()
        self.minutes, self.schedule, self.spent = minutes, schedule, 0.0

    def on_train_begin(self, logs=None):
        if self.minutes and self.schedule == "cosine":
            told = "may end training before the rate has fallen, as --schedule cosine takes all %d --epochs"
            remedy = "take as few --epochs as fit into the time, or leave --minutes out"
            logger.warning(f"--minutes %g: {told}; {remedy}", self.minutes, self.params["epochs"])

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.spent += (time.perf_counter() - self.start) / 60
        logs["minutes"] = self.spent
        if self.minutes and self.spent >= self.minutes:
            logger.info("time limit of %g minutes reached after epoch %d", self.minutes, epoch + 1)
            self.model.stop_training = True


class AttentionImages(tf.keras.callbacks.Callback):
    """Write what `draw` returns, {title: uint8 (H, W, 3)}, to TensorBoard's folder after every `every` epochs."""

    def __init__(self, logs: Path, draw: Callable[[], dict[str, np.ndarray]], every: int = 1):
        super().__init__()
        self.logs, self.writer = logs, tf.summary.create_file_writer(str(logs))
        self.draw, self.every = draw, every

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self.every == 0:
            with writing_logs(self.logs), self.writer.as_default():
                for title, image in self.draw().items():
                    tf.summary.image(title, image[None], step=epoch)
                self.writer.flush()


class RunHparams(tf.keras.callbacks.Callback):
    """Show the run's settings in TensorBoard's HParams tab, beside its rsum."""

    def __init__(self, logs: Path, config: Config):
        super().__init__()
        self.logs, self.config = logs, config

    def on_train_begin(self, logs=None):
        from tensorboard.plugins.hparams import api as hp

        config = self.config
        values = {"preset": config.preset, "size": config.size, **asdict(config.model), **asdict(config.training)}
        shown = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in values.items()}
        # TensorBoard takes a session's metrics from its folder and those below: train/ and validation/
        with writing_logs(self.logs), tf.summary.create_file_writer(str(self.logs)).as_default():
            hp.hparams(shown, trial_id=self.logs.parent.name)
