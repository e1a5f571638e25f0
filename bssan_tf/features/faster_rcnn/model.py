"""Faster R-CNN as Keras functional models: the inference graph and the training graph over the same layers.

Legend: B photos of one size, G objects of a photo (padded), N anchors, R RoIs, K detections, C classes with the
background; M = 512 and Q = 4096 at full width.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.features.backbones import build_vgg
from bssan_tf.features.faster_rcnn.layers import Anchors, Detections, ObjectLogits, Proposals, RoiCrop
from bssan_tf.features.faster_rcnn.losses import BoxLoss, ClassLoss, ObjectLoss
from bssan_tf.features.faster_rcnn.settings import DetectorConfig, DetectorTraining
from bssan_tf.features.faster_rcnn.targets import AnchorTargets, RoiTargets
from bssan_tf.tools.dropout import ReplayableDropout
from bssan_tf.tools.stack import build, path_of

Conv2D, Dense = tf.keras.layers.Conv2D, tf.keras.layers.Dense


class FasterRcnn:
    """The layers of a detector and the graphs over them.

    Example:
        >>> model = FasterRcnn(SCENES).inference()
        >>> model({"pixels": pixels, "scale": tf.ones(1), "size": [[224.0, 224.0]]})["boxes"].shape
        TensorShape([1, 20, 4])
    """

    def __init__(self, config: DetectorConfig):
        self.config = config
        self.trunk = build_vgg("vgg16", config.width, side=None)  # (B, H, W, 3) -> (B, ceil(H/16), ceil(W/16), M)
        M, A, C = self.trunk.output_shape[-1], config.anchors, config.classes

        def normal(deviation):
            return tf.keras.initializers.RandomNormal(stddev=deviation)

        self._rpn_conv = Conv2D(M, 3, 1, "same", activation="relu", kernel_initializer=normal(0.01), name="rpn_conv")
        self._rpn_class = Conv2D(2 * A, 1, kernel_initializer=normal(0.01), name="rpn_cls_score")
        self._rpn_box = Conv2D(4 * A, 1, kernel_initializer=normal(0.01), name="rpn_bbox_pred")
        self._fc6 = Dense(config.hidden, "relu", kernel_initializer="he_normal", name="fc6")
        self._fc7 = Dense(config.hidden, "relu", kernel_initializer="he_normal", name="fc7")
        self._class = Dense(C, kernel_initializer=normal(0.01), name="cls_score")
        self._box = Dense(4 * C, kernel_initializer=normal(0.001), name="bbox_pred")
        inputs = (M, M, M, 7 * 7 * M, config.hidden, config.hidden, config.hidden)
        for layer, size in zip(self.layers[-7:], inputs):
            build(layer, (None, None, None, size) if isinstance(layer, Conv2D) else (None, None, size))

    @property
    def layers(self) -> list[tf.keras.layers.Layer]:
        """All layers with weights, in the order of the network."""
        own = (self._rpn_conv, self._rpn_class, self._rpn_box, self._fc6, self._fc7, self._class, self._box)
        return [*(layer for layer in self.trunk.layers if layer.weights), *own]

    @property
    def weights(self) -> dict[str, tf.Variable]:
        """All by name, e.g. "bbox_pred/bias"; kernels are HWIO, the rows of fc6 in the order row, column, channel."""
        return {f"{layer.name}/{kind}": getattr(layer, kind) for layer in self.layers for kind in ("kernel", "bias")}

    def _propose(self, pixels, proposals: int):
        """Feature map, RPN's logits and deltas, anchors, and the proposals with their validity."""
        config = self.config
        features = self.trunk(pixels)  # (B, h, w, M)
        hidden = self._rpn_conv(features)
        logits = ObjectLogits(name="object_logits")(self._rpn_class(hidden))  # (B, N)
        deltas = tf.keras.layers.Reshape((-1, 4), name="anchor_deltas")(self._rpn_box(hidden))  # (B, N, 4)
        anchors = Anchors(config.anchor_scales, config.anchor_ratios, name="anchors")(features)  # (N, 4)
        propose = Proposals(proposals, config.proposal_iou, name="proposals")
        return features, logits, deltas, anchors, propose((logits, deltas, anchors, pixels))

    def inference(self) -> tf.keras.Model:
        """The graph from photos to detections.

        Inputs: pixels float32 (B, H, W, 3) and scale float32 (B,) as `images.prepare` gives them; size float32 (B, 2),
        height and width of the photos themselves.

        Outputs: boxes float32 (B, K, 4) in pixels of the photos, classes int32 (B, K), indices of `labels` or -1,
        scores float32 (B, K), falling, fc7 float32 (B, K, Q) of the detections' RoIs, and valid bool (B, K).
        """
        config = self.config
        pixels = tf.keras.Input((None, None, 3), name="pixels")
        scale, size = tf.keras.Input((), name="scale"), tf.keras.Input((2,), name="size")
        features, *_, (rois, valid) = self._propose(pixels, config.proposals)
        crops = RoiCrop(name="roi_crop")((features, rois))  # (B, R, 49 M)
        fc7 = self._fc7(self._fc6(crops))  # (B, R, Q)
        detect = Detections(config.detections, config.detection_iou, name="detections")
        outputs = detect((rois, valid, self._class(fc7), self._box(fc7), fc7, scale, size))
        return tf.keras.Model({"pixels": pixels, "scale": scale, "size": size}, outputs, name="faster_rcnn")

    def training(self, how: DetectorTraining) -> JointTraining:
        """The graph from photos and their objects to the four losses of joint training, each float32 (B,).

        Inputs: pixels (B, H, W, 3); boxes float32 (B, G, 4) in pixels of these pictures; classes int32 (B, G), 0 where
        there is no object, else 1 and more; seed int32 (B, 2), of the random choices.
        """
        pixels = tf.keras.Input((None, None, 3), name="pixels")
        boxes = tf.keras.Input((None, 4), name="boxes")
        classes = tf.keras.Input((None,), dtype="int32", name="classes")
        seed = tf.keras.Input((2,), dtype="int32", name="seed")
        features, logits, deltas, anchors, (rois, valid) = self._propose(pixels, how.train_proposals)
        of_anchors = AnchorTargets(how.rpn_batch, how.rpn_foreground, how.rpn_positive, how.rpn_negative)
        of_rois = RoiTargets(how.roi_batch, how.roi_foreground, how.roi_positive, how.roi_background)
        labels, anchor_deltas, drawn = of_anchors((anchors, boxes, classes, pixels, seed))
        rois, found, roi_deltas, used = of_rois((rois, valid, boxes, classes, seed))
        hidden = self._fc6(RoiCrop(name="roi_crop")((features, rois)))
        hidden = self._fc7(ReplayableDropout(how.dropout, how.seed, name="dropout6")(hidden))
        hidden = ReplayableDropout(how.dropout, how.seed + 1, name="dropout7")(hidden)
        losses = {
            "rpn_class": ObjectLoss(name="rpn_class")((logits, labels, drawn)),
            "rpn_box": BoxLoss(sigma=3.0, name="rpn_box")((deltas, anchor_deltas, labels, drawn)),
            "roi_class": ClassLoss(name="roi_class")((self._class(hidden), found, used)),
            "roi_box": BoxLoss(sigma=1.0, name="roi_box")((self._box(hidden), roi_deltas, found, used)),
        }
        inputs = {"pixels": pixels, "boxes": boxes, "classes": classes, "seed": seed}
        return JointTraining(inputs, losses, name="faster_rcnn_training", weight_decay=how.weight_decay)


class JointTraining(tf.keras.Model):
    """The training graph; a step of `fit` takes its inputs alone and lowers the sum of its losses.

    As in the reference, `weight_decay` times a kernel is added to its gradient, and biases learn twice as fast.
    """

    def __init__(self, *args, weight_decay: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.weight_decay = weight_decay
        self.means = {name: tf.keras.metrics.Mean(name=name) for name in ("loss", *self.output)}

    @property
    def metrics(self):
        return list(self.means.values())

    def train_step(self, inputs):
        with tf.GradientTape() as tape:
            losses = {name: tf.reduce_mean(values) for name, values in self(inputs, training=True).items()}
            loss = tf.add_n(list(losses.values()))
        variables = self.trainable_variables
        gradients = [
            gradient + self.weight_decay * variable if "kernel" in path_of(variable) else 2.0 * gradient
            for gradient, variable in zip(tape.gradient(loss, variables), variables)
        ]
        self.optimizer.apply_gradients(zip(gradients, variables))
        for name, value in {"loss": loss, **losses}.items():
            self.means[name].update_state(value)
        return {name: mean.result() for name, mean in self.means.items()}
