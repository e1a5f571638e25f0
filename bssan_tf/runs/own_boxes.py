"""What a run's own boxes file says of photos: those of its own corpus, told by their place.

In: a run, its data settings, and picture files. Out: which of them are photos of the corpus, and their rows.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets import scenes_folder
from bssan_tf.datasets.scenes import boxes_file
from bssan_tf.errors import UserError
from bssan_tf.features.objects import BoxesFile
from bssan_tf.runs.data import corpus_of, is_boxes_of
from bssan_tf.runs.folder import RunFolder

logger = logging.getLogger(__name__)

UNTOLD = "the boxes of the run's own photos can't be told: %s"


class OwnBoxes(NamedTuple):
    """What a run's boxes file says of photos of the run's own corpus."""

    file: BoxesFile
    images: Mapping[str, tuple[str, int]]  # of each real path: the photo's id in the corpus, and its row in the file

    def row(self, path: Path) -> int | None:
        """The row of a photo; None for one that is not of the corpus."""
        return self.images.get(os.path.realpath(path), (None, None))[1]


class OwnFile:
    """The boxes file of a run, and the corpus that it is of; each is read once, when a photo needs it.

    Args:
        run: whose boxes they are; a file with another hash than in its training is not taken.
        data: the run's settings, its files where they are now.
    """

    def __init__(self, run: RunFolder, data: DataConfig):
        self.run, self.data = run, data

    @functools.cached_property
    def _file(self) -> BoxesFile | None:
        data = self.data
        own = data.boxes or (boxes_file(scenes_folder(data.cache)) if data.data == "scenes" else None)
        if data.objects != "boxes" or own is None or not Path(own).exists():
            return None
        if not is_boxes_of(self.run, own):
            logger.info(UNTOLD, f"{own} is another file than in the training")
            return None
        return BoxesFile(own)

    @functools.cached_property
    def _images(self) -> dict[str, list[tuple[str, Path]]]:
        """Id and path of each photo of the corpus, by file name; where the corpus can't be read, that is said."""
        found: dict[str, list[tuple[str, Path]]] = {}
        try:
            corpus = corpus_of(self.data, progress=False)
        except UserError as error:
            logger.info(UNTOLD, error)
            return found
        for image_id, path in zip(corpus.image_ids, corpus.image_paths):
            found.setdefault(path.name, []).append((image_id, path))
        return found

    def of(self, paths: Sequence[Path]) -> OwnBoxes | None:
        """The run's own boxes of those of these files that are photos of its corpus; None if none is, or it has none.

        A name alone does not tell: another photo may have it.
        """
        names = self._file and {path.name for path in paths} & self._file.names_of.keys()
        images = [image for name in names for image in self._images.get(name, ())] if names else []
        try:
            rows = self._file.rows(*zip(*images)) if images else ()
        except UserError as error:
            logger.info(UNTOLD, error)
            return None
        found = {os.path.realpath(path): (image_id, int(row)) for (image_id, path), row in zip(images, rows)}
        wanted = {os.path.realpath(path) for path in paths}
        found = {path: image for path, image in found.items() if path in wanted}
        return OwnBoxes(self._file, found) if found else None
