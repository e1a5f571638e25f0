"""What a detector is and how it is trained: frozen dataclasses, kept as JSON inside the weights file.

No TensorFlow here, so that the command line answers at once.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from bssan_tf.datasets.scene_pictures import COLOURS, SHAPES
from bssan_tf.reading.documents import parse_json
from bssan_tf.reading.files import refusing
from bssan_tf.reading.records import typed_fields

VOC_LABELS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


MOST_ITEMS = 10_000
BOUNDS = {  # of the settings in a file
    "width": (0.001, 16), "hidden": (1, 65_536), "short_side": (1, 16_384), "long_side": (1, 16_384),
    "anchor_scales": (0.01, 1000), "anchor_ratios": (0.01, 100), "proposals": (1, 100_000), "detections": (1, 100_000),
    "proposal_iou": (0, 1), "detection_iou": (0, 1),
}  # fmt: skip
MOST_INTEGER = 2**31 - 1  # of a flag


def setting(default: float, text: str, rule: str = "above 0"):
    """A field that has a flag: its help text and the rule for its values."""
    return field(default=default, metadata={"help": text, "rule": rule})


@dataclass(frozen=True)
class DetectorConfig:
    """The network, and what it does to a photo; the defaults are those of the public VGG-16 checkpoints."""

    labels: tuple[str, ...] = VOC_LABELS  # names of the classes, without the background, class 0 of the network
    width: float = setting(1.0, "share of VGG-16's filters that the network has, 1 for all of them")
    hidden: int = setting(4096, "Q, the dimensions of the layers fc6 and fc7")
    short_side: int = setting(600, "pixels to which the short side of a photo is scaled")
    long_side: int = setting(1000, "most pixels of a photo's long side; where it would have more, this side is scaled")
    anchor_scales: tuple[float, ...] = (8, 16, 32)  # sides of the square anchors, in strides of 16 pixels
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)  # height / width of the anchors
    proposals: int = 300  # RoIs of a photo at test time
    proposal_iou: float = 0.7  # of two proposals that overlap more, the one with the higher score stays
    detection_iou: float = 0.3  # the same for detections of one class
    detections: int = 100  # most detections of a photo

    @property
    def anchors(self) -> int:
        """A, anchors of a cell."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    @property
    def classes(self) -> int:
        """Classes of the network, the background included."""
        return len(self.labels) + 1

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, source: str) -> DetectorConfig:
        """Read back what `to_json` wrote; UserError that names `source` where it is something else."""
        remedy = "write the weights anew by --train or --convert"
        with refusing(source, "its settings are not a detector's of this version", remedy):
            config = cls(**typed_fields(cls, parse_json(text, f"{source}: its settings", remedy)))
            config.check()
        return config

    def check(self) -> None:
        """ValueError that names a field whose value makes no network, or one beyond all bounds."""
        for name, (least, most) in BOUNDS.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not least <= value <= most:
                    raise ValueError(f"{name} is {value}, not from {least} to {most}")
        for name in ("labels", "anchor_scales", "anchor_ratios"):
            if not 0 < len(getattr(self, name)) <= MOST_ITEMS:
                raise ValueError(f"{name} are {len(getattr(self, name))}, not from 1 to {MOST_ITEMS}")


# With the colour in its class: fc7 keeps what the classes need, and would else tell no colours apart.
SCENE_LABELS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
# Scenes are 224 x 224 with objects of 44 to 90 pixels, so they are left at their size.
SCENES = DetectorConfig(
    labels=SCENE_LABELS, width=1 / 8, hidden=256, short_side=224, long_side=224, anchor_scales=(3, 4, 5.5),
    proposals=64, detections=20,
)  # fmt: skip


@dataclass(frozen=True)
class DetectorTraining:
    """Approximate joint training (Ren et al., section 3.2); the defaults are for VOC 2007+2012."""

    photos_per_step: int = setting(1, "photos of one training step; above 1 only where all photos have one size")
    steps: int = setting(110_000, "training steps in all, rounded up to a multiple of --save-every")
    decay_step: int = setting(80_000, "step from which the learning rate is a tenth")
    learning_rate: float = setting(0.001, "learning rate of SGD, stochastic gradient descent")
    momentum: float = 0.9
    weight_decay: float = 0.0005  # of kernels; biases have none, and twice the learning rate
    warmup_steps: int = 0  # steps at the start that have a tenth of the rate
    clip_norm: float = 0.0  # largest norm of the gradient; 0: any
    frozen_blocks: int = setting(2, "VGG-16's first blocks of convolutions that keep their weights", "0 or more")
    dropout: float = 0.5  # after fc6 and fc7
    rpn_batch: int = 256  # anchors of a photo that count in the loss
    rpn_foreground: float = 0.5  # share of these that may be objects
    rpn_positive: float = 0.7  # IoU from which an anchor is an object
    rpn_negative: float = 0.3  # IoU below which an anchor is background
    train_proposals: int = 2000  # proposals of a photo from which its RoIs are drawn
    roi_batch: int = 128  # RoIs of a photo
    roi_foreground: float = 0.25  # share of these that may be objects
    roi_positive: float = 0.5  # IoU from which a RoI is an object
    roi_background: tuple[float, float] = (0.1, 0.5)  # IoUs between which a RoI is background
    save_every: int = setting(1000, "steps between two saved states, from which a stopped training goes on")
    seed: int = setting(0, "seed of the weights, the order of the photos and all random choices", "0 or more")


SCENES_TRAINING = DetectorTraining(
    photos_per_step=8, steps=2500, decay_step=2000, learning_rate=0.01, warmup_steps=100, clip_norm=10.0,
    frozen_blocks=0, dropout=0.0, rpn_batch=64, train_proposals=200, roi_batch=32, roi_background=(0.0, 0.5),
    save_every=250,
)  # fmt: skip
