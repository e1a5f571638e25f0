"""Pictures -> region and object features, through one run of the backbone.

Out: regions (B, D, M), the last convolution's map read row by row (D = 14 x 14), and objects (B, P, Q), the mean of
each RoI on the same map (Q = M).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.features import backbones
from bssan_tf.features.backbones import BACKBONES, Backbone
from bssan_tf.features.objects import roi_means
from bssan_tf.features.pictures import SIDE
from bssan_tf.tools.files import file_sha256

GRID = (SIDE // 16, SIDE // 16)  # four poolings
FLOAT16_MAX = float(np.finfo(np.float16).max)


class Extractor:
    """A backbone with its weights; the network is built at its first use. UserError for an unknown name or bad weights.

    Args:
        backbone: a name in BACKBONES, or a Backbone.
        weights: .h5 or .npz file; None takes the packaged or the downloaded one.

    Attributes:
        name, layer: of the backbone and of the convolution that is read.
        grid, region_shape: (14, 14), rows and columns of the region grid, and (D, M).
        weights_file, weights_sha256: what the network is loaded from.
    """

    def __init__(self, backbone: str | Backbone = "vgg19", weights: str | Path | None = None):
        if isinstance(backbone, str):
            if backbone not in BACKBONES:
                raise UserError(f"--backbone {backbone}: unknown; one of {', '.join(BACKBONES)}")
            backbone = BACKBONES[backbone]
        self.backbone, self.name, self.layer = backbone, backbone.name, backbone.output_layer
        self.grid, self.region_shape = GRID, (GRID[0] * GRID[1], backbone.channels)
        self.weights_file = backbones.find_weights(backbone, weights)
        self.weights_sha256 = file_sha256(self.weights_file)

    @functools.cached_property
    def model(self) -> tf.keras.Model:
        """The Keras model of `build_vgg` with its weights: pre-processed pixels -> (B, 14, 14, M)."""
        model = backbones.build_vgg(self.backbone.layers, self.backbone.width)
        backbones.load_weights(model, self.weights_file)
        model.trainable = False
        return model

    def describe(
        self, pictures: np.ndarray, boxes: np.ndarray | None = None, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Features of a batch of pictures.

        Args:
            pictures: uint8 (B, 224, 224, 3), RGB, as `read_picture` gives.
            boxes: float32 (B, P, 4), x1, y1, x2, y2 as fractions of the picture; None for no objects.
            valid: bool (B, P), False where there is no object; None for all True.

        Returns:
            "regions" float16 (B, D, M) and, with boxes, "objects" float16 (B, P, M), zeros where not valid.
        """
        given = boxes is not None
        boxes = boxes if given else np.zeros((len(pictures), 0, 4), np.float32)
        valid = np.ones(np.shape(boxes)[:2], bool) if valid is None else valid
        regions, objects = self._graph(pictures, boxes, valid)
        return {"regions": regions.numpy(), **({"objects": objects.numpy()} if given else {})}

    @functools.cached_property
    def _graph(self):
        model = self.model  # made before the tracing, in which its weights would be symbols

        @tf.function
        def describe(pictures, boxes, valid):
            maps = model(backbones.preprocess(pictures), training=False)  # (B, 14, 14, M)
            objects = tf.where(valid[..., tf.newaxis], roi_means(maps, boxes), 0.0)  # (B, P, M)
            regions = tf.reshape(maps, (-1, *self.region_shape))  # (B, D, M)
            return tuple(tf.cast(tf.minimum(x, FLOAT16_MAX), tf.float16) for x in (regions, objects))

        return describe
