"""Layers between the convolutions of Faster R-CNN and its detections; no weights of their own.

Legend: B photos, N anchors of a photo, R RoIs of a photo, C classes with the background, K detections.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.features.faster_rcnn import box_coding as bx

BOX_STDS = (0.1, 0.1, 0.2, 0.2)  # by which the box head's targets are divided
ROI_SIDE = 14  # samples of a RoI, pooled to half


def size_of(pixels: tf.Tensor) -> tf.Tensor:
    """Height and width of the pictures (B, H, W, 3): float32 (2,)."""
    return tf.cast(tf.shape(pixels)[1:3], tf.float32)


class Anchors(tf.keras.layers.Layer):
    """The anchors of a feature map (B, h, w, M): float32 (h * w * A, 4)."""

    def __init__(self, scales, ratios, **kwargs):
        super().__init__(**kwargs)
        self.scales, self.ratios = tuple(scales), tuple(ratios)

    def call(self, features):
        shape = tf.shape(features)
        return bx.shifted_anchors(bx.base_anchors(self.scales, self.ratios), shape[1], shape[2])


class ObjectLogits(tf.keras.layers.Layer):
    """RPN scores (B, h, w, 2A), backgrounds before objects -> log odds of an object (B, h * w * A): the difference."""

    def call(self, scores):
        background, foreground = tf.split(scores, 2, axis=-1)
        return tf.reshape(foreground - background, (tf.shape(scores)[0], -1))


class Proposals(tf.keras.layers.Layer):
    """The best proposals of each photo: RoIs float32 (B, count, 4), pixels of the scaled photo, and valid (B, count).

    As in the reference's TensorFlow path, suppression looks at all anchors, and no box is too small. No gradient
    passes: RPN learns from its own loss alone ("approximate joint training", Ren et al., section 3.2).
    """

    def __init__(self, count, iou, **kwargs):
        super().__init__(**kwargs)
        self.count, self.iou = count, iou

    def call(self, inputs):
        logits, deltas, anchors, pixels = inputs
        logits, deltas = tf.stop_gradient(logits), tf.stop_gradient(deltas)
        found = bx.clip(bx.decode(deltas, anchors), size_of(pixels))  # (B, N, 4)
        chosen, valid = bx.non_max_suppression(found, tf.sigmoid(logits), self.count, self.iou, last_included=False)
        rois = tf.gather(found, chosen, batch_dims=1)
        return tf.where(valid[..., tf.newaxis], rois, 0.0), valid


class RoiCrop(tf.keras.layers.Layer):
    """Each RoI of the feature map, sampled 14 x 14 and max-pooled 2 x 2: (B, R, 7 * 7 * M), by row, column, channel.

    Coordinates follow the reference: pixel p of the photo lies at cell p / 16 of the map.
    """

    def call(self, inputs):
        features, rois = inputs
        shape, count = tf.shape(features), tf.shape(rois)[1]
        # crop_and_resize counts in fractions of the last cell
        extent = tf.cast(tf.maximum(shape[1:3] - 1, 1) * bx.STRIDE, tf.float32)
        x1, y1, x2, y2 = tf.unstack(tf.reshape(rois, (-1, 4)) / tf.tile(extent[::-1], [2]), axis=-1)
        which = tf.repeat(tf.range(shape[0]), count)
        crops = tf.image.crop_and_resize(features, tf.stack([y1, x1, y2, x2], -1), which, (ROI_SIDE, ROI_SIDE))
        pooled = tf.nn.max_pool2d(crops, 2, 2, "SAME")  # (B * R, 7, 7, M)
        return tf.reshape(pooled, (shape[0], count, (ROI_SIDE // 2) ** 2 * features.shape[-1]))


class Detections(tf.keras.layers.Layer):
    """The heads' outputs -> the detections of a photo, best first, each with the fc7 of its RoI.

    Boxes of each class (but the background) are suppressed among themselves; the best K of all classes stay.
    """

    def __init__(self, count, iou, **kwargs):
        super().__init__(**kwargs)
        self.count, self.iou = count, iou

    def call(self, inputs):
        rois, valid, logits, deltas, fc7, scale, size = inputs
        batch, R, C = tf.shape(rois)[0], rois.shape[1], logits.shape[2]
        # in pixels of the photo itself, as widths with the last pixel do not scale
        rois = rois / scale[:, tf.newaxis, tf.newaxis]
        deltas = tf.reshape(deltas, (batch, R, C, 4)) * BOX_STDS
        boxes = bx.clip(bx.decode(deltas, rois[:, :, tf.newaxis]), size[:, tf.newaxis, tf.newaxis])  # (B, R, C, 4)
        scores = tf.where(valid[..., tf.newaxis], tf.nn.softmax(logits), float("-inf"))  # (B, R, C)

        sets = tf.reshape(tf.transpose(boxes, (0, 2, 1, 3))[:, 1:], (-1, R, 4))  # (B * (C - 1), R, 4)
        set_scores = tf.reshape(tf.transpose(scores, (0, 2, 1))[:, 1:], (-1, R))
        chosen, kept = bx.non_max_suppression(sets, set_scores, self.count, self.iou, last_included=True)
        kept_scores = tf.where(kept, tf.gather(set_scores, chosen, batch_dims=1), -1.0)

        all_scores, order = tf.math.top_k(tf.reshape(kept_scores, (batch, -1)), self.count)  # (B, K)
        roi = tf.gather(tf.reshape(chosen, (batch, -1)), order, batch_dims=1)
        classes, found = order // self.count, all_scores >= 0
        boxes = tf.gather_nd(boxes, tf.stack([roi, classes + 1], -1), batch_dims=1)
        fc7 = tf.gather(fc7, roi, batch_dims=1)
        boxes, fc7 = (tf.where(found[..., tf.newaxis], values, 0.0) for values in (boxes, fc7))
        classes, scores = tf.where(found, classes, -1), tf.maximum(all_scores, 0.0)
        return {"boxes": boxes, "classes": classes, "scores": scores, "fc7": fc7, "valid": found}
