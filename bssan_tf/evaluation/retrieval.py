"""What evaluate.py reports of a run: retrieval in both directions, pointing, and the CCA baseline.

In: a run folder and a split. Out: one JSON value and the table for people. What can be refused is refused before
anything is scored, and only pairs that the protocol ranks are scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bssan_tf.cca import fit as cca
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import MEMORY_MB
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.evaluation import report as reports
from bssan_tf.evaluation.pointing import pointing
from bssan_tf.features.store import require_finite
from bssan_tf.metrics.details import detailed_report
from bssan_tf.metrics.recall import NotFiniteError, mean_report, protocol_folds
from bssan_tf.runs.data import Data, data_of_run
from bssan_tf.runs.folder import RunFolder
from bssan_tf.scoring import FastScorer, score_matrices

ScoreRows = Callable[[Split], Mapping[str, np.ndarray]]  # every image with every caption, (N_i, N_c), by a row's name


@dataclass(frozen=True)
class Request:
    """What to measure of a run."""

    split: str = "test"  # or `train`, `val` (or `dev`)
    captions_per_image: int | None = None  # score only the first so many captions of each picture
    images: int | None = None  # score only a seeded subset of so many pictures
    protocol: str = "full"  # see `recall.protocol_folds`
    parts: bool = (
        False  # also measure W2R and O2W alone, whose matrices lie beside the whole one, in memory or as files of `out`
    )
    baseline: str | None = None  # `cca`, see `cca_scores`
    out: Path | None = None  # a .npy file for the scores, with which an interrupted call goes on where it was
    memory_mb: float = MEMORY_MB  # what scoring may take, see `score_matrices`


def evaluate(
    run: RunFolder, request: Request, data_flags: dict | None = None, progress: bool = True
) -> tuple[dict, str]:
    """Measure a run on a split: the JSON value of `report_json`, and the text for people.

    `data_flags` are fields of DataConfig to replace, where the data have moved since training. UserError for no such
    run or split, data that are gone or differ, too few pictures for the protocol, `parts` of a run that has one, a
    baseline that the data do not allow, a file of other scores, or scores that are not finite.
    """
    config = run.load_config().moved(data_flags)
    if request.parts and len(config.model.needed_features) < 2:
        raise UserError("--parts: the run has one part only; leave it out")
    model, tokenizer = run.load_model()
    data = data_of_run(run, config, progress)
    part = _part_of(data, request, config.training.seed)
    tokenizer.log_unread(part.captions, what=part.name)
    if request.baseline:
        cca_inputs(data)  # UserError without regions
        train = data.split("train")
        if problem := cca.why_no_cca(len(train.image_rows), tokenizer(train.captions), len(tokenizer.words)):
            raise UserError(f"--baseline cca: {problem}; leave it out")
    fast = FastScorer(model.scorer)

    def scores(fold: Split) -> dict[str, np.ndarray]:
        return score_matrices(
            fast, data.features, tokenizer(fold.captions), fold.image_rows,
            parts=None if request.parts else ["score"], memory_mb=request.memory_mb, out=request.out,
            data=json.dumps(data.fingerprint), progress=progress,
        )  # fmt: skip

    try:
        parts = protocol_reports(scores, part, request.protocol)
    except NotFiniteError:
        require_finite(data.features)
        raise UserError(f"{run.best}: gives scores that are not finite; train the run anew") from None
    report, baselines = parts.pop("score"), {}
    if request.baseline:
        glove = model.scorer.get_layer("glove").get_weights()[0] if config.model.E_glove else None
        for name, array in cca_inputs(data).items():
            others = cca_scores(name, array, tokenizer, data, config.training.seed, progress, glove)
            baselines |= protocol_reports(others, part, request.protocol)
    truth = data.corpus.grounding
    pointed = pointing(model.scorer, data.features, part, truth, tokenizer, progress=progress) if truth else None
    value = reports.report_json(
        report, run=run.name, corpus=data.corpus.name, split=part.name,
        pointing=pointed, parts=parts, baselines=baselines,
    )  # fmt: skip
    text = reports.text_table(value, reports.differences(_setting(config, data, part, request, report)))
    lines = (text, reports.detail_lines(value), reports.pointing_lines(pointed) if pointed else "")
    return value, "\n\n".join(line for line in lines if line)


def _part_of(data: Data, request: Request, seed: int) -> Split:
    """The pictures and captions to measure; UserError if they are too few, or have several matrices for one file."""
    part = data.split(request.split)
    if request.images:
        part = part.sample_images(request.images, seed)
    if request.captions_per_image:
        part = part.captions_per_image(request.captions_per_image)
    out, protocol = request.out, request.protocol
    folds = len(protocol_folds(protocol, len(part.image_ids)))
    if out and folds > 1:
        raise UserError(f"--out {out}: holds one matrix, and --protocol {protocol} has {folds}; leave one out")
    return part


def protocol_reports(scores: ScoreRows, split: Split, protocol: str) -> dict[str, dict]:
    """`recall.mean_report` by name of a split under one of `recall.PROTOCOLS`.

    `scores` is called with each fold as a split of its own, so pairs of different folds are never scored; it gives
    matrices float (N_i, N_c) by name. UserError if the split has fewer images than the protocol, which takes its first
    ones, needs; nothing was scored then.
    """
    found: dict[str, list[dict]] = {}
    for start, stop in protocol_folds(protocol, len(split.image_ids)):
        fold = split.without_rows(np.delete(split.image_rows, np.s_[start:stop]))
        for name, matrix in scores(fold).items():
            found.setdefault(name, []).append(detailed_report(matrix, fold.image_of_caption))
    return {name: mean_report(folds, protocol) for name, folds in found.items()}


def cca_inputs(data: Data) -> dict[str, np.ndarray]:
    """What a CCA can pool: regions as `cca`, objects in their context as `cca_context`; UserError without regions."""
    if data.features.regions is None:
        raise UserError("--baseline: a CCA needs regions, and there are objects only; leave it out")
    found = {"cca": data.features.regions}
    if data.features.in_context:
        found["cca_context"] = data.features.objects
    return found


def cca_scores(
    name: str, array: np.ndarray, tokenizer, data: Data, seed: int, progress: bool, glove: np.ndarray | None
) -> ScoreRows:
    """What gives a split's scores by a CCA of one of `cca_inputs`, fitted on the train split.

    Under `name` stands the baseline, cosines of a CCA that knows no word vectors; under `name` and `_weighted` those
    with weighted lengths of a CCA that has `glove`, float (V, E) or None, and is selected by such scores. These have at
    least what the preset's start has (`start_from_cca`), so that only the rest counts as learned.
    """
    train = data.split("train")
    samples = (array, train.image_rows, tokenizer(train.captions), train.image_of_caption, len(tokenizer.words))
    plain = cca.fit_cca(*samples, seed, progress=progress)
    best = cca.fit_cca(*samples, seed, progress=progress, word_vectors=glove, weighted=True)

    def scores(part: Split) -> dict[str, np.ndarray]:
        sides = (array, part.image_rows, tokenizer(part.captions))
        return {name: plain.score_matrix(*sides), f"{name}_weighted": best.score_matrix(*sides, weighted=True)}

    return scores


def _setting(config: Config, data: Data, part: Split, request: Request, report: Mapping) -> reports.Setting:
    """What the paper's setting is held against."""
    chosen, needed = config.data, config.model.needed_features
    regions = "your own file" if chosen.import_regions else chosen.backbone
    objects = "your own file" if chosen.import_objects else chosen.objects
    listed = data.corpus.split(part.name).image_rows
    return reports.Setting(
        corpus=data.corpus.name,
        split=part.name,
        split_lists=data.corpus.split_lists,
        official=data.corpus.official,
        images=report.get("folds", [report])[0]["n_images"],
        unreadable=int(np.isin(listed, data.features.bad_rows).sum()),
        captions_per_image=request.captions_per_image,
        regions=regions if "regions" in needed else None,
        objects=objects if "objects" in needed else None,
        E_glove=config.model.E_glove,
        E_trained=config.model.E_trained,
    )
