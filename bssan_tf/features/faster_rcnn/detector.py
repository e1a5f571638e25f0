"""Photos -> detections, and the objects of the paper: the P best of them with their fc7.

What extraction, evaluation and the look at a single photo share. The network is built at its first use.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.features.faster_rcnn.images import prepare
from bssan_tf.features.faster_rcnn.weights import FLAG, checkpoint_prefix, load_detector, load_settings
from bssan_tf.features.objects import detection_rows, empty_objects
from bssan_tf.features.regions import FLOAT16_MAX
from bssan_tf.tools.files import file_sha256

PACKAGED = Path(__file__).with_name("slim_scenes.npz")


class Detector:
    """A Faster R-CNN with the weights of a file that `flag` named; None for the packaged slim one of scenes.

    `name` is what a store is made with, `store_name` its folder's; `config`, `labels` and `Q`, of fc7, are its own.
    """

    def __init__(self, weights: str | Path | None = None, flag: str = FLAG):
        self.weights_file, self.flag = Path(weights or PACKAGED), flag
        self.config = load_settings(self.weights_file, flag)
        self.labels, self.Q = self.config.labels, self.config.hidden  # names of the classes, dimensions of fc7
        prefix = checkpoint_prefix(self.weights_file)
        sha256 = file_sha256(f"{prefix}.data-00000-of-00001" if prefix else self.weights_file)
        self.name = f"faster_rcnn {sha256}"  # what a store is made with
        packaged = self.weights_file.resolve() == PACKAGED.resolve()
        stem = Path(prefix or self.weights_file).stem  # of a checkpoint's three files, one
        # with digits of the SHA-256 unless packaged, as every training calls its file weights.npz
        self.store_name = f"faster_rcnn-{stem}" + ("" if packaged else f"-{sha256[:8]}")

    def __reduce__(self):
        """For another process, which loads the network itself."""
        return Detector, (None if self.weights_file == PACKAGED else self.weights_file, self.flag)

    @functools.cached_property
    def graph(self):
        """The inference graph for one photo, traced once for all sizes."""
        model = load_detector(self.weights_file, flag=self.flag).inference()
        # Of an open number of photos, TensorFlow warns users that it cannot estimate the crop's cost.
        signature = {name: tf.TensorSpec((1, *value.shape[1:]), value.dtype) for name, value in model.input.items()}
        return tf.function(lambda inputs: model(inputs, training=False), input_signature=[signature], autograph=False)

    def detect(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """Detections of one photo, uint8 (height, width, 3) RGB, best first.

        They are boxes float32 (n, 4) in its pixels, classes int32 (n,), scores float32 (n,) and fc7 float32 (n, Q).
        """
        return self.run(self.inputs(photo))

    def inputs(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """The graph's inputs for one photo: its scaled pixels, the scale, and its own size."""
        pixels, scale = prepare(photo, self.config.short_side, self.config.long_side)
        scale, size = np.array([scale], np.float32), np.array([photo.shape[:2]], np.float32)
        return {"pixels": pixels[None], "scale": scale, "size": size}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Detections as of `detect`, from what `inputs` has made of a photo."""
        found = {name: value[0].numpy() for name, value in self.graph(inputs).items()}
        valid = found.pop("valid")
        return {name: value[valid] for name, value in found.items()}

    def rows(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """Detections as rows of a boxes file, float32 (n, 6): edges, where a box's own last corner is a pixel."""
        return detection_rows({**found, "boxes": found["boxes"] + np.array([0, 0, 1, 1], np.float32)})

    def objects(self, photo: np.ndarray, count: int = 10) -> dict[str, np.ndarray]:
        """The best detections of one photo, uint8 (height, width, 3) RGB, as the store keeps them: see `best`."""
        return self.best(self.detect(photo), photo.shape[:2], count)

    def best(self, found: dict[str, np.ndarray], size: tuple[int, int], count: int) -> dict[str, np.ndarray]:
        """`empty_objects(count)` of a photo's (height, width), filled, and "objects", fc7 float16 (count, Q) or 0."""
        found = {name: value[:count] for name, value in found.items()}
        kept, objects, (height, width) = len(found["boxes"]), empty_objects(count), size
        edges = self.rows(found)[:, :4]
        objects["boxes"][:kept] = edges / np.array([width, height, width, height], np.float32)
        objects["classes"][:kept], objects["scores"][:kept] = found["classes"], found["scores"]
        objects["valid"][:kept] = True
        objects["objects"] = np.zeros((count, self.Q), np.float16)
        objects["objects"][:kept] = np.minimum(found["fc7"], FLOAT16_MAX)
        return objects
