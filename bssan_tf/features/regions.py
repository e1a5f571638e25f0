"""Pictures -> region and object features, through one run of the backbone.

Out: regions (B, D, M), a layer's map read row by row (D = 14 x 14 for a VGG), and objects (B, P, Q), the mean of each
RoI on the same map (Q = M).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.config.fields import HUB
from bssan_tf.errors import UserError
from bssan_tf.features.applications import Application, find_application
from bssan_tf.features.backbones import BACKBONES, Backbone
from bssan_tf.features.hub import Preset, find_preset
from bssan_tf.features.networks import shares_of
from bssan_tf.features.objects import roi_means

FLOAT16_MAX = float(np.finfo(np.float16).max)


def find_backbone(text: str) -> Backbone | Application | Preset:
    """The backbone that --backbone names; UserError for an unknown one. No weights are looked for yet."""
    name, colon, layer = text.partition(":")
    if text.startswith(HUB):
        return find_preset(text)
    if not colon and name.lower() in BACKBONES:
        return BACKBONES[name.lower()]
    if name == "slim":
        raise UserError(f"--backbone {text}: slim has one layer for regions; leave out :{layer}")
    return find_application(text)


class Extractor:
    """A backbone with its weights. UserError for an unknown name or bad weights.

    Args:
        backbone: what `find_backbone` takes, or what it gives.
        weights: a file for it, of a preset its folder; None takes the packaged or the downloaded one.

    Attributes:
        name, layer: of the backbone, with how several layers are scaled, and of the layers that are read.
        grid, region_shape: rows and columns of the region grid, and (D, M); 14x14 cells of a VGG.
        side: of the pictures that it takes, in pixels; 224 but for some presets of KerasHub.
        weights_file, weights_sha256: what the network is loaded from, None where that is no file; and its hash.
    """

    def __init__(self, backbone: str | Backbone | Application | Preset = "vgg19", weights: str | Path | None = None):
        self.backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
        self._network = network = self.backbone.open(weights)
        self.name, self.layer = self.backbone.name + shares_of(network.layer), network.layer
        self.side = network.side
        self.grid, self.region_shape = network.grid, (network.grid[0] * network.grid[1], network.channels)
        self.weights_file, self.weights_sha256 = network.weights_file, network.weights_sha256

    def __reduce__(self):
        """For another process, which loads the network itself."""
        packaged = self.weights_file is not None and Path(__file__).parent in Path(self.weights_file).parents
        return Extractor, (self.backbone, None if packaged else self.weights_file)

    @functools.cached_property
    def model(self) -> tf.keras.Model:
        """The Keras model with its weights: pre-processed pixels -> (B, rows, columns, M)."""
        return self._network.load()

    def describe(
        self, pictures: np.ndarray, boxes: np.ndarray | None = None, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Features of a batch of pictures.

        Args:
            pictures: uint8 (B, side, side, 3), RGB, as `read_picture` gives.
            boxes: float32 (B, P, 4), x1, y1, x2, y2 as fractions of the picture; None for no objects.
            valid: bool (B, P), False where there is no object; None for all True.

        Returns:
            "regions" float16 (B, D, M) and, with boxes, "objects" float16 (B, P, M), zeros where not valid.
        """
        given = boxes is not None
        boxes = boxes if given else np.zeros((len(pictures), 0, 4), np.float32)
        valid = np.ones(np.shape(boxes)[:2], bool) if valid is None else valid
        regions, objects = self.graph(pictures, boxes, valid)
        return {"regions": regions.numpy(), **({"objects": objects.numpy()} if given else {})}

    @functools.cached_property
    def graph(self):
        """What `describe` runs, as a function of TensorFlow: pictures, boxes and valid -> regions and objects."""
        model = self.model  # made before the tracing, in which its weights would be symbols

        @tf.function(autograph=False)
        def describe(pictures, boxes, valid):
            maps = model(self._network.preprocess(pictures), training=False)  # (B, rows, columns, M)
            objects = tf.where(valid[..., tf.newaxis], roi_means(maps, boxes), 0.0)  # (B, P, M)
            regions = tf.reshape(maps, (-1, *self.region_shape))  # (B, D, M)
            return tuple(
                tf.cast(tf.clip_by_value(x, -FLOAT16_MAX, FLOAT16_MAX), tf.float16) for x in (regions, objects)
            )

        return describe
