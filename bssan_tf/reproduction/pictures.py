"""Figures 5 to 9 of a reproduction, as PNG and PDF files.

In: a plan whose runs are trained, and what is measured. Out: files in the plan's folder, and their names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bssan_tf.datasets.corpus import Split
from bssan_tf.drawing.attention import pair_figures
from bssan_tf.drawing.figures import save
from bssan_tf.drawing.retrieved import pictures_figure, sensitivity_figure, sentences_figure
from bssan_tf.evaluation.scores import OpenRun
from bssan_tf.features.pictures import read_picture
from bssan_tf.metrics.output import WAYS
from bssan_tf.reproduction.materials import Materials
from bssan_tf.reproduction.measured import collapse_of
from bssan_tf.reproduction.plan import POINTS, SYMBOLS, VARIANTS, Plan
from bssan_tf.scoring import score_matrices

BEST = 5  # results of a query (Figures 5 and 6)
SENTENCES, PAIRS = 2, 3  # of Figures 6, and 7 and 8


def draw(materials: Materials, what: str, values: dict[str, dict], caption: int = 1) -> list[str]:
    """Draw one of figure5 ... figure9; the files' names without ending, none where nothing can be drawn.

    Figures 6 to 8 take the `caption`-th caption of each image, counted from 1, or its last one. UserError where a photo
    cannot be read.
    """
    plan, chosen = materials.plan, materials.chosen
    if what == "figure9":
        figures = {what: sensitivity_figure(curves_of(plan, values), WAYS)}
    elif what == "figure5":
        figures = {what: _sentences(materials.open(plan.runs("bssan")[0]), chosen)}
    elif what == "figure6":
        variants = {name: materials.open(plan.runs(row)[0]) for row, (name, _) in VARIANTS.items()}
        figures = {what: _pictures(variants, chosen[:SENTENCES], caption)}
    else:
        opened, shown = materials.open(plan.runs("bssan")[0]), "alpha" if what == "figure7" else "beta"
        drawn = (_attention(opened, image, caption, shown) for image in chosen[:PAIRS])
        figures = {f"{what}-{place}": figure for place, figure in enumerate(drawn, 1) if figure}
    for name, figure in figures.items():
        for ending in (".png", ".pdf"):
            save(figure, plan.folder / f"{name}{ending}")
    return list(figures)


def caption_of(part: Split, image: int, caption: int) -> int:
    """Index of an image's `caption`-th caption, counted from 1, or of its last one."""
    own = np.flatnonzero(part.image_of_caption == image)
    return int(own[min(caption, len(own)) - 1])


def _attention(opened: OpenRun, image: int, caption: int, shown: str) -> Figure | None:
    """One attention of one pair; None where the run's features do not allow it."""
    pair = opened.part.only(image, caption_of(opened.part, image, caption))
    drawn = pair_figures(opened.scorer, opened.data.features, pair, opened.tokenizer, (shown,))
    return next((figure for _, figure in drawn), None)


def _scores(opened: OpenRun, captions: Sequence[str], images: np.ndarray) -> np.ndarray:
    """Scores float32 (n, m) of some images of the split with some sentences."""
    rows, tokens = opened.part.image_rows[images], opened.tokenizer(captions)
    return score_matrices(opened.fast, opened.data.features, tokens, rows, parts=["score"])["score"]


def _best(scores: np.ndarray) -> np.ndarray:
    """Places of the best results, best first; of equal scores the first."""
    return np.argsort(-scores, kind="stable")[:BEST]


def _sentences(opened: OpenRun, chosen: np.ndarray) -> Figure:
    part = opened.part
    scores = _scores(opened, part.captions, chosen)
    found = [
        [(part.captions[place], bool(part.image_of_caption[place] == image)) for place in _best(row)]
        for image, row in zip(chosen, scores)
    ]
    return sentences_figure([_picture(part, image) for image in chosen], found)


def _pictures(variants: dict[str, OpenRun], images: np.ndarray, caption: int) -> Figure:
    """Of a caption of each of these images, as each variant ranks all images of the split."""
    part = next(iter(variants.values())).part
    sentences = [part.captions[caption_of(part, image, caption)] for image in images]
    found = {}
    for name, opened in variants.items():
        scores = _scores(opened, sentences, np.arange(len(part.image_ids)))
        best = [_best(column) for column in scores.T]
        found[name] = [
            [(_picture(part, place), bool(place == image)) for place in row] for row, image in zip(best, images)
        ]
    return pictures_figure(sentences, found)


def _picture(part: Split, image: int) -> np.ndarray:
    return read_picture(part.image_paths[image])[0]


def curves_of(plan: Plan, values: dict[str, dict]) -> dict[str, dict[float, list[dict | None]]]:
    """The reports of Figure 9's points: {parameter: {its value: one a seed, None for one that has collapsed}}."""
    curves: dict[str, dict[float, list[dict | None]]] = {symbol: {} for symbol in SYMBOLS.values()}
    for row, settings in POINTS.items():
        ((key, value),) = settings.items()
        reports = [(training, values[training.name]) for training in plan.runs(row)]
        curves[SYMBOLS[key]][value] = [one if collapse_of(training, one) is None else None for training, one in reports]
    return curves
