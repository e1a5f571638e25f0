"""A training run from config to run folder: data, model, strategy, callbacks, fit, resume, export.

In: a Config, or a run folder to go on with. Out: the run folder of runs.py, with the best scorer by rsum on the
validation split under test-time scoring, its metrics, TensorBoard logs and SavedModel.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf import callbacks as cb
from bssan_tf.config import Config, TrainingConfig
from bssan_tf.datasets.corpus import Split
from bssan_tf.devices import make_strategy
from bssan_tf.errors import UserError
from bssan_tf.export import export_saved_model
from bssan_tf.losses import ActiveHinges, PairwiseHinge, RankingSoftmax
from bssan_tf.models.bssan import Bssan
from bssan_tf.pipeline import PairStream, training_dataset
from bssan_tf.preparation import Data, fit_config, open_data, resolve
from bssan_tf.run_logs import AttentionImages, HistoryFile, RunHparams, Throughput
from bssan_tf.runs import RunFolder, command_line, write_json
from bssan_tf.scoring import score_matrix
from bssan_tf.text import Tokenizer, load_glove

logger = logging.getLogger(__name__)

ATTENTION_PAIRS = 3


def train(config: Config, run: RunFolder, devices: str = "auto", progress: bool = True) -> dict:
    """Train a new run.

    Args:
        config: the run's config; sizes that data decide are filled in and saved.
        run: its folder, which must not hold a run yet.
        devices: see `make_strategy`.

    Returns:
        What `metrics.json` holds: the best epoch and its report on the validation split.

    Raises:
        UserError: for bad data or flags, or when training diverges.
    """
    config = dataclasses.replace(config.check(), data=resolve(config.data))
    run.require_new()
    strategy = make_strategy(devices)
    _check_replicas(config.training, strategy)
    data = open_data(config.data, progress)
    train_split = data.split("train")
    tokenizer = Tokenizer.fit(train_split.captions, config.data.caption_length)
    glove = None
    if config.data.glove:
        glove, _ = load_glove(Path(config.data.glove), tokenizer.words)  # logs the coverage
    config = fit_config(config, data.features, 0 if glove is None else glove.shape[1])
    stream = PairStream(train_split, data.features, tokenizer(train_split.captions), config.training)
    run.create(config, command_line())
    tokenizer.save(run.vocabulary_file)
    _be_deterministic(config.training.seed)  # last, as extraction draws random numbers, too
    with strategy.scope():
        model = Bssan(config.model, len(tokenizer.words), config.training.l2, glove)
    return _fit(config, run, data, stream, tokenizer, model, strategy, progress)


def resume(run: RunFolder, epochs: int | None = None, devices: str = "auto", progress: bool = True) -> dict:
    """Go on with a run where its last finished epoch left it; same numbers as without the interruption.

    Args:
        epochs: a new number of epochs, or None for the run's.

    Raises:
        UserError: if the folder is no run, or its data have changed.
    """
    config = run.load_config()
    if epochs is not None:
        config = config.replace(epochs=epochs).check()
    strategy = make_strategy(devices)
    _check_replicas(config.training, strategy)
    data = open_data(config.data, progress)
    tokenizer = Tokenizer.load(run.vocabulary_file, config.data.caption_length)
    train_split = data.split("train")
    stream = PairStream(train_split, data.features, tokenizer(train_split.captions), config.training)
    _be_deterministic(config.training.seed)
    with strategy.scope():  # the weights, GloVe's among them, come from the saved state
        model = Bssan(config.model, len(tokenizer.words), config.training.l2, _glove_again(config, tokenizer))
    return _fit(config, run, data, stream, tokenizer, model, strategy, progress)


def _glove_again(config: Config, tokenizer: Tokenizer) -> np.ndarray | None:
    """Word vectors for a run that has no finished epoch yet, and so no saved weights."""
    return load_glove(Path(config.data.glove), tokenizer.words)[0] if config.data.glove else None


def _be_deterministic(seed: int) -> None:
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _check_replicas(training: TrainingConfig, strategy: tf.distribute.Strategy) -> None:
    replicas = strategy.num_replicas_in_sync
    if training.batch_size % replicas:
        raise UserError(f"--batch-size {training.batch_size}: must be a multiple of the {replicas} devices")
    share = training.batch_size // replicas
    if training.negative_source == "batch" and share <= training.negatives:
        raise UserError(
            f"--batch-size {training.batch_size}: {share} pairs on each of {replicas} devices leave no "
            f"{training.negatives} others as negatives; take a larger batch or fewer --negatives"
        )


def compile_siamese(siamese: tf.keras.Model, config: Config) -> None:
    """Losses of Eq. 7 and 17 with the weights of Eq. 18 (δ is in the layers), and the optimizer."""
    training = config.training
    symmetric = training.negative_source == "batch"
    if training.loss == "hinge":
        loss = PairwiseHinge(training.margin, symmetric)
    else:
        loss = RankingSoftmax(symmetric)
    clip = training.clip_norm or None
    if training.optimizer == "sgd":
        optimizer = tf.keras.optimizers.SGD(training.learning_rate, momentum=training.momentum, global_clipnorm=clip)
    else:
        optimizer = tf.keras.optimizers.Adam(training.learning_rate, global_clipnorm=clip)
    names = list(siamese.output)
    weights = {"w2r": 1.0, "o2w": config.model.o2w_weight if "w2r" in names else 1.0}
    siamese.compile(
        optimizer=optimizer,
        loss={name: loss for name in names},
        loss_weights={name: weights[name] for name in names},
        metrics={name: [ActiveHinges(training.margin)] for name in names},
    )
    optimizer.build(siamese.trainable_variables)  # now, so that a saved state finds its slots


def _fit(config, run, data: Data, stream: PairStream, tokenizer, model: Bssan, strategy, progress: bool) -> dict:
    training = config.training
    steps = training.steps_per_epoch or stream.round_steps
    with strategy.scope():
        siamese = model.siamese(training)
        compile_siamese(siamese, config)
    validation = validation_split(data, training)
    calls, state, best = _callbacks(config, run, data, tokenizer, model, siamese, validation, progress)
    done = state.finished_epochs()
    if done:
        logger.info("%s: going on after epoch %d", run.path, done)
    if done < training.epochs:
        dataset = training_dataset(stream, siamese.input, list(siamese.output), start=done * steps)
        siamese.fit(
            dataset,
            epochs=training.epochs,
            initial_epoch=done,
            steps_per_epoch=steps,
            callbacks=calls,
            verbose=0,
        )
    return _finish(config, run, tokenizer, model, state, best)


def validation_split(data: Data, training: TrainingConfig) -> Split:
    """The pictures and captions that choose the best model: the val split, or a seeded part of it."""
    split = data.split("val")
    if training.validation_images:
        split = split.first_images(training.validation_images, training.seed)
    if training.validation_captions:
        split = split.captions_per_image(training.validation_captions)
    return split


def _callbacks(config, run: RunFolder, data: Data, tokenizer, model: Bssan, siamese, validation: Split, progress):
    from bssan_tf.tfa import ProgressBar

    training = config.training
    tokens = tokenizer(validation.captions)
    ranker = model.ranker()
    outputs = list(siamese.output)
    images, captions = len(validation.image_ids), len(validation.captions)
    chance = chance_rsum(images, captions)
    logger.info("validation: %d pictures, %d captions; rsum of chance %.1f", images, captions, chance)

    validate = cb.RetrievalValidation(
        lambda: score_matrix(ranker, data.features, validation.image_rows, tokens),
        validation.image_of_caption,
    )
    best = cb.BestScorer(model.scorer, run.best, lambda: validate.report)
    plateau = tf.keras.callbacks.ReduceLROnPlateau(
        "val_rsum",
        factor=training.plateau_factor,
        patience=training.plateau_patience,
        mode="max",
        min_delta=0,
    )
    stop = tf.keras.callbacks.EarlyStopping("val_rsum", patience=training.stop_patience, mode="max")
    collapse = cb.CollapseWarning(outputs, chance, 0.02 * (training.margin if training.loss == "hinge" else 1.0))
    limit = cb.TimeLimit(training.minutes)
    state = cb.TrainingState(
        run.state,
        {
            best: ("best", "best_epoch", "best_report"),
            plateau: ("best", "wait", "cooldown_counter"),
            stop: ("best", "wait", "best_epoch"),
            collapse: ("announced",),
            limit: ("spent",),
        },
    )
    pairs = training.batch_size * (1 + training.negatives)
    calls = [
        cb.WarmUp(training.warmup_steps, training.learning_rate),
        cb.StopAtNaN(),
        Throughput(pairs),
        validate,
    ]
    calls += [best, collapse, plateau, stop, limit]
    draw = _attention_drawer(config, data, tokenizer, model, validation)
    calls += [AttentionImages(run.logs / "attention", draw, every=max(1, training.epochs // 10))]
    calls += [RunHparams(run.logs, config), tf.keras.callbacks.TensorBoard(run.logs, write_graph=False)]
    calls += [HistoryFile(run.history_file)]
    if progress:
        calls.append(ProgressBar(pairs))
    return [*calls, state], state, best


def chance_rsum(images: int, captions: int) -> float:
    """rsum that random scores reach on average, in percent points."""
    per_image = captions / images
    return sum(100 * (min(1.0, k / images) + 1 - max(0.0, 1 - k / captions) ** per_image) for k in (1, 5, 10))


def _attention_drawer(config, data: Data, tokenizer, model: Bssan, validation: Split):
    """A function that draws the attention of the first validation pairs as it is now."""
    from bssan_tf.visualization import draw_pairs

    few = validation.first_images(ATTENTION_PAIRS, seed=config.training.seed).captions_per_image(1)
    return lambda: draw_pairs(model.scorer, data.features, few, tokenizer)


def _finish(config, run: RunFolder, tokenizer, model: Bssan, state: cb.TrainingState, best: cb.BestScorer) -> dict:
    """Write metrics.json and the SavedModel of the best epoch."""
    epochs = state.finished_epochs()
    if best.best_report is None:
        state.restore_remembered()
    metrics = {
        "run": run.name,
        "corpus": config.data.data,
        "split": "val",
        "epochs": epochs,
        "best_epoch": best.best_epoch,
        **best.best_report,
    }
    write_json(run.metrics_file, metrics)
    model.scorer.load_weights(run.best)
    export_saved_model(model.scorer, tokenizer.layer, run.export)
    return metrics
