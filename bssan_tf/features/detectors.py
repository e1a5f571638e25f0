"""What every detector of objects offers to extraction, to the look at one photo and to the command that writes boxes.

Two kinds: the package's Faster R-CNN, whose fc7 describes its objects, and those of KerasHub, which give boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from bssan_tf.config.fields import hub_preset


class AnyDetector(Protocol):
    """A detector that looks at one photo at a time.

    Attributes:
        name: what a store is made with.
        store_name: the detector's part of the name of a store's folder.
        labels: names of the classes, or None.
        Q: dimensions of its features of an object; None where it has none, and the backbone describes the boxes.
    """

    name: str
    store_name: str
    labels: tuple[str, ...] | None
    Q: int | None

    def inputs(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """What `run` takes of a photo uint8 (height, width, 3) RGB; may be called by several threads."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Detections: boxes, classes, scores, and fc7 where it has one."""

    def rows(self, found: Mapping[str, np.ndarray]) -> np.ndarray:
        """Detections as rows of a boxes file, float32 (n, 6): edges in pixels of the photo, score, class."""

    def best(self, found: dict[str, np.ndarray], size: tuple[int, int], count: int) -> dict[str, np.ndarray]:
        """`empty_objects(count)` of a photo's (height, width), filled, and "objects" where Q is given."""

    def objects(self, photo: np.ndarray, count: int = 10) -> dict[str, np.ndarray]:
        """The same of a photo."""


def open_detector(what: str | None, flag: str) -> AnyDetector:
    """The detector that `flag` names: `keras_hub:PRESET`, or a file of Faster R-CNN's weights (None: the packaged one).

    UserError as of either.
    """
    if preset := hub_preset(what):
        from bssan_tf.features.hub_detector import HubDetector

        return HubDetector(preset, flag)
    from bssan_tf.features.faster_rcnn.detector import Detector

    return Detector(what, flag)
