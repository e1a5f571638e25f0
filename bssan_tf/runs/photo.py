"""Photos of no corpus, described as a run's own pictures were: one photo, or the photos of a folder.

In: a run, its config with its files where they are now, and picture files. Out: regions, objects and valid as the model
takes them, and the boxes behind the objects. One photo is decoded once; a folder's features are kept in the cache.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Union

import numpy as np
from PIL import Image

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets.picture_folder import Pictures
from bssan_tf.errors import UserError
from bssan_tf.features.context import RunContext, in_context, known_classes, photo_means, with_context
from bssan_tf.features.growing import in_store_order
from bssan_tf.features.objects import BoxesFile, grid_boxes, top_objects
from bssan_tf.features.pictures import SIDE, as_image, picture_of, read_picture, shrink
from bssan_tf.features.store import IDS, Features, read_ids
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.own_boxes import OwnFile
from bssan_tf.runs.sources import (
    detector_of,
    extractor_of,
    objects_from,
    require_extracted,
    store_name,
    tell_fixed_boxes,
)

OTHERS = "--objects keras_hub:PRESET or --boxes FILE.npz"

logger = logging.getLogger(__name__)

_BOXES = ("boxes", "valid")  # what the extractor takes of objects
Source = Union[str, Path, Image.Image, np.ndarray]  # a photo: its file, or its pixels


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded picture."""

    path: Path  # of its file; of pixels that were given, a name
    pixels: np.ndarray  # uint8 (side, side, 3), RGB, as the backbone sees it
    size: tuple[int, int]  # height and width of the upright photo in pixels
    whole: np.ndarray | None = None  # uint8 (height, width, 3) where a detector looks at it

    @classmethod
    def read(cls, source: Source, data: DataConfig, side: int = SIDE, name: str = "photo") -> Photo:
        """Decode a file, or take a PIL image or an array uint8 (height, width, 3); UserError where it is no picture.

        `data` are the run's settings, `side` the backbone's; what has no file is called `name`.
        """
        read, given = read_picture, source
        if isinstance(source, (str, Path)):
            name = source
        else:
            read, given = picture_of, as_image(source, name)
        if not data.detects:
            return cls(Path(name), *read(given, side=side))
        whole, size = read(given, side=None)
        return cls(Path(name), shrink(whole, side), size, whole)


class PhotoReader:
    """Describes photos as a run's own pictures were; its networks are built once.

    Args:
        config: the run's, its files where they are now.
        boxes: a boxes file that must list the photos, or None for the run's own of its own photos, the detector's where
            it has one, else ten fixed boxes.

    Raises:
        UserError: as `extractors_of`; boxes cannot stand in for a detector's fc7.
    """

    def __init__(self, run: RunFolder, config: Config, boxes: Path | None = None):
        if boxes is not None and config.data.objects == "faster_rcnn":
            raise UserError(f"--boxes {boxes}: the run's objects are Faster R-CNN's fc7, not boxes; leave it out")
        data = config.data if boxes is None else dataclasses.replace(config.data, objects="boxes")
        self.config, self.data, self.boxes = config, data, boxes
        self.extractor, self.detector = extractors_of(run, data)
        self.context = run_context(run, config)
        self.own, self.told = OwnFile(run, config.data), set()

    def require_weights(self, manifest: Mapping) -> None:
        """UserError where features, of a store with this manifest, were made with other weights of the backbone."""
        if manifest.get("weights_sha256") not in (None, self.extractor.weights_sha256):
            told = "they are not those that the features of known photos were made with"
            raise UserError(f"the backbone's weights: {told}; give those by --backbone-weights, or another --cache")

    @functools.cached_property
    def given(self) -> BoxesFile | None:
        """The given boxes, read once."""
        return self.boxes and BoxesFile(self.boxes)

    def read(self, photos: Sequence[Photo], known: dict | None = None) -> tuple[SimpleNamespace, list[dict]]:
        """What the run's model takes of n photos, and the objects of each.

        Args:
            known: the objects that all of them have, as an earlier call gave them for one photo; Faster R-CNN, whose
                objects have features of their own, looks again all the same.

        Returns:
            regions float16 (n, D, M), objects float16 or float32 (n, P, Q) and valid bool (n, P), as attributes; and
            for each photo boxes float32 (P, 4) in [0, 1], classes, scores, valid and `labels` (or None).

        Raises:
            UserError: the boxes file does not list a photo.
        """
        if known is not None and "objects" not in known:
            found = [known] * len(photos)
        elif self.detector:
            labels, count = {"labels": self.detector.labels}, self.config.model.P
            found = [{**self.detector.objects(photo.whole, count), **labels} for photo in photos]
        else:
            found = _boxed_objects(self, photos)
        stacked = {name: np.stack([one[name] for one in found]) for name in found[0] if name != "labels"}
        arrays = self.extractor.describe(np.stack([photo.pixels for photo in photos]), *map(stacked.get, _BOXES))
        arrays["objects"] = stacked.get("objects", arrays["objects"])  # a detector describes its own
        if self.context:
            classes = [known_classes(one["classes"], one["labels"], self.context.labels) for one in found]
            given = {name: stacked[name] for name in ("scores", "valid")} | {"objects": arrays["objects"]}
            given |= {"means": photo_means(arrays["regions"]), "Q": self.context.Q, "shares": self.context.shares}
            arrays["objects"] = in_context(**given, classes=np.stack(classes))
        return SimpleNamespace(**arrays, valid=stacked["valid"]), found


