"""Photos of no corpus, described as a run's own pictures were: one photo, or the photos of a folder.

In: a run, its config with its files where they are now, and picture files. Out: regions, objects and valid as the model
takes them, and the boxes behind the objects. One photo is decoded once; a folder's features are kept in the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets import scenes_folder
from bssan_tf.datasets.scenes import boxes_file
from bssan_tf.errors import UserError
from bssan_tf.features.context import RunContext, in_context, known_classes, photo_means, with_context
from bssan_tf.features.objects import BoxesFile, grid_boxes, top_objects
from bssan_tf.features.pictures import read_picture, shrink
from bssan_tf.features.store import Features
from bssan_tf.runs.data import (
    build_detector,
    build_extractor,
    corpus_of,
    objects_from,
    store_name,
    tell_fixed_boxes,
)
from bssan_tf.runs.folder import RunFolder

OTHERS = "--objects keras_hub:PRESET or --boxes FILE.npz"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded picture file."""

    path: Path
    pixels: np.ndarray  # uint8 (224, 224, 3), RGB, as the backbone sees it
    size: tuple[int, int]  # height and width of the upright photo in pixels
    whole: np.ndarray | None = None  # uint8 (height, width, 3) where a detector looks at it

    @classmethod
    def read(cls, path: str | Path, data: DataConfig) -> Photo:
        """Decode a file, for a run with these data settings; UserError where it is no picture."""
        if not data.detects:
            return cls(Path(path), *read_picture(path))
        whole, size = read_picture(path, side=None)
        return cls(Path(path), shrink(whole), size, whole)


def photo_inputs(
    run: RunFolder, config: Config, photo: Photo, boxes: Path | None = None
) -> tuple[SimpleNamespace, dict[str, np.ndarray]]:
    """What the run's model takes of one photo, and its objects.

    Args:
        boxes: a boxes file that must list the photo, or None for the run's own of its own photos, else ten fixed boxes.

    Returns:
        regions float32 (1, D, M), objects float32 (1, P, Q) and valid bool (1, P), as attributes; and boxes float32
        (P, 4) in [0, 1], classes, scores, valid and `labels` (or None).

    Raises:
        UserError: as `extractors_of`; `boxes` does not list the photo, or cannot stand in for a detector's fc7.
    """
    if boxes is not None and config.data.objects == "faster_rcnn":
        raise UserError(f"--boxes {boxes}: the run's objects are Faster R-CNN's fc7, not boxes; leave it out")
    data = config.data if boxes is None else dataclasses.replace(config.data, objects="boxes")
    extractor, detector = extractors_of(run, data)
    if detector:
        objects = {**detector.objects(photo.whole, config.model.P), "labels": detector.labels}
    else:
        objects = _boxed_objects(config, photo, boxes)
    found = extractor.describe(photo.pixels[None], objects["boxes"][None], objects["valid"][None])
    if "objects" in objects:
        found["objects"] = objects["objects"][None]
    if context := run_context(run, config):
        sure = {name: objects[name][None] for name in ("scores", "valid")}
        classes = known_classes(objects["classes"][None], objects.get("labels"), context.labels)
        means = photo_means(found["regions"])
        found["objects"] = in_context(objects=found["objects"], classes=classes, **sure, means=means, Q=context.Q)
    arrays = {name: value.astype(np.float32) for name, value in found.items()}
    return SimpleNamespace(**arrays, valid=objects["valid"][None]), objects


def _boxed_objects(config: Config, photo: Photo, boxes: Path | None) -> dict[str, np.ndarray]:
    """Objects of one photo from a file of boxes, or ten fixed ones, which is said."""
    name, count = photo.path.name, config.model.P
    if boxes is not None:
        file = BoxesFile(boxes)
        if (row := file.row_of_name.get(name)) is None:
            raise UserError(f"--boxes {boxes}: does not list {name}; add it, or leave --boxes out")
    elif own := _own_boxes(config.data, [photo.path]):
        file, (row,) = own.file, own.rows
    else:
        if config.data.objects == "grid":
            tell_fixed_boxes()
        else:
            logger.info("boxes of %s: ten fixed ones; %s gives real ones", name, OTHERS)
        return grid_boxes(count)
    logger.info("boxes of %s: from %s", name, file.path)
    return {**top_objects(file.boxes[row], photo.size, count), "labels": file.labels}


