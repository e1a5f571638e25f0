"""A training run from config to run folder: data, model, strategy, callbacks, fit, resume, export.

In: a Config, or a run folder to go on with. Out: the run folder of runs.py, with the best scorer by rsum on the
validation split under test-time scoring, its metrics, TensorBoard logs and SavedModel.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.config.schema import Config, TrainingConfig
from bssan_tf.datasets.corpus import Corpus, Split
from bssan_tf.datasets.text import Tokenizer, load_glove
from bssan_tf.errors import UserError
from bssan_tf.metrics import chance_rsum
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.data import Data, fingerprint, fit_config, open_data, resolve
from bssan_tf.runs.export import export_saved_model
from bssan_tf.runs.folder import RunFolder, command_line
from bssan_tf.scoring import score_matrices
from bssan_tf.tools.devices import make_strategy
from bssan_tf.tools.files import write_json
from bssan_tf.tools.keras_callbacks import HistoryFile, StopAtNaN, Throughput, TrainingState, latest_epoch
from bssan_tf.training import callbacks as cb
from bssan_tf.training.batches import PairStream, check_pictures
from bssan_tf.training.cca_start import adapt_norms, check_cca_start, check_start, start_from_cca
from bssan_tf.training.early_signs import EarlySigns, Probe, check_probe
from bssan_tf.training.step import compile_siamese, spent_loss, trained_copy

logger = logging.getLogger(__name__)

ATTENTION_PAIRS = 3


def train(
    config: Config, run: RunFolder, devices: str = "auto", progress: bool = True, data: Data | None = None
) -> dict:
    """Train a new run.

    Args:
        config: the run's config; sizes that data decide are filled in and saved.
        run: its folder, which must not hold a run yet.
        devices: see `make_strategy`.
        data: what to train on, where it is not what `config.data` names, for studies.

    Returns:
        What `metrics.json` holds: the best epoch and its report on the validation split.

    Raises:
        UserError: for bad data or flags, or when training diverges.
    """
    config = dataclasses.replace(config.check(), data=resolve(config.data))
    run.require_new()
    strategy = make_strategy(devices)
    _check_replicas(config.training, strategy)
    if data:
        _check_corpus(data.corpus, config)
    else:
        data = open_data(config.data, progress, check=lambda corpus: _check_corpus(corpus, config))
    tokenizer = Tokenizer.fit(data.split("train").captions, config.data.caption_length)
    glove = glove_vectors(config, data, tokenizer, progress)
    config = fit_config(config, data.features, 0 if glove is None else glove.shape[1])
    job = _Job(config, run, data, tokenizer, strategy, progress)
    run.create(config, command_line(), fingerprint(data), tokenizer.save)
    with run.locked():
        return job.run_on(glove)


def resume(
    run: RunFolder,
    devices: str = "auto",
    progress: bool = True,
    data_flags: dict | None = None,
    data: Data | None = None,
    **limits,
) -> dict:
    """Go on with a run where its last finished epoch left it; same numbers as without the interruption.

    A run that had stopped by itself is only finished (metrics, export), unless a limit is new.

    Args:
        data_flags: fields of DataConfig to replace, where the data have moved.
        data: as for `train`.
        limits: new values of `epochs`, `minutes` or `stop_patience`; they are saved in the run's config.

    Raises:
        UserError: if the folder is no run, another process trains it, its data have changed, or it has more epochs than
            the new limit.
    """
    config = run.load_config().with_moved_data(data_flags).replace(**limits).check()
    if config.data.glove and not config.model.E_glove:
        raise UserError(f"--glove {config.data.glove}: the run was begun without; leave it out")
    with run.locked():
        saved = latest_epoch(run.state)
        if limits.get("epochs", saved) < saved:
            raise UserError(f"--epochs {limits['epochs']}: {run.path} has {saved} epochs already; give more, or none")
        strategy = make_strategy(devices)
        _check_replicas(config.training, strategy)
        data = data or open_data(config.data, progress)
        run.require_same_data(fingerprint(data))
        tokenizer = Tokenizer.load(run.vocabulary_file, config.data.caption_length)
        job = _Job(config, run, data, tokenizer, strategy, progress)
        # before the first epoch is saved, the words' vectors are needed again
        glove = None if saved else glove_vectors(config, data, tokenizer, progress)
        if glove is not None and glove.shape[1] != config.model.E_glove:
            raise UserError(
                f"--glove {config.data.glove}: its vectors have {glove.shape[1]} numbers, the run was begun with "
                f"{config.model.E_glove}; give the file that it was begun with"
            )
        run.note_resume(config, command_line())
        return job.run_on(glove, new_limits=bool(limits))


def glove_vectors(config: Config, data: Data, tokenizer: Tokenizer, progress: bool = True) -> np.ndarray | None:
    """The words' vectors float32 (V, E_glove), if there is a file; logs what it covers of the training captions."""
    if not config.data.glove:
        return None
    counts = np.bincount(tokenizer(data.split("train").captions).ravel(), minlength=len(tokenizer.words))
    return load_glove(Path(config.data.glove), tokenizer.words, counts, progress)[0]