def _boxed_objects(reader: PhotoReader, photos: Sequence[Photo]) -> list[dict]:
    """Objects of each photo from a file of boxes, or ten fixed ones; which of them is said once."""
    count, file = reader.config.model.P, reader.given
    if file is not None:
        rows = [file.row_at(photo.path) for photo in photos]
        if None in rows:
            name = photos[rows.index(None)].path.name
            raise UserError(f"--boxes {file.path}: does not list {name}; add it, or leave --boxes out")
    else:
        own = reader.own.of([photo.path for photo in photos])
        file, rows = own and own.file, [own and own.row(photo.path) for photo in photos]
    found = []
    for photo, row in zip(photos, rows):
        given = grid_boxes(count) if row is None else top_objects(file.boxes[row], photo.size, count)
        found.append({**given, "labels": None if row is None else file.labels})
    for fixed in (False, True):
        some = [photo.path.name for photo, row in zip(photos, rows) if (row is None) is fixed]
        if some and fixed and reader.config.data.objects == "grid":
            tell_fixed_boxes()
        elif some and fixed not in reader.told:
            reader.told.add(fixed)
            names = some[0] if len(some) == 1 else f"{len(some)} photos"
            told = f"ten fixed ones; {OTHERS} gives real ones" if fixed else f"from {file.path}"
            logger.info("boxes of %s: %s", names, told)
    return found


def extractors_of(run: RunFolder, data: DataConfig):
    """A run's extractor, and the detector of its settings or None; UserError as `extractor_of` and `detector_of`."""
    return extractor_of(run, data), detector_of(run, data)


def run_context(run: RunFolder, config: Config) -> RunContext | None:
    """How objects of new photos get the context that a run's objects have; None if they have none."""
    if not config.data.object_context:
        return None
    return RunContext(config.model.Q, run.trained_data().get("labels"), config.data.object_shares)


def folder_features(
    run: RunFolder, config: Config, folder: Path, paths: Sequence[Path], flags: Mapping[str, str] | None, progress: bool
) -> Features:
    """Features of the photos of a folder, kept in the cache; unreadable ones are left out with a warning.

    Args:
        folder: names the store, in which a photo is known by its path relative to it.
        paths: the photos, row by row.
        flags: what was given; `boxes` among them must list all photos. The run's own is for photos of the run's corpus,
            else they have ten fixed boxes.

    Raises:
        UserError: as `extractors_of`, or given boxes that do not list all of the photos.
    """
    return _folder_features(run, config, folder, paths, flags, progress)[0]