class OwnBoxes(NamedTuple):
    """What a run's boxes file says of some photos of the run's own corpus."""

    file: BoxesFile
    ids: tuple[str, ...]  # of the photos in the corpus
    rows: tuple[int, ...]  # of the photos in the file


def _own_boxes(data: DataConfig, paths: Sequence[Path]) -> OwnBoxes | None:
    """The run's own boxes of these photos; None if it has none, or one of the files is not a photo of its corpus.

    A name alone does not tell: another photo may have it.
    """
    own = data.boxes or (boxes_file(scenes_folder(data.cache)) if data.data == "scenes" else None)
    if data.objects != "boxes" or own is None or not Path(own).exists():
        return None
    file, names = BoxesFile(own), {path.name for path in paths}
    if not names <= {name.rpartition("/")[2] for name in file.row_of_name}:
        return None  # before the corpus, which takes longer
    try:
        corpus = corpus_of(data, progress=False)
        images = [(i, path) for i, path in zip(corpus.image_ids, corpus.image_paths) if path.name in names]
        rows = file.rows(*zip(*images)) if images else ()
    except UserError as error:
        logger.info("the boxes of the run's own photos can't be told: %s", error)
        return None
    found = {os.path.realpath(path): (image_id, int(row)) for (image_id, path), row in zip(images, rows)}
    real = [os.path.realpath(path) for path in paths]
    if len(set(real)) < len(real) or not set(real) <= found.keys():
        return None
    return OwnBoxes(file, *zip(*(found[path] for path in real)))


def extractors_of(run: RunFolder, data: DataConfig):
    """A run's extractor, and the detector of its settings or None.

    UserError if weights are others now than in the training, or arrays were imported; for a detector that the run was
    not trained with, if the run needs the names of its classes, but knows none.
    """
    if data.import_regions or data.import_objects:
        raise UserError(f"{run.path}: was trained on imported arrays, so there is no extractor for new photos")
    extractor, detector = build_extractor(data), build_detector(data)
    made_with = {"extractor": extractor.name, "weights_sha256": extractor.weights_sha256}
    if detector and data.objects == run.load_config().data.objects:
        made_with["boxes"] = detector.name
    elif detector and data.object_context and not run.trained_data().get("labels"):
        problem = "the run does not know its classes by name"
        raise UserError(f"--objects {data.objects}: {problem}; leave it out, or train with boxes that name them")
    run.require_same_data(made_with, tuple(made_with))
    return extractor, detector


def run_context(run: RunFolder, config: Config) -> RunContext | None:
    """How objects of new photos get the context that a run's objects have; None if they have none."""
    return RunContext(config.model.Q, run.trained_data().get("labels")) if config.data.object_context else None


def folder_features(
    run: RunFolder, config: Config, folder: Path, paths: Sequence[Path], flags: Mapping[str, str] | None, progress: bool
) -> Features:
    """Features of the photos of a folder, kept in the cache; unreadable ones are left out with a warning.

    Args:
        folder: names the store.
        paths: the photos, row by row.
        flags: what was given; `boxes` among them must list all photos. The run's own is for photos of the run's corpus,
            else they have ten fixed boxes.

    Raises:
        UserError: as `extractors_of`, or given boxes that do not list all of the photos.
    """
    from bssan_tf.features.extraction import extract_features

    data, ids = config.data, tuple(path.name for path in paths)
    if len(set(ids)) < len(ids):
        ids = tuple(path.relative_to(folder).as_posix() for path in paths)
    extractor, boxes = extractors_of(run, data)
    if boxes is None and (data.objects != "boxes" or "boxes" in (flags or {})):
        boxes = objects_from(data)
    elif boxes is None and (own := _own_boxes(data, paths)):
        boxes, ids = own.file.path, own.ids
    elif boxes is None:
        boxes, told = "grid", "objects: ten fixed boxes, as %s are the run's own for its own photos; %s gives theirs"
        logger.info(told, data.boxes or "scenes' boxes", OTHERS)
    corpus = SimpleNamespace(name=folder.name, image_ids=ids, image_paths=tuple(paths))
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    store = Path(data.cache) / f"photos-{folder.name}-{key}" / store_name(extractor, boxes)
    checks = {"verify": data.verify, "check_photos": data.check_photos}
    features = extract_features(
        corpus, store, extractor, boxes=boxes, skip_bad_images=True, progress=progress, may_lose=True, **checks
    )
    context = run_context(run, config)
    return with_context(features, context) if context else features