def _check_corpus(corpus: Corpus, config: Config) -> None:
    """UserError for what would else stop a training only after hours of extraction."""
    check_pictures(corpus.split("train"), config.training)
    check_cca_start(config, len(corpus.split("train").image_ids))
    validation = validation_split(corpus, config.training)
    if config.training.early_signs:
        check_probe(validation)
    if config.data.glove and not Path(config.data.glove).is_file():
        raise UserError(f"--glove {config.data.glove}: no such file; give a GloVe text file")


def _be_deterministic(seed: int) -> None:
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _check_replicas(training: TrainingConfig, strategy: tf.distribute.Strategy) -> None:
    replicas = strategy.num_replicas_in_sync
    if training.batch_size % replicas:
        raise UserError(f"--batch-size {training.batch_size}: must be a multiple of the {replicas} devices")
    share = training.batch_size // replicas
    if training.negative_source != "random" and share <= training.negatives:
        raise UserError(
            f"--batch-size {training.batch_size}: {share} pairs on each of {replicas} devices leave no "
            f"{training.negatives} others as negatives; take a larger batch or fewer --negatives"
        )


def validation_split(corpus: Corpus, training: TrainingConfig) -> Split:
    """The pictures and captions that choose the best model: the val split, or a seeded part of it."""
    split = corpus.split("val")
    if training.validation_images:
        split = split.sample_images(training.validation_images, training.seed)
    if training.validation_captions:
        split = split.captions_per_image(training.validation_captions)
    return split


