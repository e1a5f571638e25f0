"""Why a photo and a caption match: the attention of each word over the photo, and of each object over the words.

What draws is imported late: Matplotlib takes its time, and a search needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bssan_tf.matching.erasing import Erasure
from bssan_tf.runs.photo import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Explanation:
    """A photo beside a caption of L words.

    Attributes:
        words: the L words as they were read.
        known: which of them the run knows, bool (L,); the others were read as one unknown word.
        scores: `score`, and `w2r` and `o2w` where the run has these parts.
        alpha: float32 (L, rows, columns), of each word over the photo's regions, sums to 1; None without W2R.
        beta: float32 (P, L), of each object over the words, sums to 1; None without O2W.
        boxes: float32 (P, 4), x1, y1, x2, y2 as fractions of the photo.
        labels: P names of the objects' classes, "" where one has none; None where no class has a name.
        confidence: float32 (P,), the detector's score of each object.
        valid: bool (P,), False where the photo has no further object.
        pixels: uint8 (side, side, 3), the photo as the model saw it, 224 pixels a side for most backbones.
        source: the photo, or where it lies, for pages; None takes `pixels`.
        erasures: the erase test of each word; None where it was not made.
    """

    words: list[str]
    known: np.ndarray
    scores: dict[str, float]
    alpha: np.ndarray | None
    beta: np.ndarray | None
    boxes: np.ndarray
    labels: list[str] | None
    confidence: np.ndarray
    valid: np.ndarray
    pixels: np.ndarray
    source: Source | None = None
    erasures: list[Erasure] | None = None

    def draw(self, out: str | Path | None = None) -> Figure:
        """Figures 7 and 8 of the paper for this pair, as a Matplotlib figure, and as a PNG in `out`."""
        from bssan_tf.drawing.attention import draw_pair

        words = [word if known else f"{word} (unknown)" for word, known in zip(self.words, self.known)]
        outputs = dict(self.scores)
        if self.alpha is not None:
            outputs["alpha"] = self.alpha.reshape(len(self.alpha), -1)
        if self.beta is not None:
            outputs["beta"] = self.beta
        objects = {"boxes": self.boxes, "scores": self.confidence, "valid": self.valid, "names": self.labels}
        grid = None if self.alpha is None else self.alpha.shape[1:]
        return draw_pair(self.pixels, words, outputs, objects, out and Path(out), grid)

    def page(self, against: Explanation | None = None) -> str:
        """An HTML page that shows this to people: hover or focus a word or an object, and see where it looked.

        Args:
            against: the same photo beside another caption, shown beside this one.
        """
        from bssan_tf.drawing.page import page_of

        return page_of([self, *([against] if against else [])])

    def save_page(self, path: str | Path, against: Explanation | None = None) -> None:
        """Write `page` to a file, whole; UserError where it can't be written, or the photo is gone."""
        from bssan_tf.drawing.page import save_page

        save_page(Path(path), self.page(against))
