"""What evaluate.py reports of a run: retrieval in both directions, pointing, and the CCA baseline.

In: a run folder and a request of `scores.py`. Out: one JSON value and the table for people. Only pairs that the
protocol ranks are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from bssan_tf.datasets.caption_vectors import DIMENSIONS
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.evaluation import report as reports
from bssan_tf.evaluation.coco_metrics import NO_MORE, CocoMetrics, coco_metrics
from bssan_tf.evaluation.hubs import Correction
from bssan_tf.evaluation.pointing import pointing
from bssan_tf.evaluation.scores import OpenRun, Request, ScoreRows, folds_of, open_run
from bssan_tf.features.store import require_finite
from bssan_tf.metrics.calibration import measure
from bssan_tf.metrics.details import both_ranks, bounds_of, detailed_report, mean_of, resampled
from bssan_tf.metrics.output import detail_lines
from bssan_tf.metrics.recall import NotFiniteError, mean_report
from bssan_tf.runs.folder import RunFolder


def evaluate(
    run: RunFolder, request: Request, data_flags: dict | None = None, progress: bool = True
) -> tuple[dict, str]:
    """Measure a run on a split: the JSON value of `report_json`, and the text for people.

    UserError as `open_run` and `evaluate_open`.
    """
    return evaluate_open(open_run(run, request, data_flags, progress))


def evaluate_open(opened: OpenRun) -> tuple[dict, str]:
    """As `evaluate`; UserError as `Correction.of`, for a file of other scores, or scores that are not finite."""
    part, data, request, more = opened.part, opened.data, opened.request, coco_metrics(opened)
    correction = Correction.of(opened)

    def measured(scores: ScoreRows, bank_scores: ScoreRows) -> dict[str, dict]:
        rows = correction.added_to(scores, bank_scores) if correction else scores
        return protocol_reports(rows, part, request.protocol, more)

    calibration, sure = opened.run.calibration(), []

    def scores_of(fold: Split) -> dict[str, np.ndarray]:
        matrices = opened.scores(fold)
        if calibration and len(fold.image_ids) > 1:
            sure.append(measure(calibration, matrices["score"], fold.image_of_caption))
        return matrices

    with finite_scores(opened):
        parts = measured(scores_of, opened.bank_scores)
    report, baselines = parts.pop("score"), {}
    for others in opened.cca() if request.baseline else ():
        baselines |= measured(others, others)
    hub = correction and correction.told(parts, baselines)
    truth = data.corpus.grounding
    pointed = None
    if truth and request.pointing:
        pointed = pointing(opened.scorer, data.features, part, truth, opened.tokenizer, progress=opened.progress)
    differs = list(reports.differences(setting_of(opened, report)))
    value = reports.report_json(
        report, run=opened.run.name, corpus=data.corpus.name, split=part.name,
        pointing=pointed, parts=parts, baselines=baselines, hub=hub, differs=differs,
        calibration=mean_of(sure) if sure else None,
    )  # fmt: skip
    text = reports.text_table(value)
    lines = (
        text,
        reports.hub_line(value),
        detail_lines(value),
        more.text(value),
        reports.calibration_line(value),
        reports.pointing_lines(pointed) if pointed else "",
    )
    return value, "\n\n".join(line for line in lines if line)


@contextmanager
def finite_scores(opened: OpenRun) -> Iterator[None]:
    """UserError in place of a NotFiniteError: which features are not finite, or that the model isn't."""
    try:
        yield
    except NotFiniteError:
        require_finite(opened.data.features)
        raise UserError(f"{opened.run.best}: gives scores that are not finite; train the run anew") from None


def protocol_reports(scores: ScoreRows, split: Split, protocol: str, more: CocoMetrics = NO_MORE) -> dict[str, dict]:
    """`recall.mean_report` by name of a split under one of `recall.PROTOCOLS`.

    `scores` is called with each fold as a split of its own, so pairs of different folds are never scored; it gives
    matrices float (N_i, N_c) by name, or two of them, for image to text and text to image. `more` is measured, too.
    UserError as `folds_of`; nothing was scored then.
    """
    found: dict[str, list[dict]] = {}
    draws: dict[str, list[dict]] = {}
    folds = folds_of(split, protocol)
    for place, fold in enumerate(folds):
        for name, matrix in scores(fold).items():
            (i2t, t2i), owner = matrix if isinstance(matrix, tuple) else (matrix, None), fold.image_of_caption
            report = detailed_report(i2t, owner, t2i_scores=t2i)
            if t2i is None:
                report |= more.measure(matrix, fold)
            found.setdefault(name, []).append(report)
            if len(folds) > 1:
                draws.setdefault(name, []).append(resampled(*both_ranks(i2t, owner, t2i), owner, seed=place))
    bounds = {name: {"intervals": bounds_of(mean_of(drawn))} for name, drawn in draws.items()}
    return {
        name: {**mean_report(parts, protocol), **more.mean(parts), **bounds.get(name, {})}
        for name, parts in found.items()
    }


def setting_of(opened: OpenRun, report: Mapping) -> reports.Setting:
    """What the paper's setting is held against."""
    chosen, needed = opened.config.data, opened.config.model.needed_features
    regions = "your own file" if chosen.import_regions else chosen.backbone
    objects = "your own file" if chosen.import_objects else chosen.objects
    corpus, part = opened.data.corpus, opened.part
    of_corpus = DIMENSIONS if chosen.text_corpus else 0
    listed = corpus.split(part.name).image_rows
    return reports.Setting(
        corpus=corpus.name,
        split=part.name,
        split_lists=corpus.split_lists,
        official=corpus.official,
        images=report.get("folds", [report])[0]["n_images"],
        unreadable=int(np.isin(listed, opened.data.features.bad_rows).sum()),
        captions_per_image=opened.request.captions_per_image,
        regions=regions if "regions" in needed else None,
        objects=objects if "objects" in needed else None,
        E_glove=opened.config.model.E_glove - of_corpus,
        E_corpus=of_corpus,
        E_trained=opened.config.model.E_trained,
    )
