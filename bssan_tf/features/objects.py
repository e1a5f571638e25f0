"""Objects of a picture: which boxes, and what the backbone's map says about each.

In: the boxes of any detector (`BoxesFile`), or the fixed `grid_boxes`. Out: the best P boxes of a photo, as fractions
of it, with class, score and validity; and `roi_means`, the mean feature of each box on a feature map.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.datasets.files import read_lines
from bssan_tf.datasets.words import split_words
from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import first_not_finite, read_npz, texts
from bssan_tf.reading.files import refusing

ROI_SIDE = 7
NO_CLASS = -1
MOST_CLASSES = 1_000_000
FIXED_NAMES = (
    "whole photo",
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)  # of `grid_boxes`
BOXES_REMEDY = "see docs/data.md, 'Boxes'"


def roi_means(maps: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Mean feature of each box (RoI Align), float32 (B, P, M): bilinear samples at the centres of its 7x7 division.

    The value of cell i of n stands at the fraction (i+0.5)/n of the picture; beyond the outermost it goes on unchanged.

    Args:
        maps: float32 (B, h, w, M).
        boxes: float32 (B, P, 4), x1, y1, x2, y2 in [0, 1].
    """
    batch, height, width, channels = (tf.shape(maps)[i] for i in range(4))
    objects = tf.shape(boxes)[1]
    # crop_and_resize takes 0 outside the map; half a cell at each edge is outside the cells' centres.
    maps = tf.pad(maps, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")  # (B, h+2, w+2, M)
    x1, y1, x2, y2 = tf.unstack(tf.reshape(boxes, (-1, 4)), axis=-1)  # (B*P,) each
    y1, y2 = _sample_range(y1, y2, height)
    x1, x2 = _sample_range(x1, x2, width)
    which = tf.repeat(tf.range(batch), objects)  # (B*P,)
    crops = tf.image.crop_and_resize(maps, tf.stack([y1, x1, y2, x2], -1), which, (ROI_SIDE, ROI_SIDE))
    return tf.reshape(tf.reduce_mean(crops, axis=(1, 2)), (batch, objects, channels))


def _sample_range(low, high, cells):
    """First and last sample as crop_and_resize wants them: fractions of the padded map's last index."""
    cells, half_bin = tf.cast(cells, tf.float32), (high - low) / (2 * ROI_SIDE)
    # fraction f lies at index f * cells - 0.5 of the map, one further in the padded map
    return (((edge * cells) + 0.5) / (cells + 1.0) for edge in (low + half_bin, high - half_bin))


def empty_objects(count: int) -> dict[str, np.ndarray]:
    """P rows without object: boxes float32 (P, 4), classes int32, scores float32, valid bool (P,)."""
    return {
        "boxes": np.zeros((count, 4), np.float32),
        "classes": np.full(count, NO_CLASS, np.int32),
        "scores": np.zeros(count, np.float32),
        "valid": np.zeros(count, bool),
    }


def _filled(count: int, boxes: np.ndarray, classes, scores) -> dict[str, np.ndarray]:
    """`empty_objects` with valid ones in the first rows."""
    objects = empty_objects(count)
    for name, values in (("boxes", boxes), ("classes", classes), ("scores", scores), ("valid", True)):
        objects[name][: len(boxes)] = values
    return objects


def top_objects(detections: np.ndarray, size: tuple[int, int], count: int = 10) -> dict[str, np.ndarray]:
    """The best `count` detections of one photo, without those that have no area inside the photo.

    Args:
        detections: float (n, 6), x1, y1, x2, y2 in pixels of the photo, score, class.
        size: (height, width) of the photo in pixels.

    Returns:
        dict as `empty_objects`, highest score first (equal scores in the file's order), boxes clipped to [0, 1].
    """
    height, width = size
    detections = np.asarray(detections, np.float64)
    boxes = np.clip(detections[:, :4] / [width, height, width, height], 0.0, 1.0).astype(np.float32)
    scores = detections[:, 4]
    real = (scores > 0) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.argsort(-scores, kind="stable")
    chosen = order[real[order]][:count]
    return _filled(count, boxes[chosen], detections[chosen, 5], scores[chosen])


def detection_rows(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """A detector's boxes (n, 4), scores and classes (n,) as rows of a boxes file: float32 (n, 6)."""
    columns = [found["boxes"], found["scores"][:, None], found["classes"][:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)


def class_names(classes: Sequence[int], labels: Sequence[str] | None) -> list[str] | None:
    """The names of some objects' classes, "" where one has none; None where no class has a name."""
    return [labels[c] if 0 <= c < len(labels) else "" for c in classes] if labels else None


def read_class_names(path: str | Path, source: str, count: int | None = None) -> tuple[str, ...]:
    """The names of classes, in the order of their numbers, from a file with one a line.

    UserError, which begins with `source`, for a line without a word, or another number of names than `count`.
    """
    names = [text.strip() for _, text in read_lines(Path(path))]
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, 1):
        if not split_words(name):
            raise UserError(f"{source}: line {number} has no word; give each class its name")
    if count is not None and len(names) != count:
        raise UserError(f"{source}: has {len(names)} names, the detector {count} classes; give each class its line")
    return tuple(names)


def fixed_names(boxes: np.ndarray) -> list[str] | None:
    """Where in the photo each of `grid_boxes` lies; None for any other boxes float (P, 4)."""
    if not np.array_equal(boxes, grid_boxes(len(boxes))["boxes"]):
        return None
    return [*FIXED_NAMES, *[""] * len(boxes)][: len(boxes)]


def grid_boxes(count: int = 10) -> dict[str, np.ndarray]:
    """The first `count` of the whole photo and its 3x3 cells, row by row; as `empty_objects`, scores 1, classes -1."""
    thirds = np.arange(3) / 3
    cells = [(x, y, x + 1 / 3, y + 1 / 3) for y in thirds for x in thirds]
    return _filled(count, np.clip([(0, 0, 1, 1), *cells], 0, 1)[:count], NO_CLASS, 1.0)


class BoxesFile:
    """Boxes of any detector, read from an .npz.

    Its arrays: `names` str (N,), photo file names; `boxes` float (N, n, 6), x1, y1, x2, y2 in pixels of the upright
    photo, score, class; rows with score <= 0 or without area are "no box". Optional `labels` str (C,), the classes'
    names, here a tuple or None.
    """

    def __init__(self, path: str | Path):
        self.path, source = Path(path), f"--boxes {path}"
        arrays = read_npz(path, BOXES_REMEDY, ("names", "boxes"), ("labels",), source)
        with refusing(source, "its arrays are not those of a boxes file", BOXES_REMEDY):
            names, self.boxes = texts(arrays["names"], "names"), arrays["boxes"]
            self.labels = texts(arrays["labels"], "labels") if "labels" in arrays else None
            self._check(names)
        self.row_of_name = {name: row for row, name in enumerate(names)}
        if len(self.row_of_name) != len(names):
            raise UserError(f"{source}: some names occur twice; one row for each photo is wanted")

    def _check(self, names: tuple[str, ...]) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 6 or self.boxes.dtype.kind != "f":
            raise ValueError(f"boxes is {self.boxes.dtype} {self.boxes.shape}, not float (N, n, 6)")
        if len(names) != len(self.boxes):
            raise ValueError(f"{len(names)} names but {len(self.boxes)} rows of boxes")
        if (row := first_not_finite(self.boxes)) is not None:
            raise ValueError(f"{names[row]} has values that are not finite")
        if self.boxes.size and (self.boxes[..., 4] > 0).any() and self.boxes[..., :4].max() <= 1.0:
            raise ValueError("all corners are at most 1, but pixels of the photo file are wanted")
        classes = self.boxes[self.boxes[..., 4] > 0][:, 5]
        most = len(self.labels) if self.labels else MOST_CLASSES
        if len(wrong := classes[(classes != np.floor(classes)) | (classes < NO_CLASS) | (classes >= most)]):
            raise ValueError(f"class {wrong[0]:g}, of {most} classes; numbers begin with 0")

    @functools.cached_property
    def names_of(self) -> dict[str, list[str]]:
        """The names of rows, by the file name that they end in."""
        found: dict[str, list[str]] = {}
        for name in self.row_of_name:
            found.setdefault(name.rpartition("/")[2], []).append(name)
        return found

    def row_at(self, path: Path, known: Collection[str] = ()) -> int | None:
        """The row whose name the place of a photo ends in, the longest such; None if there is none.

        Args:
            path: the photo's, as it was given; links are followed, too.
            known: names that are other photos'.

        Raises:
            UserError: another row has a longer name of the same end, and no photo of its own beside this one.
        """
        places = [Path(place(path)).as_posix() for place in (os.path.abspath, os.path.realpath)]
        names = {name for place in places for name in self.names_of.get(place.rpartition("/")[2], ())}
        named = [(name, place) for place in places for name in names if f"/{place}".endswith(f"/{name}")]
        if not named:
            return None
        name, place = max(named, key=lambda found: found[0].count("/"))
        root = place[: -len(name)]
        for other in names - set(known):
            if other.endswith(f"/{name}") and not os.path.exists(root + other):
                problem = f"{path} may be the photo of its row {name} or of {other}"
                raise UserError(f"--boxes {self.path}: {problem}; give a file that has only one of them")
        return self.row_of_name[name]

    def rows(self, image_ids: Sequence[str], image_paths: Sequence[Path]) -> np.ndarray:
        """The row of each image, found by its id or else by its file name: int64 (N,); UserError where one has none.

        A file name alone counts where it is that of one image and of one row, and one of the two has no folder. Where
        an id is a file name that ends names of other rows, the image's place decides, as in `row_at`.
        """
        named = [(image_id, Path(path).name) for image_id, path in zip(image_ids, image_paths)]
        images, ids = Counter(name for _, name in named), set(image_ids)
        rows = []
        for (image_id, name), path in zip(named, image_paths):
            listed = self.names_of.get(name, ())
            if image_id in self.row_of_name:
                unsure = image_id == name and len(listed) > 1 and not ids.issuperset(listed)
                rows.append(self.row_at(path, ids) if unsure else self.row_of_name[image_id])
                continue
            others = [other for other in listed if other == name or "/" not in image_id]
            if others and (images[name] > 1 or len(listed) > 1):
                shared = f"{images[name]} images and {len(listed)} of its rows are named {name}"
                raise UserError(f"--boxes {self.path}: {shared}; name rows by image, as {image_id}")
            rows.append(self.row_of_name[others[0]] if others else -1)
        if absent := [image_id for image_id, row in zip(image_ids, rows) if row < 0]:
            remedy = "run the detector on them (a photo without objects has a row with score 0)"
            problem = f"no row for {len(absent)} of {len(rows)} images, the first {absent[0]}"
            raise UserError(f"--boxes {self.path}: {problem}; {remedy}")
        return np.array(rows, np.int64)
