"""A run as a SavedModel that takes picture files and sentences, with its backbone inside.

In: a `Matcher`. Out: the SavedModel of `export_saved_model`, with the signature `score_jpeg` where all that describes a
photo can be in one graph.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from bssan_tf.errors import UserError
from bssan_tf.features.context import in_context_graph
from bssan_tf.features.objects import grid_boxes
from bssan_tf.features.picture_graph import decode_picture
from bssan_tf.runs.export import export_saved_model
from bssan_tf.runs.photo import PhotoReader

if TYPE_CHECKING:
    from bssan_tf.matching.matcher import Matcher

logger = logging.getLogger(__name__)


class PhotoGraph:
    """Describes a picture file as `PhotoReader.read` does with the ten fixed boxes, by operations of TensorFlow.

    Args:
        reader: of a run.
        needed: the names of features that its scorer takes.

    Attributes:
        model: the backbone.

    Raises:
        UserError: the objects are a detector's, or of boxes that were given.
    """

    def __init__(self, reader: PhotoReader, needed: frozenset[str]):
        if "objects" in needed and (reader.detector or reader.boxes):
            whose = f"are those of {reader.boxes}" if reader.boxes else f"come from {reader.data.objects}"
            raise UserError(f"objects {whose}, which can't be in it; only the ten fixed boxes can")
        self.extractor, self.context, self.needed = reader.extractor, reader.context, needed
        self.fixed = {name: value[None] for name, value in grid_boxes(reader.config.model.P).items()}
        self.model = reader.extractor.model

    def __call__(self, content: tf.Tensor) -> dict[str, tf.Tensor]:
        """A file's content, string () -> regions float32 (1, D, M), objects float32 (1, P, Q) and valid bool (1, P)."""
        pixels = decode_picture(content, self.extractor.side)[None]
        boxes, valid = (tf.constant(self.fixed[name]) for name in ("boxes", "valid"))
        regions, objects = (tf.cast(array, tf.float32) for array in self.extractor.graph(pixels, boxes, valid))
        if self.context:
            objects = in_context_graph(objects, valid, regions, self.context, tnp)
        found = {"regions": regions, "objects": objects, "valid": valid}
        return {name: value for name, value in found.items() if name in self.needed}


def save_matcher(matcher: Matcher, folder: Path) -> None:
    """Write a run as a SavedModel with the signatures of `export_saved_model`.

    `score_jpeg` gives the scores of `Matcher.score` for photos with fixed boxes, of JPEG or PNG files: the same to 1e-4
    at the size of the backbone. Resized pixels are rounded otherwise, by 1 of 255 levels (3 where transparent), and
    scores with a standard deviation of 0.7 to 2 differed by up to 0.023. A JPEG's EXIF orientation is followed.

    The signature is left out, which is logged, where the objects are a detector's or of given boxes, features were
    imported, or the backbone's weights can't be had.

    UserError: the folder can't be written.
    """
    scorer, describe = matcher.model.scorer, None
    try:
        describe = PhotoGraph(matcher.reader, frozenset(scorer.input) - {"tokens"})
    except UserError as error:
        logger.warning("%s: without the signature score_jpeg: %s", folder, error)
    export_saved_model(scorer, matcher.tokenizer.layer, folder, describe)
