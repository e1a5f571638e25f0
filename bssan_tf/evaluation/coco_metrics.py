"""What COCO's own numbers and annotations allow beside recalls: ECCV Caption, CxC and PMRP.

In: a run's corpus and its folder. Out: parts of a report, their lines, and in one line each what is not measured and
why. Data sets other than COCO have none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bssan_tf.datasets.coco import LAYOUT, PARTS, coco_number, read_instances
from bssan_tf.datasets.corpus import Corpus, Split
from bssan_tf.datasets.files import find_root, first_file
from bssan_tf.errors import UserError
from bssan_tf.metrics.eccv import INSTALL, Lists, installed_lists, listed_report
from bssan_tf.metrics.output import WAYS
from bssan_tf.metrics.plausible import pmrp

if TYPE_CHECKING:
    from bssan_tf.evaluation.scores import OpenRun

NAMES = {"eccv": "ECCV Caption", "cxc": "CxC", "pmrp": "PMRP"}


@dataclass(frozen=True, eq=False)
class CocoMetrics:
    """What is measured of each matrix beside its recalls, and what isn't."""

    lists: Lists | None = None
    numbers: np.ndarray | None = None  # int64 (N,) COCO's, of all images of the corpus, where `lists` are there
    caption_numbers: np.ndarray | None = None  # int64 (N_c,), likewise
    classes: np.ndarray | None = None  # bool (N, C) what all images of the corpus show
    notes: tuple[str, ...] = ()  # what is not measured, and why

    def measure(self, scores: np.ndarray, fold: Split) -> dict:
        """ "eccv" and "cxc" of `eccv.listed_report`, "pmrp" of `plausible.pmrp`, as far as they can be measured."""
        found = {}
        if self.lists:
            found = listed_report(
                scores, self.numbers[fold.image_rows], self.caption_numbers[fold.caption_rows], self.lists
            )
        if self.classes is not None:
            found["pmrp"] = pmrp(scores, fold.image_of_caption, self.classes[fold.image_rows])
        return found

    def mean(self, folds: Sequence[Mapping]) -> dict:
        """The same of several folds: only PMRP is measured there, and each direction the mean over them."""
        if "pmrp" not in folds[0]:
            return {}
        return {"pmrp": {way: float(np.mean([fold["pmrp"][way] for fold in folds])) for way in WAYS}}

    def text(self, report: Mapping) -> str:
        """The lines of a report that has such parts, and the notes; "" for none."""
        lines = []
        for key in ("eccv", "cxc"):
            for way, title in WAYS.items() if key in report else ():
                numbers = ", ".join(f"{name} {value:.1f}" for name, value in report[key][way].items())
                lines.append(f"{NAMES[key]}, {title}: {numbers.replace('R-P', 'R-Precision')}")
        if "pmrp" in report:
            lines.append("PMRP: " + ", ".join(f"{title} {report['pmrp'][way]:.1f}" for way, title in WAYS.items()))
        return "\n".join([*lines, *self.notes])


NO_MORE = CocoMetrics()


def coco_metrics(opened: OpenRun) -> CocoMetrics:
    """What can be measured of a run on COCO; nothing on other data. UserError for a damaged file."""
    corpus, part = opened.data.corpus, opened.part
    if corpus.name != "coco":
        return NO_MORE
    notes, lists = [], None
    if why := _no_lists(corpus, part, opened.request.protocol):
        notes.append(f"ECCV Caption and CxC are not measured: {why}")
    elif (lists := installed_lists()) is None:
        notes.append(f"ECCV Caption and CxC are not measured: {INSTALL} adds their lists")
    numbers = np.array(list(map(_number, corpus.image_ids)), np.int64)
    captions = np.array(corpus.caption_numbers, np.int64)
    if lists and (lacks := lists.lacking(numbers[part.image_rows], captions[part.caption_rows])):
        notes.append(f"ECCV Caption and CxC are not measured: {lacks} of their lists are not scored")
        lists = None
    given = opened.config.data.root
    classes, why = classes_of(Path(given) if given else None, numbers, part.image_rows)
    if why:
        notes.append(f"PMRP is not measured: {why}")
    return CocoMetrics(lists, numbers, captions, classes, tuple(notes))


def _no_lists(corpus: Corpus, part: Split, protocol: str) -> str:
    """Why the lists don't fit, whether they are there or not; "" if they may."""
    if corpus.split_lists != "karpathy" or part.name != "test":
        return f"they are of Karpathy's test images (--split karpathy), not of {corpus.split_lists} {part.name} images"
    if protocol not in ("full", "5k"):
        return f"they rank 5,000 images at once, --protocol {protocol} doesn't"
    if not corpus.caption_numbers:
        return "dataset_coco.json lacks the 'sentid' of captions; take the published one"
    return ""


def _number(name: str) -> int:
    """COCO's number of an image by its file's name; -1 for a name without one."""
    return int(coco_number(name.rpartition("/")[2]) or -1)


def classes_of(root: Path | None, numbers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray | None, str]:
    """What images show, bool (N, C), by the instances in COCO's folder; or None, and why.

    Args:
        root: the folder; None for where COCO is looked for.
        numbers: int (N,), COCO's, of all images; -1 where there is none.
        rows: those of them that must be there; others are read where they are in the same files.
    """
    try:
        root = find_root("coco", root, LAYOUT)
    except UserError as error:
        return None, str(error)
    shown: dict[int, set[str]] = {}
    wanted, names = set(numbers[rows].tolist()), []
    for part in sorted(PARTS, key=lambda part: (part.startswith("train"), part.endswith("2017"))):
        name = f"instances_{part}.json"
        path = first_file(root, f"annotations/{name}", name)
        if path and not wanted <= shown.keys():
            names.append(name)
            labels, photos = read_instances(path)
            for photo, (_, objects) in photos.items():
                shown[_number(photo)] = {labels[kind] for _, kind, _ in objects}
            shown.pop(-1, None)
    if not names:
        return None, f"instances_val2014.json is not in {root}"
    if missing := wanted - shown.keys():
        return None, f"{len(missing):,} of {len(wanted):,} images are not in {', '.join(names)}"
    column = {label: place for place, label in enumerate(sorted(set().union(*shown.values())))}
    classes = np.zeros((len(numbers), len(column)), bool)
    for row, number in enumerate(numbers.tolist()):
        classes[row, [column[label] for label in shown.get(number, ())]] = True
    if not classes[rows].any():
        return None, f"{', '.join(names)} lists no objects of these images"
    return classes, ""
