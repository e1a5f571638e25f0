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
from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import OpenRun, Request, open_run
from bssan_tf.features.pictures import read_picture
from bssan_tf.metrics.output import WAYS
from bssan_tf.reproduction.plan import VARIANTS, Plan, points
from bssan_tf.scoring import score_matrices

BEST = 5  # results of a query (Figures 5 and 6)
PHOTOS, SENTENCES, PAIRS = 4, 2, 3  # of Figures 5, 6, and 7 and 8


def draw(plan: Plan, what: str, request: Request, values: dict[str, dict], photos: Sequence[str]) -> list[str]:
    """Draw one of figure5 ... figure9; the files' names without ending.

    `photos` are names of images of the split to show, in place of seeded ones. UserError for one that is not there, or
    where pictures cannot be read.
    """
    if what == "figure9":
        figures = {what: sensitivity_figure(curves_of(plan, values), WAYS)}
    else:
        row = plan.runs("bssan")[0].run
        opened = open_run(row, request, progress=False)
        part, chosen = opened.part, choose(opened.part, photos, plan.seeds[0])
        if what == "figure5":
            figures = {what: _sentences(opened, chosen)}
        elif what == "figure6":
            others = {row: plan.runs(row)[0].run for row in VARIANTS if row != "bssan"}
            runs = {VARIANTS[row][0]: open_run(run, request, progress=False) for row, run in others.items()}
            figures = {what: _pictures({**runs, VARIANTS["bssan"][0]: opened}, chosen)}
        else:
            pairs = _only(part, chosen[:PAIRS]).captions_per_image(1)
            shown = "alpha" if what == "figure7" else "beta"
            drawn = pair_figures(opened.scorer, opened.data.features, pairs, opened.tokenizer, (shown,))
            figures = {f"{what}-{place}": figure for place, (_, figure) in enumerate(drawn, 1)}
    for name, figure in figures.items():
        _save(figure, plan, name)
    return list(figures)


def _save(figure: Figure, plan: Plan, name: str) -> None:
    for ending in (".png", ".pdf"):
        save(figure, plan.folder / f"{name}{ending}")


def choose(part: Split, photos: Sequence[str], seed: int) -> np.ndarray:
    """Indices of the images to show: the named ones, or seeded ones."""
    ids = list(part.image_ids)
    for name in photos:
        if name not in ids:
            raise UserError(f"--photos {name}: is no image of the {part.name} split; its names are like {ids[0]}")
    if photos:
        return np.array([ids.index(name) for name in photos])
    return np.random.RandomState(seed).permutation(len(ids))[:PHOTOS]


def _only(part: Split, chosen: np.ndarray) -> Split:
    """The split of these images alone."""
    return part.without_rows(np.delete(part.image_rows, chosen))


def _scores(opened: OpenRun, captions: Sequence[str], images: np.ndarray) -> np.ndarray:
    """Scores float32 (n, m) of some images of the split with some sentences."""
    rows, tokens = opened.part.image_rows[images], opened.tokenizer(captions)
    return score_matrices(opened.fast, opened.data.features, tokens, rows, parts=["score"])["score"]


def _best(scores: np.ndarray) -> np.ndarray:
    """Places of the best results, best first; of equal scores the first."""
    return np.argsort(-scores, kind="stable")[:BEST]


def _sentences(opened: OpenRun, chosen: np.ndarray) -> Figure:
    part = opened.part
    scores = _scores(opened, part.captions, chosen[:PHOTOS])
    found = [
        [(part.captions[place], bool(part.image_of_caption[place] == image)) for place in _best(row)]
        for image, row in zip(chosen, scores)
    ]
    return sentences_figure([_picture(part, image) for image in chosen[:PHOTOS]], found)


def _pictures(variants: dict[str, OpenRun], chosen: np.ndarray) -> Figure:
    """Of the first captions of some images, as each variant ranks all images of the split."""
    part, images = next(iter(variants.values())).part, chosen[:SENTENCES]
    sentences = [part.captions[int(np.searchsorted(part.image_of_caption, image))] for image in images]
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


def curves_of(plan: Plan, values: dict[str, dict]) -> dict[str, dict[float, list[dict]]]:
    """The reports of Figure 9's points: {parameter: {its value: one a seed}}."""
    curves: dict[str, dict[float, list[dict]]] = {"λ": {}, "δ": {}}
    for row, (lam, delta) in points().items():
        reports = [values[training.name] for training in plan.runs(row)]
        name, value = ("λ", lam) if lam is not None else ("δ", delta)
        curves[name][value] = reports
    return curves
