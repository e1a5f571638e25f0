"""What RPN and the heads are to say: anchors and RoIs are matched with the true objects, and a few are drawn.

Ren et al., sections 3.1.2 and 3.2. True objects come padded: `classes` is 0 where there is none. All random choices
depend on `seed` alone, an input of the step, so that a resumed training draws what it would have drawn.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.features.faster_rcnn import box_coding as bx
from bssan_tf.features.faster_rcnn.layers import BOX_STDS, size_of


def overlaps(boxes: tf.Tensor, objects: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """IoU of boxes (B, n, 4) or (n, 4) with the objects (B, G, 4): (B, n, G), -1 for padded objects."""
    return tf.where((classes > 0)[:, tf.newaxis], bx.iou(boxes, objects), -1.0)


def draw(objects: tf.Tensor, background: tf.Tensor, batch: int, share: float, seed: tf.Tensor):
    """At random, at most the `share` of `batch` of the objects (B, n), and background (B, n) for the rest."""

    def first(mask, limit):
        rank = tf.argsort(tf.argsort(tf.where(mask, keys, 2.0), axis=-1), axis=-1)  # keys are below 1
        return mask & (rank < limit)

    n = tf.shape(objects)[1:]
    keys = tf.map_fn(lambda s: tf.random.stateless_uniform(n, s), seed, fn_output_signature=tf.float32)  # (B, n)
    objects = first(objects, int(batch * share))
    drawn = tf.reduce_sum(tf.cast(objects, tf.int32), -1, keepdims=True)  # (B, 1)
    return objects, first(background, batch - drawn)


class AnchorTargets(tf.keras.layers.Layer):
    """Which anchors are objects, which background, and where the objects lie from there.

    An anchor inside the photo is an object if its IoU with one reaches `positive`, or is the highest with that object;
    it is background if its IoU with each is below `negative`. At most the share `foreground` of `batch` anchors are
    objects, the others background.

    A call on (anchors (N, 4), boxes (B, G, 4), classes (B, G), pixels, seed (B, 2)) returns labels int32 (B, N), 1 for
    objects; deltas float32 (B, N, 4), to the object of highest IoU, 0 where there is none; and used float32 (B, N), 1
    for the anchors that were drawn.
    """

    def __init__(self, batch, foreground, positive, negative, **kwargs):
        super().__init__(**kwargs)
        self.batch, self.foreground, self.positive, self.negative = batch, foreground, positive, negative

    def call(self, inputs):
        anchors, boxes, classes, pixels, seed = inputs
        last = tf.reverse(size_of(pixels), [0])
        inside = tf.reduce_all(tf.concat([anchors[:, :2] >= 0, anchors[:, 2:] < last], -1), -1)  # (N,)
        shared = tf.where(inside[tf.newaxis, :, tf.newaxis], overlaps(anchors, boxes, classes), -1.0)  # (B, N, G)
        best = tf.reduce_max(shared, -1)  # (B, N)
        of_object = tf.reduce_max(shared, 1, keepdims=True)  # (B, 1, G)
        is_best = tf.reduce_any((shared == of_object) & (of_object > 0), -1)

        objects = inside & (is_best | (best >= self.positive))
        background = inside & ~objects & (best < self.negative)
        objects, background = draw(objects, background, self.batch, self.foreground, seed)
        nearest = tf.gather(boxes, tf.argmax(shared, -1), batch_dims=1)
        deltas = tf.where((best > 0)[..., tf.newaxis], bx.encode(nearest, anchors), 0.0)
        return tf.cast(objects, tf.int32), deltas, tf.cast(objects | background, tf.float32)


class RoiTargets(tf.keras.layers.Layer):
    """The RoIs on which the heads learn, and what they are to say of them.

    The true boxes are RoIs, too. A RoI is an object from an IoU of `positive` on, and background in the range
    `background`; at most the share `foreground` of `batch` are objects, the others background, as many as there are.

    A call on (rois (B, R, 4), valid (B, R), boxes (B, G, 4), classes (B, G), seed (B, 2)) returns rois float32
    (B, batch, 4); classes int32 (B, batch) and deltas float32 (B, batch, 4), divided by BOX_STDS, both 0 for
    background; and used float32 (B, batch), 0 for RoIs that only fill up.
    """

    def __init__(self, batch, foreground, positive, background, **kwargs):
        super().__init__(**kwargs)
        self.batch, self.foreground, self.positive, self.background = batch, foreground, positive, background

    def call(self, inputs):
        rois, valid, boxes, classes, seed = inputs
        rois, valid = tf.concat([rois, boxes], 1), tf.concat([valid, classes > 0], 1)
        missing = tf.maximum(self.batch - tf.shape(rois)[1], 0)
        rois, valid = tf.pad(rois, [[0, 0], [0, missing], [0, 0]]), tf.pad(valid, [[0, 0], [0, missing]])
        shared = overlaps(rois, boxes, classes)
        best = tf.reduce_max(shared, -1)  # (B, R)
        low, high = self.background
        # A photo without any object has background only, whatever the lower bound says.
        empty = tf.reduce_all(classes == 0, -1, keepdims=True)
        objects = valid & (best >= self.positive)
        background = valid & (best < high) & ((best >= low) | empty)
        objects, background = draw(objects, background, self.batch, self.foreground, seed)
        priority, chosen = tf.math.top_k(tf.where(objects, 2, tf.where(background, 1, 0)), self.batch)  # (B, batch)

        rois = tf.gather(rois, chosen, batch_dims=1)
        which = tf.gather(tf.argmax(shared, -1, output_type=tf.int32), chosen, batch_dims=1)
        is_object = priority == 2
        found = tf.where(is_object, tf.gather(classes, which, batch_dims=1), 0)
        deltas = bx.encode(tf.gather(boxes, which, batch_dims=1), rois) / BOX_STDS
        deltas = tf.where(is_object[..., tf.newaxis], deltas, 0.0)
        return tf.stop_gradient(rois), found, deltas, tf.cast(priority > 0, tf.float32)
