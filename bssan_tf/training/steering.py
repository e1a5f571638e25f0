"""The callbacks of a training run, in the order in which they see the end of an epoch: measure, judge, save, show."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import tensorflow as tf

from bssan_tf.config.schema import Config
from bssan_tf.datasets.corpus import Split
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.drawing.attention import pair_drawer
from bssan_tf.features.store import Features
from bssan_tf.metrics.recall import chance_rsum
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.folder import RunFolder
from bssan_tf.scoring import score_matrices
from bssan_tf.tools.keras_callbacks import HistoryFile, StopAtNaN, TensorBoard, Throughput
from bssan_tf.tools.training_state import SavedState, TrainingState
from bssan_tf.tools.workers import Team
from bssan_tf.training import callbacks as cb
from bssan_tf.training.early_signs import EarlySigns, Probe
from bssan_tf.training.step import spent_loss
from bssan_tf.training.together import Hear

logger = logging.getLogger(__name__)

ATTENTION_PAIRS = 3
ATTENTION_LOOKS = 4  # epochs of a run whose attention is drawn: a picture takes a second


@dataclass(eq=False)
class Steering:
    """What measures and steers a run; `best`, `stop` and `state` are asked when training has ended."""

    config: Config
    run: RunFolder
    model: Bssan  # in float32; it is measured and saved
    trained: Bssan  # `model` or a copy
    validation: Split  # pictures and captions that choose the best model
    features: Features
    tokenizer: Tokenizer
    steps: int  # of an epoch
    saved: SavedState | None  # to go on from
    team: Team

    def __post_init__(self):
        training, owner = self.config.training, self.validation.image_of_caption
        tokens, rows = self.tokenizer(self.validation.captions), self.validation.image_rows
        chance = chance_rsum(len(rows), len(tokens))
        logger.info("validation: %d pictures, %d captions; rsum of chance %.1f", len(rows), len(tokens), chance)
        self.validate = cb.RetrievalValidation(
            lambda: score_matrices(self.model.scorer, self.features, tokens, image_rows=rows), owner
        )
        self.best = cb.BestScorer(self.model.scorer, self.run.best, self.validate.calibrated_report)
        self.plateau = tf.keras.callbacks.ReduceLROnPlateau(
            "val_rsum", factor=training.plateau_factor, patience=training.plateau_patience, mode="max", min_delta=0
        )
        self.stop = tf.keras.callbacks.EarlyStopping("val_rsum", patience=training.stop_patience, mode="max")
        self.collapse = cb.CollapseWarning(
            self.model.trained_parts, chance, spent_loss(training), training.negative_attention
        )
        self.limit = cb.TimeLimit(training.minutes, training.schedule)
        falls_over = training.epochs * self.steps if training.schedule == "cosine" else 0
        self.rate = cb.LearningRate(training.warmup_steps, training.learning_rate, falls_over)
        remembered = {
            self.best: ("best", "best_epoch", "best_report"),
            self.plateau: ("best", "wait", "cooldown_counter"),
            self.stop: ("best", "wait", "best_epoch"),
            self.collapse: ("announced",),
            self.limit: ("spent",),
        }
        self.state = TrainingState(self.run.state, remembered, self.saved, self.team.chief)

    def callbacks(self, progress: bool) -> list[tf.keras.callbacks.Callback]:
        """All of them, in order; of workers but the chief, those that keep them alike."""
        training = self.config.training
        signs, copy = [], []
        if training.early_signs and self.team.size > 1:  # their looks amid an epoch would need all workers
            logger.info("--early-signs: off, as there are several workers")
        elif training.early_signs:
            probe = Probe(self.model, training, self.validation, self.features, self.tokenizer)
            signs = [EarlySigns(probe, self.trained, self.run.early_signs_file, training.early_signs)]
        if self.trained is not self.model:
            new, scorer = self.trained.scorer.get_weights, self.model.scorer
            copy = [tf.keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: scorer.set_weights(new()))]
        hear = [Hear(self.team)] if self.team.size > 1 else []
        if not self.team.chief:
            return [self.rate, StopAtNaN(), *copy, *hear, self.state]
        judges = [self.plateau, self.stop] if training.schedule == "plateau" else [self.stop]
        measured = [self.rate, StopAtNaN(), *signs, *copy, self.validate, self.best, self.collapse]
        saved = [*judges, self.limit, *hear, HistoryFile(self.run.history_file), self.state]
        return [Throughput(training.batch_size * (1 + training.negatives)), *measured, *saved, *self._shown(progress)]

    def _shown(self, progress: bool) -> list[tf.keras.callbacks.Callback]:
        from bssan_tf.tools.tfa import ProgressBar  # late: it loads TensorFlow Addons

        training, logs = self.config.training, self.run.logs
        few = self.validation.sample_images(ATTENTION_PAIRS, training.seed).captions_per_image(1)
        shown = [
            cb.AttentionImages(
                logs / "attention",
                pair_drawer(self.model.scorer, self.features, few, self.tokenizer),
                every=-(-training.epochs // ATTENTION_LOOKS),
            ),
            cb.RunHparams(logs, self.config),
            TensorBoard(logs, write_graph=False),
        ]
        return [*shown, ProgressBar()] if progress else shown
