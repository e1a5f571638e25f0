"""What a detector is and how it is trained: frozen dataclasses, kept as JSON inside the weights file.

No TensorFlow here, so that the command line answers at once.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from bssan_tf.datasets.scene_pictures import COLOURS, SHAPES
from bssan_tf.errors import UserError

VOC_LABELS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class DetectorConfig:
    """The network, and what it does to a photo; the defaults are those of the public VGG-16 checkpoints.

    Attributes:
        labels: names of the classes, without the background, which is class 0 of the network.
        width: share of VGG-16's filters.
        hidden: Q, size of fc6 and fc7.
        short_side, long_side: a photo is scaled until its short side is the one, unless its long side would exceed
            the other; in pixels.
        anchor_scales: sides of the square anchors, in strides of 16 pixels.
        anchor_ratios: height / width of the anchors.
        proposals: RoIs of a photo at test time.
        proposal_iou: of two proposals that overlap more, the one with the higher score stays.
        detection_iou: the same for detections of one class.
        detections: most detections of a photo.
    """

    labels: tuple[str, ...] = VOC_LABELS
    width: float = 1.0
    hidden: int = 4096
    short_side: int = 600
    long_side: int = 1000
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    proposals: int = 300
    proposal_iou: float = 0.7
    detection_iou: float = 0.3
    detections: int = 100

    @property
    def anchors(self) -> int:
        """A, anchors of a cell."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    @property
    def classes(self) -> int:
        """Classes of the network, the background included."""
        return len(self.labels) + 1

    def to_json(self) -> str:
        """The config as JSON text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, source: str) -> DetectorConfig:
        """Read back what `to_json` wrote; UserError that names `source` where it is something else."""
        try:
            raw = json.loads(text)
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{source}: its settings are not a detector's of this version ({error})") from None


# With the colour in its class: fc7 keeps what the classes need, and without it tells no colours apart.
SCENE_LABELS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
# Scenes are 224 x 224 with objects of 44 to 90 pixels, so they are left at their size.
SCENES = DetectorConfig(
    labels=SCENE_LABELS,
    width=1 / 8,
    hidden=256,
    short_side=224,
    long_side=224,
    anchor_scales=(3, 4, 5.5),
    proposals=64,
    detections=20,
)


@dataclass(frozen=True)
class DetectorTraining:
    """Approximate joint training (Ren et al., section 3.2); the defaults are for VOC 2007+2012.

    Attributes:
        photos_per_step: photos of one step, all of one size where there is more than one.
        steps, decay_step: length of the training, in whole multiples of `save_every`, and the step from which the
            learning rate is a tenth.
        learning_rate, momentum, weight_decay: of SGD; biases have twice the rate and no decay.
        warmup_steps: steps at the start that have a tenth of the rate.
        clip_norm: largest norm of the gradient; 0 for none.
        frozen_blocks: blocks of the trunk that keep their weights, counted from the first.
        dropout: after fc6 and fc7.
        rpn_batch, rpn_foreground: anchors of a photo that count in the loss, and the most that are objects.
        rpn_positive, rpn_negative: an anchor is an object from the one IoU on, background below the other.
        train_proposals: proposals of a photo from which its RoIs are drawn.
        roi_batch, roi_foreground: RoIs of a photo, and the share of them that may be objects.
        roi_positive, roi_background: IoU from which a RoI is an object; the range in which it is background.
        save_every: steps between two saved states.
    """

    photos_per_step: int = 1
    steps: int = 110_000
    decay_step: int = 80_000
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 0.0005
    warmup_steps: int = 0
    clip_norm: float = 0.0
    frozen_blocks: int = 2
    dropout: float = 0.5
    rpn_batch: int = 256
    rpn_foreground: float = 0.5
    rpn_positive: float = 0.7
    rpn_negative: float = 0.3
    train_proposals: int = 2000
    roi_batch: int = 128
    roi_foreground: float = 0.25
    roi_positive: float = 0.5
    roi_background: tuple[float, float] = (0.1, 0.5)
    save_every: int = 1000
    seed: int = 0


SCENES_TRAINING = DetectorTraining(
    photos_per_step=8,
    steps=2500,
    decay_step=2000,
    learning_rate=0.01,
    warmup_steps=100,
    clip_norm=10.0,
    frozen_blocks=0,
    dropout=0.0,
    rpn_batch=64,
    train_proposals=200,
    roi_batch=32,
    roi_background=(0.0, 0.5),
    save_every=250,
)
