"""Photos with the boxes of their objects: from VOC's XML files, COCO's instances, or drawn scenes.

In: the folders of a data set. Out: `AnnotatedPhotos`, boxes in pixels with the last one included, counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bssan_tf.datasets.coco import read_instances
from bssan_tf.datasets.files import read_lines
from bssan_tf.datasets.scene_pictures import plan_scene, scene_jpeg
from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.settings import SCENE_LABELS, VOC_LABELS
from bssan_tf.reading.documents import parse_xml
from bssan_tf.reading.files import refusing
from bssan_tf.tools.files import write_bytes

# Second part of a scene's seed, by part. A corpus uses 0, 1 and 2 there, and the slim VGGs 10 and 11.
SCENE_PARTS = {"train": 20, "test": 21}


@dataclass(frozen=True, eq=False)
class AnnotatedPhotos:
    """Photo files and their objects: for each photo an array of boxes, of classes and of difficult."""

    labels: tuple[str, ...]  # names of the classes
    paths: tuple[Path, ...]
    boxes: tuple[np.ndarray, ...]  # float32 (n, 4)
    classes: tuple[np.ndarray, ...]  # int32 (n,), indices of `labels`
    difficult: tuple[np.ndarray, ...]  # bool (n,): objects that neither training nor evaluation counts

    @classmethod
    def collect(cls, labels: Sequence[str], photos: Iterable[tuple[Path, list]]) -> AnnotatedPhotos:
        """From (path, [(box, class, difficult), ...]) of each photo."""
        paths, objects = zip(*photos)
        boxes = tuple(np.array([box for box, _, _ in one], np.float32).reshape(-1, 4) for one in objects)
        classes = tuple(np.array([kind for _, kind, _ in one], np.int32) for one in objects)
        difficult = tuple(np.array([hard for _, _, hard in one], bool) for one in objects)
        return cls(tuple(labels), paths, boxes, classes, difficult)

    def with_objects(self) -> AnnotatedPhotos:
        """Without the photos that have no object that counts."""
        rows = [row for row, difficult in enumerate(self.difficult) if not difficult.all()]
        columns = (self.paths, self.boxes, self.classes, self.difficult)
        return AnnotatedPhotos(self.labels, *(tuple(column[row] for row in rows) for column in columns))


def load_voc(root: Path, sets: str = "2007+2012", part: str = "trainval") -> AnnotatedPhotos:
    """Photos of PASCAL VOC's layout, ROOT/VOC2007/{JPEGImages, Annotations, ImageSets/Main}, ROOT being VOCdevkit.

    `sets` are years, joined by "+", and `part` is the list in ImageSets/Main: trainval, train, val or test. UserError
    where files are missing or malformed.
    """
    photos = []
    for year in sets.split("+"):
        folder = Path(root) / f"VOC{year}"
        listing = folder / "ImageSets" / "Main" / f"{part}.txt"
        if not listing.is_file():
            missing = listing.relative_to(root)
            raise UserError(f"--voc {root}: {missing} not found; give VOCdevkit, and its years by --sets")
        names = [line.split()[0] for _, line in read_lines(listing) if line.strip()]
        for name in tqdm(names, desc=f"VOC{year} {part}", unit="photo", leave=False, disable=None):
            path = folder / "JPEGImages" / f"{name}.jpg"
            if not path.is_file():
                raise UserError(f"{path}: not found, but {listing.name} lists it; complete the download")
            photos.append((path, _read_voc(folder / "Annotations" / f"{name}.xml")))
    if not photos:
        raise UserError(f"--voc {root}: {part}.txt lists no photo")
    return AnnotatedPhotos.collect(VOC_LABELS, photos)


def _read_voc(path: Path) -> list:
    """Objects of one XML file; VOC counts pixels from 1."""
    remedy = "replace the file, or complete the download"
    root, objects = parse_xml(path, remedy), []
    with refusing(str(path), "not an annotation of VOC", remedy):
        for found in root.iter("object"):
            box = [float(found.find("bndbox").find(edge).text) - 1 for edge in ("xmin", "ymin", "xmax", "ymax")]
            if not all(map(math.isfinite, box)):
                raise ValueError("a box is not finite")
            name = found.find("name").text.strip().lower()
            difficult = found.findtext("difficult", "0").strip() == "1"
            objects.append((box, VOC_LABELS.index(name), difficult))
    return objects


def load_instances(path: Path, images: Path) -> AnnotatedPhotos:
    """Photos of COCO's instances_*.json (UserError if it is none, or has none) in `images`; crowds are difficult."""
    labels, photos = read_instances(path)
    found = []
    for name, photo in photos.items():
        if (file := Path(images) / name).is_file():
            large = [one for one in photo.objects if min(one[0][2:]) >= 1]  # width and height
            found.append((file, [((x, y, x + w - 1, y + h - 1), *rest) for (x, y, w, h), *rest in large]))
    if not found:
        raise UserError(f"--images {images}: none of the {len(photos)} photos of {path.name} is there; correct it")
    return AnnotatedPhotos.collect(labels, found)


def draw_scenes(folder: Path, part: str, count: int, seed: int = 0, progress: bool = True) -> AnnotatedPhotos:
    """Scenes of no corpus, `part` "train" or "test", drawn into `folder` unless there; classes are colour and shape."""
    folder.mkdir(parents=True, exist_ok=True)
    photos, disable = [], None if progress else True
    for number in tqdm(range(count), desc=f"scenes: {part}", unit="picture", leave=False, disable=disable):
        scene = plan_scene((seed, SCENE_PARTS[part], number))
        path = folder / f"{part}_{seed}_{number:05d}.jpg"
        if not path.exists():
            write_bytes(path, scene_jpeg(scene))
        boxes = [np.subtract(thing.box, (0, 0, 1, 1)) for thing in scene.things]  # from edges to the last pixel
        kinds = [SCENE_LABELS.index(f"{thing.colour} {thing.shape}") for thing in scene.things]
        photos.append((path, [(box, kind, False) for box, kind in zip(boxes, kinds)]))
    return AnnotatedPhotos.collect(SCENE_LABELS, photos)
