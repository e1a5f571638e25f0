"""KerasHub's object detectors: a photo -> the boxes that a preset finds, with the names of their classes.

In: a preset's name, a handle such as `kaggle://...`, or a preset's folder. It is downloaded when a detector is made.
Out: detections in pixels of the photo, as a boxes file has them; the backbone's map then describes the objects.

KerasHub's own conventions end here: boxes are `yxyx` in pixels of the scaled picture, padded with -1; a picture may be
cropped or padded; RetinaNet numbers COCO's classes by COCO's ids, D-FINE without gaps.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bssan_tf.config.fields import HUB
from bssan_tf.errors import UserError
from bssan_tf.features.objects import NO_CLASS, detection_rows, read_class_names, top_objects
from bssan_tf.reading.documents import read_json
from bssan_tf.reading.files import reason
from bssan_tf.tools.files import file_sha256
from bssan_tf.tools.stack import keras_hub

CONFIG, TASK, HEAD, CONVERTER = "config.json", "task.json", "task.weights.h5", "image_converter.json"
FILES = (CONFIG, TASK, "preprocessor.json", CONVERTER, HEAD, "model.weights.h5")  # what a detector is made of
CLASS_NAMES = "class_names.txt"  # ours: may lie beside them
LEAST_SCORE = 0.05  # presets give detections from 0.5 on, but a photo has ten objects, however sure
REMEDY = "give a detector's preset, or the folder of one"

COCO_NAMES = (  # in the order of their ids
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
NO_COCO_IDS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of 0 to 90
COCO_IDS = tuple(number for number in range(91) if number not in NO_COCO_IDS)
COCO = "coco"  # alone in CLASS_NAMES, says that the classes are COCO's
BY_COUNT = {80: tuple(range(80)), 91: COCO_IDS}  # how a network of so many classes numbers COCO's
OF_COCO = {"retinanet_resnet50_fpn": 91, "dfine_": 80}  # classes of KerasHub's own presets


class Network(NamedTuple):
    """What looks at photos."""

    detect: Callable  # the detector and its decoder, traced once
    size: tuple[int, int]  # rows and columns of its pictures
    pads: bool  # whether the preset pads photos to that shape
    scaling: dict  # how it scales photos, as of tf.image.resize
    converter: Callable  # from scaled pixels to what the network takes


class HubDetector:
    """An object detector of KerasHub; UserError without KerasHub, or where the preset is none, or can't be fetched.

    Args:
        preset: what follows `keras_hub:`.
        flag: that named it.

    Attributes:
        name, store_name: what a store is made with, and the part of its folder's name.
        labels: names of the classes, or None where the preset does not tell them.
        Q: None, as the backbone describes the objects.
    """

    Q = None

    def __init__(self, preset: str, flag: str = "--objects"):
        self.preset, self.flag, self.source = preset, flag, f"{flag} {HUB}{preset}"
        self.hub = keras_hub(self.source)
        self.files = {name: path for name in FILES if (path := self._fetch(name))}
        for name in (CONFIG, FILES[-1]):
            if name not in self.files:
                raise UserError(f"{self.source}: has no {name}; {REMEDY}")
        self.count = self._class_count()
        self.labels, self._numbers = self._classes()
        sums = {name: file_sha256(path) for name, path in self.files.items()}
        sha256 = _sha256("".join(f"{name} {sums[name]}\n" for name in sorted(sums)))
        self.name = f"{HUB}{type_of(self.files)} {sha256}"
        self._network, self._loading = None, threading.Lock()
        self.store_name = f"keras_hub-{preset_name(preset)}-{_sha256(f'{sha256} {self.labels}')[:8]}"

    def __reduce__(self):
        """For another process, which loads the network itself."""
        return HubDetector, (self.preset, self.flag)

    def _fetch(self, name: str) -> Path | None:
        """A file of the preset, downloaded if need be; None if it has no such file."""
        from keras_hub.src.utils.preset_utils import get_file

        known = self.hub.models.ObjectDetector.presets
        if self.preset not in known and "://" not in self.preset and not Path(self.preset).is_dir():
            raise UserError(f"{self.source}: no such folder, nor one of the presets {', '.join(sorted(known))}")
        try:
            return Path(get_file(self.preset, name))
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever the hubs' clients raise without network, or for a wrong handle
            problem = f"{name} could not be fetched ({reason(error)})"
            remedy = f"fetch the preset elsewhere, and give its folder by {HUB}FOLDER"
            raise UserError(f"{self.source}: {problem}; {remedy}") from error

    def _class_count(self) -> int:
        """How many classes the detector has; UserError where its head would have random weights."""
        file, key = (TASK, "num_classes") if TASK in self.files else (CONFIG, "num_labels")
        settings = read_json(self.files[file], REMEDY, source=self.source)
        count = settings["config"].get(key) if isinstance(settings.get("config"), dict) else None
        if type(count) is not int or not 0 < count < 100_000:
            raise UserError(f"{self.source}: {file} has no {key}, so it is no detector's preset; {REMEDY}")
        return count

    def _classes(self) -> tuple[tuple[str, ...] | None, np.ndarray]:
        """Names of the classes, and the place among them of each class that the network numbers, -1 for none."""
        ids = coco_ids(self.preset, self.hub.models.ObjectDetector.presets, self.count)
        file = None if ids else self._fetch(CLASS_NAMES)
        if file and read_class_names(file, str(file)) == (COCO,):
            ids = BY_COUNT.get(self.count)
        if not ids:
            return file and read_class_names(file, str(file), self.count), np.arange(self.count)
        numbers = np.full(self.count, NO_CLASS)
        numbers[list(ids)] = np.arange(len(ids))
        return tuple(COCO_NAMES.split(",")), numbers

    @property
    def network(self) -> Network:
        """Loaded at the first use, by whichever thread; UserError where the preset's files are not a detector's."""
        with self._loading:
            if self._network is None:
                self._network = self._load()
            return self._network

    def _load(self) -> Network:
        given = {} if TASK in self.files else {"num_classes": self.count}
        try:
            model = self.hub.models.ObjectDetector.from_preset(self.preset, **given)
        except Exception as error:  # of a preset of another kind, or damaged
            raise UserError(f"{self.source}: can't be loaded ({reason(error)}); {REMEDY}") from error
        if model.has_task_weights() and HEAD not in self.files:
            raise UserError(f"{self.source}: has no {HEAD}, so its head is not trained; {REMEDY}")
        converter = getattr(model.preprocessor, "image_converter", None)
        if converter is None or not converter.image_size or None in converter.image_size:
            raise UserError(f"{self.source}: has no {CONVERTER} with a size of pictures; {REMEDY}")
        # the boxes of D-FINE are yxyx whatever it says, and a decoder of relative boxes fails
        model.bounding_box_format, decoder = "yxyx", model.prediction_decoder
        kept = {key: getattr(decoder, key) for key in ("from_logits", "iou_threshold", "max_detections")}
        told = {"bounding_box_format": "yxyx", "confidence_threshold": LEAST_SCORE}
        model.prediction_decoder = self.hub.layers.NonMaxSuppression(**kept, **told)

        @tf.function(input_signature=[tf.TensorSpec((1, *converter.image_size, 3), tf.float32)])
        def detect(pixels):
            return model.decode_predictions(model(pixels, training=False), pixels)

        scaling = {"method": converter.interpolation, "antialias": converter.antialias}
        values = type(converter).from_config({**converter.get_config(), "image_size": None})
        return Network(detect, converter.image_size, converter.pad_to_aspect_ratio, scaling, values)

    def detect(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """Detections of one photo, uint8 (height, width, 3) RGB, best first.

        They are boxes float32 (n, 4), x1, y1, x2, y2 in its pixels, classes int32 (n,) and scores float32 (n,).
        """
        return self.run(self.inputs(photo))

    def inputs(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """What `run` takes of one photo: float32 (1, rows, columns, 3), where the photo lies there, its scale and size.

        A photo is scaled whole: padded in black where the preset pads, else squashed, also where it would be cropped.
        """
        _, (rows, columns), pads, scaling, converter = self.network
        height, width = photo.shape[:2]
        share = min(rows / height, columns / width)
        inner = (max(1, round(height * share)), max(1, round(width * share))) if pads else (rows, columns)
        corner = np.array([(rows - inner[0]) // 2, (columns - inner[1]) // 2])
        canvas = np.zeros((1, rows, columns, 3), np.float32)
        inside = (0, *(slice(start, start + size) for start, size in zip(corner, inner)))
        canvas[inside] = np.clip(np.round(tf.image.resize(photo, inner, **scaling)), 0, 255)  # as KerasHub, of uint8
        scale = np.divide(inner, (height, width), dtype=np.float32)
        return {
            "pixels": np.asarray(converter(canvas), np.float32),
            "corner": corner,
            "scale": scale,
            "size": (height, width),
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Detections as of `detect`, from what `inputs` has made of a photo."""
        found = {name: value[0].numpy() for name, value in self.network.detect(inputs["pixels"]).items()}
        count = int(found["num_detections"])  # padding, of -1, follows
        boxes = (found["boxes"][:count] - np.tile(inputs["corner"], 2)) / np.tile(inputs["scale"], 2)
        height, width = inputs["size"]
        boxes = np.clip(boxes[:, [1, 0, 3, 2]], 0, np.array([width, height, width, height]))
        scores, classes = found["confidence"][:count], self._numbers[found["labels"][:count]].astype(np.int32)
        real = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return {"boxes": boxes[real].astype(np.float32), "classes": classes[real], "scores": scores[real]}

    def objects(self, photo: np.ndarray, count: int = 10) -> dict[str, np.ndarray]:
        """The best detections of one photo, uint8 (height, width, 3) RGB, as `empty_objects`."""
        return self.best(self.detect(photo), photo.shape[:2], count)

    def rows(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """Detections as rows of a boxes file, float32 (n, 6)."""
        return detection_rows(found)

    def best(self, found: dict[str, np.ndarray], size: tuple[int, int], count: int) -> dict[str, np.ndarray]:
        """`empty_objects(count)` of a photo's (height, width), filled."""
        return top_objects(self.rows(found), size, count)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def type_of(files: Mapping[str, Path]) -> str:
    """What kind of network a preset's files are of, for people."""
    settings = read_json(files[CONFIG], REMEDY)
    return str(settings.get("class_name", "")).removesuffix("Backbone") or "unknown"


def preset_name(preset: str) -> str:
    """The last part of a preset's name, without the version of a handle."""
    parts = [part for part in preset.rstrip("/").split("/") if part]
    return parts[-2] if "://" in preset and parts[-1].isdecimal() else parts[-1]


def coco_ids(preset: str, known: Collection[str], count: int) -> tuple[int, ...] | None:
    """The number of each class of COCO in a preset of KerasHub's own, of `known`; None where that is not known.

    A network of another number of classes than such a preset has is none of those that are known.
    """
    name = preset_name(preset)
    own = preset in known or (name in known and preset.startswith(("kaggle://keras/", "hf://keras/")))
    if not own or COCO not in name:
        return None
    return BY_COUNT[count] if any(name.startswith(start) and count == n for start, n in OF_COCO.items()) else None
