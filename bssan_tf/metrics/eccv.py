"""ECCV Caption and CxC: retrieval on COCO's test images with more than one image that a caption fits.

In: scores of Karpathy's 5,000 test images and their captions, and COCO's numbers of both. Out: dicts, in percent.
The lists of what fits are those of the package `eccv_caption`, whose files are read and whose code is not run. Of the
25,010 captions, 25,000 are ranked, five an image, as its lists have it; two that fit an image are among the other ten,
and count as not found.

References: Chun et al., ECCV Caption, ECCV 2022; Parekh et al., Crisscrossed Captions, EACL 2021.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.metrics.details import precisions_at_r
from bssan_tf.metrics.recall import RECALLS, NotFiniteError
from bssan_tf.reading.arrays import open_npy
from bssan_tf.reading.documents import read_json

PACKAGE = "eccv_caption"
INSTALL = "pip install bssan_tf[eval]"
ABSENT = -1  # the place of what fits a query and is not ranked
_AT_ONCE = 1 << 22  # scores read at once

Positives = Mapping[int, Sequence[int]]  # number of a query -> numbers of what fits it


@dataclass(frozen=True, eq=False)
class Lists:
    """What is ranked, and what fits what, all by COCO's numbers."""

    images: np.ndarray  # int64 (N_i,), those that are ranked
    captions: np.ndarray  # int64 (N_c,), likewise
    eccv: tuple[Positives, Positives]  # image -> captions, caption -> images
    cxc: tuple[Positives, Positives]

    def lacking(self, images: Sequence[int], captions: Sequence[int]) -> str:
        """In words, what of the lists is not among these images and captions; "" if all is there."""
        pairs = (("images", self.images, images), ("captions", self.captions, captions))
        missing = [(name, np.setdiff1d(wanted, given), len(wanted)) for name, wanted, given in pairs]
        return " and ".join(
            f"{len(lost):,} of {count:,} {name} (the first: {lost[0]})" for name, lost, count in missing if lost.size
        )


def installed_lists() -> Lists | None:
    """The lists of the installed package; None where it is not installed. UserError if its files are damaged."""
    found = importlib.util.find_spec(PACKAGE)
    return read_lists(Path(found.submodule_search_locations[0]) / "data") if found else None


def read_lists(folder: Path) -> Lists:
    """The lists in the package's folder `data`; UserError if a file is missing or damaged."""
    remedy = f"install it anew: {INSTALL}"

    def positives(name: str) -> dict[int, list[int]]:
        path = folder / f"{name}.json"
        try:
            return {int(query): [int(one) for one in fit] for query, fit in read_json(path, remedy).items()}
        except (TypeError, ValueError):
            raise UserError(f"{path}: is no list of numbers by number; {remedy}") from None

    ways = ("image_to_caption", "caption_to_image")
    eccv, cxc = (tuple(positives(f"{name}_{way}") for way in ways) for name in ("eccv", "cxc"))
    captions = open_npy(folder / "coco_test_ids.npy", remedy, mmap=False).astype(np.int64)
    return Lists(np.array(sorted(positives("original_image_to_caption")), np.int64), captions, eccv, cxc)


def listed_report(scores: np.ndarray, images: Sequence[int], captions: Sequence[int], lists: Lists) -> dict:
    """ECCV Caption and CxC of a score matrix.

    Args:
        scores: float (N_i, N_c), one row an image and one column a caption; may be a memory map. Rows and columns that
            the lists do not have are left out.
        images, captions: int (N_i,), (N_c,), COCO's numbers.

    Returns:
        {"eccv": {"i2t": {"mAP@R", "R-P", "R@1"}, "t2i"}, "cxc": {"i2t": {"R@1", "R@5", "R@10"}, "t2i"}}, in percent.

    Raises:
        NotFiniteError: NaN or infinite scores among those that are ranked.
        ValueError: images or captions of the lists are missing.
    """
    if lacks := lists.lacking(images, captions):
        raise ValueError(f"not there: {lacks}")
    rows, columns = (
        {int(number): place for place, number in enumerate(numbers)} for numbers in (images, captions)
    )  # fmt: skip
    ways = (("i2t", scores, rows, columns, lists.captions), ("t2i", scores.T, columns, rows, lists.images))
    report: dict[str, dict] = {"eccv": {}, "cxc": {}}
    for side, (way, matrix, places, others, ranked) in enumerate(ways):
        candidates = np.array([others[int(number)] for number in ranked])
        position = {int(number): place for place, number in enumerate(ranked)}

        def ranks(positives: Positives, matrix=matrix, places=places, candidates=candidates, position=position):
            fitting = [[position.get(number, ABSENT) for number in fit] for fit in positives.values()]
            return listed_ranks(matrix, np.array([places[number] for number in positives]), candidates, fitting)

        rank = ranks(lists.eccv[side])
        precision, average = (100 * float(np.mean(values)) for values in precisions_at_r(rank))
        report["eccv"][way] = {"mAP@R": average, "R-P": precision, "R@1": 100 * float(np.mean(rank[:, 0] <= 1))}
        first = ranks(lists.cxc[side])[:, 0]
        report["cxc"][way] = {f"R@{k}": 100 * float(np.mean(first <= k)) for k in RECALLS}
    return report


def listed_ranks(
    scores: np.ndarray, queries: np.ndarray, candidates: np.ndarray, positives: Sequence[Sequence[int]]
) -> np.ndarray:
    """As `recall.positive_ranks`, int64 (N_q, R_max), where any candidates may fit a query.

    Args:
        scores: float, a row for each possible query, a column for each possible candidate.
        queries, candidates: int (N_q,), (N_k,), the rows and the columns that count.
        positives: of each query the places in `candidates` that fit it, at least one; ABSENT is behind all others.
    """
    found = np.zeros((len(queries), max(map(len, positives))), np.int64)
    step = max(1, _AT_ONCE // scores.shape[1])
    for start in range(0, len(queries), step):
        block = np.asarray(scores[queries[start : start + step]])[:, candidates]  # (b, N_k)
        if not np.isfinite(block).all():
            raise NotFiniteError("scores: NaN or infinite values")
        for row, line in enumerate(block, start):
            fitting = np.asarray(positives[row])
            own = np.sort(np.where(fitting == ABSENT, -np.inf, line[fitting]))[::-1]  # the best first
            at_least = np.count_nonzero(line >= own[:, None], axis=1)  # the correct ones among them, too
            correct = len(own) - np.searchsorted(own[::-1], own)
            found[row, : len(own)] = np.arange(1, len(own) + 1) + at_least - correct
    return found
