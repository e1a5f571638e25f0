"""Anchors and the arithmetic of boxes, in TensorFlow.

Boxes are x1, y1, x2, y2 in pixels, the last pixel included: width = x2 - x1 + 1. The conventions are those of the
reference code of Ren et al., 2015, which the public weights need.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

STRIDE = 16  # pixels from a cell of the last convolution to the next
LARGEST_STEP = float(np.log(1000 / 16))  # of dw and dh, so that a wild delta does not overflow


def base_anchors(scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """The anchors of the top left cell, pixels (0, 0) to (15, 15): float32 (A, 4), for each ratio in turn all scales.

    Sides for a ratio are rounded before they are scaled, as for the public weights.
    """
    centre, anchors = (STRIDE - 1) / 2, []
    for ratio in ratios:
        width = np.round(np.sqrt(STRIDE * STRIDE / ratio))
        height = np.round(width * ratio)
        for scale in scales:
            half_w, half_h = (width * scale - 1) / 2, (height * scale - 1) / 2
            anchors.append((centre - half_w, centre - half_h, centre + half_w, centre + half_h))
    return np.array(anchors, np.float32)


def shifted_anchors(base: np.ndarray, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """The anchors of all cells: float32 (rows * columns * A, 4), by row, column, anchor."""
    y, x = tf.meshgrid(tf.range(rows), tf.range(columns), indexing="ij")
    shifts = tf.cast(STRIDE * tf.stack([x, y, x, y], -1), tf.float32)  # (rows, columns, 4)
    return tf.reshape(shifts[:, :, tf.newaxis] + base, (-1, 4))


def centres(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Centres x, y and sides w, h of boxes (..., 4): two tensors (..., 2)."""
    sides = boxes[..., 2:] - boxes[..., :2] + 1.0
    return boxes[..., :2] + 0.5 * sides, sides


def encode(boxes: tf.Tensor, references: tf.Tensor) -> tf.Tensor:
    """dx, dy, dw, dh that lead from the references to the boxes (Ren et al., Eq. 2): (..., 4) each."""
    (centre, sides), (from_centre, from_sides) = centres(boxes), centres(references)
    return tf.concat([(centre - from_centre) / from_sides, tf.math.log(sides / from_sides)], -1)


def decode(deltas: tf.Tensor, references: tf.Tensor) -> tf.Tensor:
    """The boxes to which dx, dy, dw, dh (..., 4) lead from the references (..., 4).

    As in the reference, the new x2 is the centre plus half a width, one more than `encode` would take back.
    """
    centre, sides = centres(references)
    centre += deltas[..., :2] * sides
    half = 0.5 * sides * tf.exp(tf.minimum(deltas[..., 2:], LARGEST_STEP))
    return tf.concat([centre - half, centre + half], -1)


def clip(boxes: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Boxes (..., 4) moved into a picture of `size` float32 (..., 2), height and width in pixels."""
    last = tf.reverse(size, [-1]) - 1.0  # x, y of the last pixel
    return tf.maximum(tf.minimum(boxes, tf.concat([last, last], -1)), 0.0)


def iou(boxes: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Intersection over union of boxes (..., n, 4) with others (..., m, 4): float32 (..., n, m)."""
    a, b = boxes[..., :, tf.newaxis, :], others[..., tf.newaxis, :, :]
    common = tf.minimum(a[..., 2:], b[..., 2:]) - tf.maximum(a[..., :2], b[..., :2]) + 1.0
    common = tf.reduce_prod(tf.maximum(common, 0.0), -1)
    area_a, area_b = (tf.reduce_prod(box[..., 2:] - box[..., :2] + 1.0, -1) for box in (a, b))
    return common / (area_a + area_b - common)


def non_max_suppression(
    boxes: tf.Tensor, scores: tf.Tensor, count: int, threshold: float, last_included: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """The `count` best boxes that overlap no better one by more than `threshold`, for each of B sets.

    Boxes are float32 (B, n, 4), scores (B, n). Areas count the last pixel if `last_included`: the reference's do for
    detections, not for proposals. Returns indices int32 (B, count) by falling score, 0 where fewer are left, and which
    of them are valid, bool (B, count).
    """
    if last_included:
        boxes = boxes + tf.constant([0.0, 0.0, 1.0, 1.0])

    def one(arguments):
        kept = tf.image.non_max_suppression(*arguments, count, threshold)
        return tf.pad(kept, [[0, count - tf.size(kept)]], constant_values=-1)

    chosen = tf.map_fn(one, (boxes, scores), fn_output_signature=tf.TensorSpec((count,), tf.int32))
    return tf.maximum(chosen, 0), chosen >= 0
