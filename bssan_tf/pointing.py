"""Does attention look at the right place? Pointing accuracy against ground truth, which only `scenes` has.

In: the scorer's α and β for each image with its own captions, and a Grounding. Out: the share of colour
and shape words whose α peaks inside the named object's box (W2R), the share of objects whose β peaks at a
word that names them (O2W), and what a random choice would reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from bssan_tf.boxes import iou
from bssan_tf.datasets.corpus import Grounding, Split
from bssan_tf.features.store import Features
from bssan_tf.pipeline import gather, longest

MIN_IOU = 0.5


def pointing(
    scorer: Callable[[dict], Mapping],
    features: Features,
    split: Split,
    grounding: Grounding,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, float | int | None]:
    """Pointing accuracy of every image of a split with each of its own captions.

    W2R counts a (caption, colour or shape word) as right if the centre of the cell with the largest α lies
    in the true box of the object that the word names (of one of them, if it names several). O2W counts a
    valid box that has IoU >= 0.5 with a true box whose object the caption names, as right if its largest β
    is at a word that names it.

    Args:
        scorer: inputs by name -> outputs by name, "alpha" float (B, L, D) and/or "beta" float (B, P, L)
            among them.
        features: the store that `split.image_rows` refer to; `grid` is needed for W2R, `boxes` for O2W.
        split: images and captions.
        grounding: of the split's corpus.
        tokenizer: captions -> int (N_c, L), 0 = padding.

    Returns:
        "w2r", "o2w": percent, None where the model has no such attention or there is nothing to count;
        "w2r_chance": percent of the cells that would be right; "o2w_chance": percent of the words that
            would be;
        "n_words", "n_objects": how many cases were counted.
    """
    tokens = np.asarray(tokenizer(split.captions))
    inputs_of_scorer = getattr(scorer, "input", None)  # a Keras model names its inputs
    w2r, o2w = [], []  # (right, chance) of each case
    starts = range(0, len(tokens), batch_size)
    for start in tqdm(starts, desc="pointing", unit="batch", disable=not progress):
        batch = slice(start, start + batch_size)
        images = split.image_of_caption[batch]
        rows = split.image_rows[images]
        cut = tokens[batch, : longest(tokens[batch])]
        inputs = {**gather(features, rows), "tokens": cut}
        outputs = scorer({name: inputs[name] for name in inputs_of_scorer or inputs})
        alpha, beta = (np.asarray(outputs[name]) if name in outputs else None for name in ("alpha", "beta"))
        for n, caption in enumerate(split.caption_rows[batch]):
            words = int((cut[n] != 0).sum())
            named = [(position, thing) for position, thing in grounding.named[caption] if position < words]
            boxes = grounding.boxes[rows[n]]
            if alpha is not None and features.grid is not None:
                w2r += word_cases(alpha[n], named, boxes, features.grid)
            if beta is not None and features.boxes is not None:
                detected = features.boxes[rows[n]][features.valid[rows[n]]]
                o2w += object_cases(beta[n][features.valid[rows[n]]], named, boxes, detected, words)
    result: dict[str, float | int | None] = {}
    for name, cases in (("w2r", w2r), ("o2w", o2w)):
        right, chance = (100 * np.mean(cases, axis=0)).tolist() if cases else (None, None)
        result |= {name: right, f"{name}_chance": chance}
    return {**result, "n_words": len(w2r), "n_objects": len(o2w)}


def word_cases(alpha: np.ndarray, named: Sequence, boxes: np.ndarray, grid: tuple[int, int]) -> list:
    """(right, chance) of each naming word of one caption.

    Args:
        alpha: float (L, D), D = rows x columns of `grid`, row by row.
        named: (word position, object index) pairs.
        boxes: float (n, 4), true boxes in [0, 1].
    """
    rows, columns = grid
    y, x = ((np.indices(grid) + 0.5) / np.reshape((rows, columns), (2, 1, 1))).reshape(2, -1)  # centres (D,)
    cases = []
    for position in dict.fromkeys(position for position, _ in named):
        inside = np.zeros(rows * columns, bool)
        for x1, y1, x2, y2 in (boxes[thing] for place, thing in named if place == position):
            inside |= (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
        cases.append((inside[alpha[position].argmax()], inside.mean()))
    return cases


def object_cases(beta: np.ndarray, named: Sequence, boxes: np.ndarray, detected: np.ndarray, words: int) -> list:
    """(right, chance) of each detected box of one image whose object the caption names.

    Args:
        beta: float (p, L), one row for each of `detected`.
        named: (word position, object index) pairs.
        boxes: float (n, 4), true boxes.
        detected: float (p, 4), in the same units.
        words: length of the caption.
    """
    cases = []
    overlaps = iou(detected, boxes)  # (p, n)
    for box in np.flatnonzero(overlaps.max(axis=1, initial=0) >= MIN_IOU):
        thing = overlaps[box].argmax()
        naming = {position for position, other in named if other == thing}
        if naming:
            cases.append((int(beta[box].argmax()) in naming, len(naming) / words))
    return cases
