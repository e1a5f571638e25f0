"""A training run from config to run folder: data, model, strategy, callbacks, fit, resume, export.

In: a Config, or a run folder to go on with. Out: the run folder of runs/folder.py, with the scorer of the best rsum on
the validation split, its metrics, TensorBoard logs and SavedModel.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import OF_TRAINING, TrainingConfig, flag_of
from bssan_tf.datasets.caption_vectors import caption_vectors, read_corpus, without
from bssan_tf.datasets.text import Tokenizer, load_glove
from bssan_tf.errors import UserError
from bssan_tf.features.store import require_finite
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.data import Data, fit_config, open_data
from bssan_tf.runs.export import export_saved_model
from bssan_tf.runs.folder import RunFolder, command_line
from bssan_tf.tools.devices import make_strategy
from bssan_tf.tools.files import write_json
from bssan_tf.tools.keras_callbacks import DivergedError
from bssan_tf.tools.stack import take_plain_kernels
from bssan_tf.tools.training_state import SavedState, newest_state
from bssan_tf.tools.workers import WORKERS, Team
from bssan_tf.training.batches import WHOLE, PairStream, Shares
from bssan_tf.training.callbacks import BestScorer
from bssan_tf.training.cca_start import adapt_norms, check_start, start_from_cca
from bssan_tf.training.checks import check_corpus, check_fixed_boxes, fit_tokenizer, validation_split
from bssan_tf.training.steering import Steering
from bssan_tf.training.step import compile_siamese, copy_of
from bssan_tf.training.together import agree_on_settings, fit_together

logger = logging.getLogger(__name__)


def train(
    config: Config, run: RunFolder, devices: str = "auto", progress: bool = True, data: Data | None = None
) -> dict | None:
    """Train a new run in a folder that holds none yet; sizes that data decide are filled into its config.

    Args:
        devices: see `make_strategy`. Of several workers the chief alone writes; where the run is there, with the same
            settings, all go on with it, so that whoever starts them can do so again by the same command.
        data: for studies, other data than `config.data` names.

    Returns:
        What `metrics.json` holds: the best epoch and its report on the validation split. Of several workers, the chief
        alone has it; for the others it is None.

    Raises:
        UserError: for bad data or flags, or when training diverges; where workers differ, or one is gone.
    """
    config = config.check().resolved()
    check_fixed_boxes(config)
    if devices != WORKERS:
        run.require_new()
    team = Team(_strategy(devices, config.training))
    with team.together():
        if devices == WORKERS and team.of_chief(run.config_file.exists()):
            run.require_settings(config, "give another --name")
            return resume(run, devices, progress, data=data)
        if devices == WORKERS and team.chief:
            run.require_new()
        agree_on_settings(team, config)
        if data:
            check_corpus(data.corpus, config)
        else:
            data = team.first(
                lambda: open_data(config.data, progress, check=lambda corpus: check_corpus(corpus, config))
            )
        return _train_new(config, run, data, team, progress)


def _train_new(config: Config, run: RunFolder, data: Data, team: Team, progress: bool) -> dict | None:
    if data.corpus.split_lists in ("official", "karpathy", "random"):  # for lists that come later
        config = config.replace(split=data.corpus.split_lists)
    tokenizer = fit_tokenizer(data.split("train"), config)
    glove = word_vectors(config, data, tokenizer, progress)
    config = fit_config(config, data.features, 0 if glove is None else glove.shape[1])
    job = Trainer(config, run, data, tokenizer, team, progress)
    if not team.chief:
        return job.run_on(glove)
    run.create(config, command_line(), data.fingerprint, tokenizer.save, data.imported_rows)
    with run.locked():
        return job.run_on(glove)


def resume(
    run: RunFolder,
    devices: str = "auto",
    progress: bool = True,
    data_flags: dict | None = None,
    data: Data | None = None,
    **limits,
) -> dict | None:
    """Go on with a run after its last finished epoch; same results as without the interruption.

    A run that had stopped by itself is only finished (metrics, export), unless a limit is new.

    Args:
        devices, data: as for `train`.
        data_flags: fields of DataConfig to replace, where the data have moved.
        limits: new values of `epochs`, `minutes` or `stop_patience`; they are saved in the run's config.

    Raises:
        UserError: no run, trained by another process, its data have changed, or more epochs done than the new limit.
    """
    begun = run.load_config()
    if run.packed_weights.exists():
        raise UserError(f"--resume {run.path}: is a packed run, which can be used but not trained on; train one anew")
    config = begun.moved(data_flags).replace(**limits).check()
    for name in OF_TRAINING:
        if config[name] and not begun[name]:
            raise UserError(f"{flag_of(name)} {config[name]}: the run was begun without; leave it out")
    early = Team(make_strategy(devices)) if devices == WORKERS else None  # all read before the chief writes
    with contextlib.ExitStack() as held:
        if early:
            held.enter_context(early.together())
        if early is None or early.chief:
            held.enter_context(run.locked())
        saved = newest_state(run.state, run.history_file, run.metrics_file, run.best)
        done = saved.epoch if saved else 0
        if saved:
            run.require_best()
        if limits.get("epochs", done) < done:
            raise UserError(f"--epochs {limits['epochs']}: {run.path} has {done} epochs already; give more, or none")
        team = Team(_strategy(devices, config.training))
        agree_on_settings(team, config, done=done, limits=limits)
        data = data or team.first(lambda: open_data(config.data, progress))
        run.require_same_data(data.fingerprint)
        tokenizer = run.load_tokenizer(config)
        job = Trainer(config, run, data, tokenizer, team, progress)
        glove = None if saved else word_vectors(config, data, tokenizer, progress)  # else the state has them
        if glove is not None and glove.shape[1] != config.model.E_glove:
            differ = f"words have {glove.shape[1]} dimensions, the run was begun with {config.model.E_glove}"
            raise UserError(f"--glove {config.data.glove}: {differ}; give the file that it was begun with")
        if team.chief:
            run.note_resume(config, command_line())
        return job.run_on(glove, saved, new_limits=bool(limits))


def word_vectors(config: Config, data: Data, tokenizer: Tokenizer, progress: bool = True) -> np.ndarray | None:
    """The words' vectors float32 (V, E_glove), GloVe's before the text corpus'; None where neither is given.

    Says what they cover of the training captions. What the text corpus has of the data set itself, which is measured
    on, is left out of it; the training captions are added.
    """
    found, train, corpus = [], data.split("train"), data.corpus
    if config.data.glove:
        counts = np.bincount(tokenizer(train.captions).ravel(), minlength=len(tokenizer.words))
        found.append(load_glove(Path(config.data.glove), tokenizer.words, counts, progress)[0])
    if config.data.text_corpus:
        rule, texts = config.data.word_rule, read_corpus(config.data.text_corpus)
        of_train = np.isin(corpus.image_of_caption, train.image_rows)
        measured = [text for text, own in zip(corpus.captions, of_train) if not own]
        kept = without(texts, {*corpus.image_ids, *corpus.file_ids}, measured, rule)
        logger.info("text corpus: %d of %d images are of the data set itself", len(texts) - len(kept), len(texts))
        seed, images = config.training.seed, [*kept.values(), *train.captions_by_image()]
        found.append(caption_vectors(images, tokenizer.words, rule, seed, progress))
    return np.concatenate(found, axis=1) if found else None


def _strategy(devices: str, training: TrainingConfig) -> tf.distribute.Strategy:
    """Of these devices; UserError if batches cannot be divided among them."""
    strategy = make_strategy(devices)
    flag, replicas = f"--batch-size {training.batch_size}", strategy.num_replicas_in_sync
    if training.batch_size % replicas:
        raise UserError(f"{flag}: must be a multiple of the {replicas} devices")
    share = training.batch_size // replicas
    if training.negative_source != "random" and share <= training.negatives:
        lack = f"{share} pairs on each of {replicas} devices leave no {training.negatives} others as negatives"
        raise UserError(f"{flag}: {lack}; take a larger batch or fewer --negatives")
    return strategy


@dataclass
class Trainer:
    """One call of train or resume; UserError, before anything is written, where the data cannot be trained on."""

    config: Config
    run: RunFolder
    data: Data
    tokenizer: Tokenizer
    team: Team
    progress: bool

    def __post_init__(self):
        self.split = self.data.split("train")
        self.tokens = self.tokenizer(self.split.captions)  # int32 (N_c, L)
        self.stream = PairStream(self.split, self.data.features, self.tokens, self.config.training)
        check_start(self.config, self.split, self.data.features, self.tokens, len(self.tokenizer.words))
        self.validation = validation_split(self.data.corpus, self.config.training)
        self.steps = self.config.training.steps_per_epoch or self.stream.round_steps  # of an epoch
        if self.team.size > 1:
            seen = {"pictures": self.split.image_ids, "validation": self.validation.image_ids, "steps": self.steps}
            self.team.agree({**self.data.fingerprint, **seen})

    def run_on(
        self, glove: np.ndarray | None, saved: SavedState | None = None, new_limits: bool = False
    ) -> dict | None:
        """Build the model, train it from the saved state on, and finish the folder; returns the metrics."""
        training, done = self.config.training, saved.epoch if saved else 0
        split, features = self.split, self.data.features
        tf.keras.utils.set_random_seed(training.seed)  # not earlier: extraction draws random numbers, too
        tf.config.experimental.enable_op_determinism()
        team, scope = self.team, self.team.strategy.scope
        with scope() if team.size == 1 else contextlib.nullcontext():  # of workers, all train a copy
            model = Bssan(self.config.model, len(self.tokenizer.words), training.l2, glove)
        if not done and team.chief:  # weights that come from the data
            adapt_norms(model, features, split.image_rows, training.seed)
            if training.cca_start:
                start_from_cca(model, split, features, self.tokens, training.seed, training.glove_prior, self.progress)
        if team.size > 1:
            model.scorer.set_weights(team.arrays_of_chief(model.scorer.get_weights()))
        with scope():
            copied = training.mixed_precision or team.size > 1
            trained = copy_of(model, training.mixed_precision) if copied else model
            if not (self.tokens.any(axis=1).all() and self.tokenizer(self.validation.captions).any(axis=1).all()):
                for one in (model, trained):  # a caption has no word; the siamese graph has the scorer's layers
                    take_plain_kernels(one.scorer)
            if training.hold_o2w_attention:
                for one in (model, trained):
                    one.networks["o2w"].attention.trainable = False
            siamese = trained.siamese(training)
            compile_siamese(siamese, self.config)
            steering = Steering(
                self.config,
                self.run,
                model,
                trained,
                self.validation,
                features,
                self.tokenizer,
                self.steps,
                saved,
                team,
            )
            callbacks = steering.callbacks(self.progress)
        if done:
            steering.state.restore_remembered()
        finished = done >= training.epochs or (steering.state.stopped and not new_limits)
        if done:
            ends = "had ended at" if finished else "going on after"
            logger.info("%s: %s epoch %d of %d", self.run.path, ends, done, training.epochs)
        if not finished:
            if team.chief:
                self.run.metrics_file.unlink(missing_ok=True)  # of other weights, as soon as an epoch is better
            self._fit(siamese, callbacks, done)
            if steering.stop.stopped_epoch:
                logger.info("stopped early: no better rsum for %d epochs (--stop-patience)", training.stop_patience)
        metrics = self._finish(model, steering.best, steering.state.epoch) if team.chief else None
        team.gather(None)  # who left earlier would seem to be gone
        return metrics

    def _fit(self, siamese: tf.keras.Model, callbacks: list, done: int) -> None:
        team, epochs = self.team, self.config.training.epochs
        shares = Shares(team.index * team.replicas, team.replicas, team.size * team.replicas)
        batches = self.stream.dataset(siamese.input, list(siamese.output), shares if team.size > 1 else WHOLE)
        turns = {"epochs": epochs, "initial_epoch": done, "steps_per_epoch": self.steps}
        try:
            with batches.own_errors():
                if team.size == 1:
                    steps = batches.steps(done * self.steps, epochs * self.steps)
                    siamese.fit(steps, **turns, callbacks=callbacks, verbose=0, shuffle=False)
                else:
                    first, stop = (number * self.steps * team.replicas for number in (done, epochs))
                    fit_together(siamese, team, lambda: batches.steps(first, stop), callbacks, **turns)
        except DivergedError:
            require_finite(self.data.features)  # bad data are no reason to lower the learning rate
            raise

    def _finish(self, model: Bssan, best: BestScorer, epochs: int) -> dict:
        """Write metrics.json and the SavedModel of the best epoch."""
        metrics = {"run": self.run.name, "corpus": self.data.corpus.name, "split": "val"}
        metrics |= {"epochs": epochs, "best_epoch": best.best_epoch, **best.best_report}
        write_json(self.run.metrics_file, metrics)
        self.run.load_best(model.scorer)
        export_saved_model(model.scorer, self.tokenizer.layer, self.run.export)
        return metrics