@dataclass
class _Job:
    """One call of train or resume: what it works on, and the steps from a fresh model to the finished folder."""

    config: Config
    run: RunFolder
    data: Data
    tokenizer: Tokenizer
    strategy: tf.distribute.Strategy
    progress: bool

    def __post_init__(self):
        # these refuse bad data, so that no half-made run is left
        split = self.data.split("train")
        self.tokens = self.tokenizer(split.captions)
        self.stream = PairStream(split, self.data.features, self.tokens, self.config.training)
        check_start(self.config, split, self.data.features, self.tokens, len(self.tokenizer.words))
        self.validation = validation_split(self.data.corpus, self.config.training)
        self.steps = self.config.training.steps_per_epoch or self.stream.round_steps

    def run_on(self, glove: np.ndarray | None, new_limits: bool = False) -> dict:
        """Build the model, train it from the last saved epoch on, and finish the folder; returns the metrics."""
        config, training = self.config, self.config.training
        _be_deterministic(training.seed)  # not earlier: extraction draws random numbers, too
        with self.strategy.scope():
            self.model = Bssan(config.model, len(self.tokenizer.words), training.l2, glove)
        done = latest_epoch(self.run.state)
        if not done:
            self._start()
        with self.strategy.scope():
            apart = training.mixed_precision or training.ema  # what is trained is not what is measured
            self.trained = trained_copy(self.model, training.mixed_precision) if apart else self.model
            siamese = self.trained.siamese(training)
            compile_siamese(siamese, config)
        callbacks = self._callbacks(siamese)
        if done:
            self.state.restore_remembered()
            finished = done >= training.epochs or (self.state.stopped and not new_limits)
            ends = "had ended at" if finished else "going on after"
            logger.info("%s: %s epoch %d of %d", self.run.path, ends, done, training.epochs)
        if done < training.epochs and (new_limits or not self.state.stopped):
            batches = self.stream.dataset(siamese.input, list(siamese.output))
            with batches.own_errors():
                siamese.fit(
                    batches.steps(done * self.steps, training.epochs * self.steps),
                    epochs=training.epochs,
                    initial_epoch=done,
                    steps_per_epoch=self.steps,
                    callbacks=callbacks,
                    verbose=0,
                )
            if self.stop.stopped_epoch:
                logger.info("stopped early: no better rsum for %d epochs (--stop-patience)", training.stop_patience)
        return self._finish()

    def _start(self) -> None:
        """Weights before the first step, where they come from the data."""
        split, features, training = self.data.split("train"), self.data.features, self.config.training
        adapt_norms(self.model, features, split.image_rows, training.seed)
        if training.cca_start:
            start_from_cca(self.model, split, features, self.tokens, training.seed, training.glove_prior, self.progress)

    def _callbacks(self, siamese: tf.keras.Model) -> list[tf.keras.callbacks.Callback]:
        """In the order in which they see the end of an epoch: measure, judge, save, and only then show."""
        from bssan_tf.tools.tfa import ProgressBar

        training, run = self.config.training, self.run
        steering = self._steering(siamese)
        shown = [
            cb.AttentionImages(run.logs / "attention", self._attention_drawer(), every=max(1, training.epochs // 10)),
            cb.RunHparams(run.logs, self.config),
            tf.keras.callbacks.TensorBoard(run.logs, write_graph=False),
        ]
        if self.progress:
            shown.append(ProgressBar())
        throughput = Throughput(training.batch_size * (1 + training.negatives))
        return [throughput, *steering, HistoryFile(run.history_file), self.state, *shown]

    def _steering(self, siamese: tf.keras.Model) -> list[tf.keras.callbacks.Callback]:
        training, validation = self.config.training, self.validation
        tokens, features = self.tokenizer(validation.captions), self.data.features
        images, captions = len(validation.image_ids), len(validation.captions)
        chance = chance_rsum(images, captions)
        logger.info("validation: %d pictures, %d captions; rsum of chance %.1f", images, captions, chance)
        validate = cb.RetrievalValidation(
            lambda: score_matrices(self.model.scorer, features, tokens, validation.image_rows),
            validation.image_of_caption,
        )
        self.best = cb.BestScorer(self.model.scorer, self.run.best, lambda: validate.report)
        parts = [name for name in ("w2r", "o2w") if name in siamese.output]
        collapse = cb.CollapseWarning(parts, chance, spent_loss(training), training.negative_attention)
        plateau = tf.keras.callbacks.ReduceLROnPlateau(
            "val_rsum", factor=training.plateau_factor, patience=training.plateau_patience, mode="max", min_delta=0
        )
        self.stop = stop = tf.keras.callbacks.EarlyStopping("val_rsum", patience=training.stop_patience, mode="max")
        limit = cb.TimeLimit(training.minutes, training.schedule)
        remembered = {
            self.best: ("best", "best_epoch", "best_report"),
            plateau: ("best", "wait", "cooldown_counter"),
            stop: ("best", "wait", "best_epoch"),
            collapse: ("announced",),
            limit: ("spent",),
        }
        self.state = TrainingState(self.run.state, remembered)
        falls_over = training.epochs * self.steps if training.schedule == "cosine" else 0
        rate = cb.LearningRate(training.warmup_steps, training.learning_rate, falls_over)
        copy = [] if self.trained is self.model else [cb.CopyWeights(self.trained.scorer, self.model.scorer)]
        watched = [plateau, stop] if training.schedule == "plateau" else [stop]
        return [rate, StopAtNaN(), *self._early_signs(), *copy, validate, self.best, collapse, *watched, limit]

    def _early_signs(self) -> list[EarlySigns]:
        training = self.config.training
        if not training.early_signs:
            return []
        with self.strategy.scope():
            probe = Probe(self.model, training, self.validation, self.data.features, self.tokenizer)
        return [EarlySigns(probe, self.trained, self.run.early_signs_file, training.early_signs)]

    def _attention_drawer(self):
        """A function that draws the attention of a few validation pairs as it is now."""
        from bssan_tf.drawing.attention import draw_pairs

        few = self.validation.sample_images(ATTENTION_PAIRS, self.config.training.seed).captions_per_image(1)
        return lambda: draw_pairs(self.model.scorer, self.data.features, few, self.tokenizer)

    def _finish(self) -> dict:
        """Write metrics.json and the SavedModel of the best epoch."""
        metrics = {
            "run": self.run.name,
            "corpus": self.data.corpus.name,
            "split": "val",
            "epochs": latest_epoch(self.run.state),
            "best_epoch": self.best.best_epoch,
            **self.best.best_report,
        }
        write_json(self.run.metrics_file, metrics)
        self.model.scorer.load_weights(self.run.best)
        export_saved_model(self.model.scorer, self.tokenizer.layer, self.run.export)
        return metrics
