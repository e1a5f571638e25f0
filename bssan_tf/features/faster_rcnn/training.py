"""Approximate joint training of Faster R-CNN (Ren et al., 2015), resumable to the same numbers.

In: annotated photos, settings, initial weights. Out: a folder with the settings (`settings.json`), the state to go on
with (`state/`), TensorBoard's logs (`logs/`), `history.csv`, and at the end the weights (`weights.npz`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.images import prepare
from bssan_tf.features.faster_rcnn.model import FasterRcnn, JointTraining
from bssan_tf.features.faster_rcnn.photos import AnnotatedPhotos
from bssan_tf.features.faster_rcnn.settings import DetectorConfig, DetectorTraining
from bssan_tf.features.faster_rcnn.weights import initial_file, load_initial, save_weights
from bssan_tf.features.pictures import read_picture
from bssan_tf.reading.documents import read_json
from bssan_tf.reading.files import refusing
from bssan_tf.tools.files import file_sha256, write_json
from bssan_tf.tools.keras_callbacks import HistoryFile, StopAtNaN, TensorBoard, Throughput
from bssan_tf.tools.step_dataset import StepDataset
from bssan_tf.tools.training_state import TrainingState, newest_state

logger = logging.getLogger(__name__)


class PhotoStream:
    """Batches of photos and their objects, as a function of the step number.

    A round passes all photos in a new order, each once as it is and once mirrored; the rest behind its last whole batch
    is left out. So are difficult objects, and photos that have no other.
    """

    def __init__(self, photos: AnnotatedPhotos, config: DetectorConfig, training: DetectorTraining):
        self.photos, self.config, self.training = photos.with_objects(), config, training
        B, count = training.photos_per_step, len(self.photos.paths)
        self.round_steps = 2 * count // B
        if not self.round_steps:
            raise UserError(f"--photos-per-step {B}: there are only {count} photos with objects; take a smaller number")

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Inputs of the training graph at a step, counted from 0."""
        number, place = divmod(step, self.round_steps)
        B, photos = self.training.photos_per_step, len(self.photos.paths)
        order = np.random.default_rng([self.training.seed, number]).permutation(2 * photos)
        pixels, own, labels = zip(*(self._one(row % photos, row >= photos) for row in order[place * B :][:B]))
        if len({one.shape for one in pixels}) > 1:
            raise UserError(f"--photos-per-step {B}: the photos have several sizes; take 1")
        most = max(map(len, labels))
        boxes, classes = np.zeros((B, most, 4), np.float32), np.zeros((B, most), np.int32)
        for i, found in enumerate(own):
            boxes[i, : len(found)], classes[i, : len(found)] = found, labels[i] + 1
        seeds = np.array([(self.training.seed, step * B + i) for i in range(B)]).astype(np.int32)
        return {"pixels": np.stack(pixels), "boxes": boxes, "classes": classes, "seed": seeds}

    def _one(self, row: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, boxes in their pixels, and classes of a photo."""
        photo, _ = read_picture(self.photos.paths[row], side=None)
        counts = ~self.photos.difficult[row]
        boxes, classes = self.photos.boxes[row][counts], self.photos.classes[row][counts]
        if mirrored:
            photo, last = photo[:, ::-1], photo.shape[1] - 1
            boxes = np.stack([last - boxes[:, 2], boxes[:, 1], last - boxes[:, 0], boxes[:, 3]], -1)
        pixels, scale = prepare(photo, self.config.short_side, self.config.long_side)
        return pixels, boxes * np.float32(scale), classes

    def dataset(self) -> StepDataset:
        """Steps of the training."""
        B = self.training.photos_per_step
        specs = {
            "pixels": tf.TensorSpec((B, None, None, 3), tf.float32),
            "boxes": tf.TensorSpec((B, None, 4), tf.float32),
            "classes": tf.TensorSpec((B, None), tf.int32),
            "seed": tf.TensorSpec((B, 2), tf.int32),
        }
        return StepDataset(self.batch, specs, readers=2)


def compile_training(model: FasterRcnn, training: DetectorTraining) -> JointTraining:
    """The training graph with SGD, the first blocks of the trunk frozen."""
    for layer in model.trunk.layers:
        layer.trainable = not layer.name.startswith(tuple(f"block{i + 1}" for i in range(training.frozen_blocks)))
    graph = model.training(training)
    slow, fast = training.learning_rate / 10, training.learning_rate
    bounds = [training.warmup_steps - 1, training.decay_step - 1]  # the last steps before a change
    rate = tf.keras.optimizers.schedules.PiecewiseConstantDecay(bounds, [slow, fast, slow])
    clip = training.clip_norm or None
    optimizer = tf.keras.optimizers.SGD(rate, momentum=training.momentum, global_clipnorm=clip)
    graph.compile(optimizer=optimizer, jit_compile=False)
    optimizer.build(graph.trainable_variables)  # now, so that a saved state finds its slots
    return graph


def train(
    photos: AnnotatedPhotos,
    config: DetectorConfig,
    training: DetectorTraining,
    folder: Path,
    initial: str | Path | None = None,
    progress: bool = True,
) -> FasterRcnn:
    """Train a detector, or go on with the training that a folder holds.

    A state saved in it must be of the same photos, settings (except `steps`) and initial weights, see `load_initial`;
    None for random ones. UserError if it is not, if photos can't be read, or the loss is no number.
    """
    saved = newest_state(folder / "state", folder / "history.csv", folder / "weights.npz")
    done = saved.epoch if saved else 0
    initial = None if initial is None else initial_file(initial)
    settings = _settings(photos, config, training, initial)
    if done:  # before the first saved state there is nothing that other settings could spoil
        _check_settings(folder / "settings.json", settings)
    tf.keras.utils.set_random_seed(training.seed)
    if not tf.config.list_physical_devices("GPU"):  # there, the gradient of the crop has no deterministic form
        tf.config.experimental.enable_op_determinism()
    model, stream = FasterRcnn(config), PhotoStream(photos, config, training)
    if not done and initial is not None:
        load_initial(model, initial)
    graph, save_every = compile_training(model, training), training.save_every
    epochs = -(-training.steps // save_every)
    state = TrainingState(folder / "state", {}, saved)
    speed = Throughput(training.photos_per_step, unit="photos")
    board = TensorBoard(folder / "logs", write_graph=False)
    callbacks = [speed, StopAtNaN(), HistoryFile(folder / "history.csv"), board, state]
    if progress:
        from bssan_tf.tools.tfa import ProgressBar  # late: it loads TensorFlow Addons

        callbacks.append(ProgressBar(shown=("loss",), unit="photos"))
    start, stop = done * save_every, epochs * save_every
    logger.info("%s: step %d of %d", folder, start, stop)
    if done < epochs:
        stream.batch(start)  # what can't be is refused before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "settings.json", settings)
        batches = stream.dataset()
        turns = {"epochs": epochs, "initial_epoch": done, "steps_per_epoch": save_every, "shuffle": False}
        with batches.own_errors():
            graph.fit(batches.steps(start, stop), **turns, callbacks=callbacks, verbose=0)
    else:
        state.set_model(graph)
        state.on_train_begin()
    save_weights(model, folder / "weights.npz")
    return model


def _settings(photos: AnnotatedPhotos, config: DetectorConfig, how: DetectorTraining, initial: Path | None) -> dict:
    """What a training is begun with, as JSON values."""
    digest = hashlib.sha256()
    for path, *arrays in zip(photos.paths, photos.boxes, photos.classes, photos.difficult):
        digest.update(path.name.encode() + b"\0")  # without the folder, which may be moved
        for array in arrays:
            digest.update(array.tobytes() + b"\0")
    return {
        "detector": json.loads(config.to_json()),
        "training": json.loads(json.dumps(dataclasses.asdict(how))),  # lists for tuples
        "photos": f"{len(photos.paths)} with SHA-256 {digest.hexdigest()}",
        "initial": initial and file_sha256(initial),
    }


def _check_settings(path: Path, settings: dict) -> None:
    """Compare the settings of a training with those in the file that it was begun with."""
    remedy = "remove its folder or give another --out"
    found = read_json(path, remedy)
    with refusing(str(path), "damaged", remedy):
        parts = {part: dict(found[part]) for part in ("detector", "training")}
    for part, kept in parts.items():
        for name, wanted in settings[part].items():
            there = kept.get(name)
            if name != "steps" and there != wanted:
                raise UserError(f"{path}: {name} is {there} there, {wanted} asked for; give the same, or another --out")
    for part, what in (("photos", "other photos"), ("initial", "another --initial")):
        if found.get(part) != settings[part]:
            raise UserError(f"{path}: was begun with {what} ({found.get(part)}); give the same, or another --out")