def folder_index(
    run: RunFolder, config: Config, folder: Path, found: Pictures, flags: Mapping[str, str] | None, progress: bool
) -> tuple[Features, np.ndarray, list[Path]]:
    """`folder_features` in the order of the store, with new photos last so that no row moves, and maybe rows of photos
    that are gone; the rows of the photos that can be read now, and these photos.

    UserError, too, where none can, or the store knows photos that are hidden now: nothing of it is dropped.
    """
    features, paths = _folder_features(run, config, folder, found.paths, flags, progress, found)
    asked = set(found.paths)
    known = [row for row in np.setdiff1d(np.arange(len(paths)), features.bad_rows).tolist() if paths[row] in asked]
    rows = [row for row in known if os.path.exists(paths[row])]  # Path.exists raises for a disk that is gone
    if not known:
        raise UserError(f"{folder}: none of its pictures can be read; give another folder, or mend them")
    if lost := sorted(set(known) - set(rows)):
        gone = [paths[row].relative_to(folder).as_posix() for row in lost]
        problem = f"{len(gone)} known photos can't be read now, as links that lead nowhere: {', '.join(gone[:3])}"
        if not rows:
            raise UserError(f"{folder}: {problem}; mount the disk, or give another folder")
        logger.warning("%s: %s; they are left out, and their features kept", folder, problem)
    return features, np.array(rows), [paths[row] for row in rows]


def _folder_features(
    run, config, folder, paths, flags, progress, found: Pictures | None = None
) -> tuple[Features, list[Path]]:
    """Features and paths; with `found` in the order of the store."""
    from bssan_tf.features.extraction import extract_features

    require_extracted(run, config.data)
    data, ids = config.data, [path.relative_to(folder).as_posix() for path in paths]
    boxes, by_path = detector_of(run, data), True
    if boxes is None and (data.objects != "boxes" or "boxes" in (flags or {})):
        boxes = objects_from(data)
    elif boxes is None and (own := OwnFile(run, data).of(paths)) and len(own.images) == len(paths):
        by_path = False  # so that it can't be told where those that are gone were
        boxes, ids = own.file.path, [own.images[os.path.realpath(path)][0] for path in paths]
    elif boxes is None:
        boxes, told = "grid", "objects: ten fixed boxes, as no detector looks at these photos; %s gives real ones"
        logger.info(told, OTHERS)
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    kind = "photos" if found else "pointing"  # apart: to each, the other's photos would be gone

    def store_of(name: str) -> Path:
        return Path(data.cache) / f"{kind}-{folder.name}-{key}" / store_name(name, boxes)

    extractor = extractor_of(run, data, store_of)
    store = store_of(extractor.name)
    if found and (store / IDS).exists():
        gone = set(read_ids(store)) - set(ids)
        hidden = found.hidden(gone) if by_path else (found.unread or found.heic) and gone
        if hidden:
            problem = f"the index may have {len(hidden)} photos that can't be read now"
            raise UserError(f"{folder}: {problem}: {found.told()}; or remove it to drop them")
        path_of = dict(zip(ids, paths))
        by_file = isinstance(boxes, (str, Path)) and boxes != "grid"  # which finds no boxes for those that are gone
        ids = in_store_order(store, ids, keep_gone=not by_file)
        paths = [path_of.get(name, folder / name) for name in ids]
    corpus = SimpleNamespace(name=folder.name, image_ids=tuple(ids), image_paths=tuple(paths))
    once = {"verify": data.verify, "check_photos": data.check_photos, "engine": data.engine}
    features = extract_features(
        corpus, store, extractor, boxes=boxes, skip_bad_images=True, progress=progress, may_lose=True, **once
    )
    context = run_context(run, config)
    return with_context(features, context) if context else features, list(paths)
