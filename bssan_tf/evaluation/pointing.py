"""Does attention look at the right place? Pointing accuracy against a Grounding: of `scenes`, or of COCO's instances.

In: the scorer's α and β for each image with its own captions, and a Grounding. Out: the share of naming words whose
α peaks inside a box of the object they name (W2R), the share of objects whose β peaks at a word that names them
(O2W), and what a random choice, or for W2R the picture's centre, would reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bssan_tf.datasets.corpus import Grounding, Split
from bssan_tf.datasets.text import UNKNOWN
from bssan_tf.features.store import Features, gather, longest
from bssan_tf.tools.boxes import iou

MIN_IOU = 0.5  # of a detected box with the true box of the object that it stands for


class Case(NamedTuple):
    """A naming word, or a detected object, that points rightly or not."""

    thing: int  # index of the named object among those of the picture
    right: float  # 1 if attention peaks where it should, else 0; of peaks of one weight the share that are right
    chance: float  # share of all cells, or words, that would be right
    tied: bool  # whether several share the largest weight, as they do where the tanh of Eq. 2 or 10 saturates
    entropy: float  # of the weights, as a share of that of even ones: 1 where attention chooses nothing
    centre: bool | None = None  # whether the picture's centre would be right; None for objects


class Cases(NamedTuple):
    """What `find_cases` counts; rows are those of the pictures in the corpus."""

    words: list[tuple[int, Case]]  # of W2R, with their rows
    objects: list[tuple[int, Case]]  # of O2W, likewise
    unknown: int  # naming words that the model cannot read, and which are not counted


def pointing(
    scorer: Callable[[dict], Mapping],
    features: Features,
    split: Split,
    grounding: Grounding,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, float | int | None]:
    """Pointing accuracy over all cases of `find_cases`, whose arguments it takes.

    "w2r" and "o2w" are percentages, None where the model has no such attention or there is nothing to count. "w2r_..."
    and "o2w_..." are the means in percent of further fields of `Case`; "n_words" and "n_objects" count the cases.
    """
    found = find_cases(scorer, features, split, grounding, tokenizer, batch_size, progress)
    words, objects = ([case for _, case in cases] for cases in (found.words, found.objects))

    def percent(cases: list[Case], field: str) -> float | None:
        return float(100 * np.mean([getattr(case, field) for case in cases])) if cases else None

    return {
        "w2r": percent(words, "right"),
        **{f"w2r_{field}": percent(words, field) for field in ("chance", "tied", "entropy", "centre")},
        "o2w": percent(objects, "right"),
        **{f"o2w_{field}": percent(objects, field) for field in ("chance", "entropy")},
        "n_words": len(words),
        "n_objects": len(objects),
    }


def find_cases(
    scorer: Callable[[dict], Mapping],
    features: Features,
    split: Split,
    grounding: Grounding,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    batch_size: int = 32,
    progress: bool = False,
) -> Cases:
    """Every image of a split with each of its own captions.

    W2R counts a (caption, naming word) as right if the centre of the cell with the largest α lies in the true box of
    the object that the word names (of one of them, if it names several; of cells that share the largest α their share
    counts). O2W counts a valid box that has IoU >= 0.5 with a true box whose object the caption names, as right if its
    largest β is at a word that names it.

    Args:
        scorer: inputs by name -> outputs by name, "alpha" float (B, L, D) and/or "beta" float (B, P, L) among them.
        features: the store that `split.image_rows` refer to; `grid` is needed for W2R, `boxes` for O2W.
        tokenizer: captions -> int (N_c, L), 0 = padding, 1 = unknown.
    """
    tokens = np.asarray(tokenizer(split.captions))
    inputs_of_scorer = getattr(scorer, "input", None)  # a Keras model names its inputs
    unknown, w2r, o2w = 0, [], []
    for start in tqdm(range(0, len(tokens), batch_size), desc="pointing", unit="batch", disable=not progress):
        batch = slice(start, start + batch_size)
        rows = split.image_rows[split.image_of_caption[batch]]
        cut = tokens[batch, : longest(tokens[batch])]
        inputs = {**gather(features, rows), "tokens": cut}
        outputs = scorer({name: inputs[name] for name in inputs_of_scorer or inputs})
        alpha, beta = (np.asarray(outputs[name]) if name in outputs else None for name in ("alpha", "beta"))
        for n, caption in enumerate(split.caption_rows[batch]):
            row, words = rows[n], int((cut[n] != 0).sum())
            named = [(position, thing) for position, thing in grounding.named[caption] if position < words]
            unread = {position for position, _ in named if cut[n, position] == UNKNOWN}
            unknown += len(unread)
            named = [(position, thing) for position, thing in named if position not in unread]
            boxes = grounding.boxes[row]
            if alpha is not None and features.grid is not None:
                w2r += [(int(row), case) for case in word_cases(alpha[n], named, boxes, features.grid)]
            if beta is not None and features.boxes is not None:
                valid = features.valid[row]
                cases = object_cases(beta[n][valid], named, boxes, features.boxes[row][valid], words)
                o2w += [(int(row), case) for case in cases]
    return Cases(w2r, o2w, unknown)


def word_cases(alpha: np.ndarray, named: Sequence, boxes: np.ndarray, grid: tuple[int, int]) -> list[Case]:
    """The case of each naming word of one caption; of several objects that it names, `thing` is the first.

    `alpha` is float (L, D), D = rows x columns of `grid`, row by row; `named` are (word position, object index) pairs,
    `boxes` float (n, 4) the true ones in [0, 1].
    """
    y, x = ((np.indices(grid) + 0.5) / np.reshape(grid, (2, 1, 1))).reshape(2, -1)  # centres (D,)
    cases = []
    for position in dict.fromkeys(position for position, _ in named):
        things = [thing for place, thing in named if place == position]
        cells, centre = _inside(x, y, boxes[things]), _inside(0.5, 0.5, boxes[things])
        cases.append(Case(things[0], *_at_peak(alpha[position], cells), bool(centre)))
    return cases


def _at_peak(weights: np.ndarray, good: np.ndarray) -> tuple[float, float, bool, float]:
    """`right`, `chance`, `tied` and `entropy` of a Case from weights (n,) and which places are right, bool (n,)."""
    peak = weights == weights.max()
    return float(good[peak].mean()), float(good.mean()), bool(peak.sum() > 1), _entropy(weights)


def _entropy(weights: np.ndarray) -> float:
    """Shannon's, of weights (n,) that sum to 1, divided by log n; 1 where there is one place."""
    if len(weights) == 1:
        return 1.0
    p = weights[weights > 0].astype(np.float64)
    return float(-(p * np.log(p)).sum() / np.log(len(weights)))


def _inside(x, y, boxes: np.ndarray) -> np.ndarray:
    """Whether points x, y of any one shape lie in at least one of the boxes (n, 4): bool of that shape."""
    x1, y1, x2, y2 = boxes.T.reshape(4, -1, *(1,) * np.ndim(x))
    return ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).any(axis=0)


def object_cases(beta: np.ndarray, named: Sequence, boxes: np.ndarray, detected: np.ndarray, words: int) -> list[Case]:
    """The case of each detected box of one image whose object the caption, of so many `words`, names.

    `beta` is float (p, L), a row for each of `detected` float (p, 4); `named` are (word position, object index) pairs,
    `boxes` float (n, 4) the true ones in the same units.
    """
    cases, overlaps = [], iou(detected, boxes)  # (p, n)
    for box in np.flatnonzero(overlaps.max(axis=1, initial=0) >= MIN_IOU):
        thing = overlaps[box].argmax()
        naming = np.zeros(words, bool)
        naming[[position for position, other in named if other == thing]] = True
        if naming.any():
            cases.append(Case(int(thing), *_at_peak(beta[box, :words], naming)))
    return cases
