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

from bssan_tf.config.schema import Config
from bssan_tf.datasets.corpus import Split
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.evaluation import report as reports
from bssan_tf.evaluation.pointing import pointing
from bssan_tf.features.context import ObjectsInContext
from bssan_tf.features.store import needed_features
from bssan_tf.metrics import mean_report, protocol_folds, retrieval_report
from bssan_tf.runs.data import Data, fingerprint, open_data, resolve
from bssan_tf.runs.folder import RunFolder
from bssan_tf.scoring import FastScorer, check_score_file, score_matrices, score_matrix
from bssan_tf.scoring.planning import MEMORY_MB

ScoreSplit = Callable[[Split], np.ndarray]  # every image with every caption: float (N_i, N_c)
ScoreRows = Callable[[Split], Mapping[str, np.ndarray]]  # the same for several rows of the report, by name


def evaluate(
    run: RunFolder,
    split: str = "test",
    captions_per_image: int | None = None,
    images: int | None = None,
    protocol: str = "full",
    baseline: str | None = None,
    parts: bool = False,
    data_flags: dict | None = None,
    memory_mb: float = MEMORY_MB,
    out: Path | None = None,
    progress: bool = True,
) -> tuple[dict, str]:
    """Measure a run on a split.

    Args:
        split: `train`, `val` (or `dev`), `test`.
        captions_per_image: score only the first so many captions of each picture.
        images: score only a seeded subset of so many pictures.
        protocol: see `metrics.protocol_folds`.
        baseline: `cca`, or None; see `cca_scores`.
        parts: also measure W2R and O2W alone; their matrices are in memory beside the whole one.
        data_flags: fields of DataConfig to replace, where the data have moved since training.
        memory_mb: what scoring may take, see `score_matrix`.
        out: a .npy file for the scores, with which an interrupted call goes on where it was.
        progress: show bars.

    Returns:
        The JSON value of `report_json`, and the text for people.

    Raises:
        UserError: no such run or split, data that are gone or differ, too few pictures for the protocol, `parts` of
            a run that has one.
    """
    config = run.load_config().with_moved_data(data_flags)
    if parts and config.model.variant in ("w2r", "o2w"):
        raise UserError("--parts: the run has one part only; leave it out")
    model, tokenizer = run.load_model()
    data = open_data(config.data, progress)
    check_fit(config, data)
    known = fingerprint(data)
    run.require_same_data(known)
    part = data.split(split)
    if images:
        part = part.sample_images(images, config.training.seed)
    if captions_per_image:
        part = part.captions_per_image(captions_per_image)
    folds = protocol_folds(protocol, len(part.image_ids))  # raises if there are too few, before CCA is fitted
    if out and len(folds) > 1:
        raise UserError(f"--out {out}: holds one matrix, and --protocol {protocol} has {len(folds)}; leave one out")

    score = _BssanScores(FastScorer(model.scorer), tokenizer, data, memory_mb, out, json.dumps(known), progress)
    score.check_file(_fold(part, *folds[0]))
    others = _baselines(config, model, tokenizer, data, progress) if baseline == "cca" else []
    alone = part_reports(score.of_parts, part, protocol) if parts else {"score": protocol_report(score, part, protocol)}
    report = alone.pop("score")
    baselines = {name: row for scores in others for name, row in part_reports(scores, part, protocol).items()}
    truth = data.corpus.grounding
    pointed = pointing(model.scorer, data.features, part, truth, tokenizer, progress=progress) if truth else None

    where = {"corpus": data.corpus.name, "split": part.name}
    value = reports.report_json(report, run=run.name, **where, pointing=pointed, parts=alone, baselines=baselines)
    differs = _differences(config, data, part, report, captions_per_image)
    text = reports.text_table(report, run.name, **where, parts=alone, baselines=baselines, differs=differs)
    if pointed:
        text += "\n\n" + reports.pointing_lines(pointed)
    return value, text


def protocol_report(score: ScoreSplit, split: Split, protocol: str) -> dict:
    """Score a split under a protocol, fold by fold: pairs of different folds are never scored.

    Args:
        score: called with each fold as a split of its own.
        split: images in the order from which the protocol takes the first ones.
        protocol: one of `metrics.PROTOCOLS`.

    Raises:
        UserError: the split has fewer images than the protocol needs; nothing was scored then.
    """
    return part_reports(lambda fold: {"": score(fold)}, split, protocol)[""]


def part_reports(scores: ScoreRows, split: Split, protocol: str) -> dict[str, dict]:
    """`protocol_report` of several matrices {name: float (N_i, N_c)} that are scored together, by name."""
    folds = [_fold(split, start, stop) for start, stop in protocol_folds(protocol, len(split.image_ids))]
    found: dict[str, list[dict]] = {}
    for fold in folds:
        for name, matrix in scores(fold).items():
            found.setdefault(name, []).append(retrieval_report(matrix, fold.image_of_caption))
    return {name: mean_report(reports_of_folds, protocol) for name, reports_of_folds in found.items()}


def _fold(split: Split, start: int, stop: int) -> Split:
    return split.without_rows(np.delete(split.image_rows, np.s_[start:stop]))


def check_fit(config: Config, data: Data) -> None:
    """UserError unless the features that the model looks at are there, in the sizes that it was trained on."""
    for name in needed_features(config.model.variant):
        array = getattr(data.features, name)
        if array is None:
            raise UserError(
                f"{name}: the run is of variant {config.model.variant}, which needs them, and none were imported; "
                f"add --import-{name} FILE.npy"
            )
        letters = "DM" if name == "regions" else "PQ"
        trained = tuple(getattr(config.model, letter) for letter in letters)
        if array.shape[2] != trained[1]:
            raise UserError(
                f"{name} of the data are {array.shape[1:]}, the run was trained on {trained}; "
                "give the features that it was trained with"
            )


@dataclass(frozen=True, eq=False)
class _BssanScores:
    """Scores of a split by the run's model, in the file `out` if given, which keeps `known`, what the data are."""

    fast: FastScorer
    tokenizer: Tokenizer
    data: Data
    memory_mb: float
    out: Path | None
    known: str
    progress: bool

    def __call__(self, part: Split) -> np.ndarray:
        options = {"memory_mb": self.memory_mb, "out": self.out, "data": self.known, "progress": self.progress}
        return score_matrix(self.fast, **self.sides(part), **options)

    def of_parts(self, part: Split) -> dict[str, np.ndarray]:
        """The same as `score`, and `w2r` and `o2w` alone: from one pass, or one each beside a file, which has one."""
        sides, options = self.sides(part), {"memory_mb": self.memory_mb, "progress": self.progress}
        if not self.out:
            return score_matrices(self.fast, **sides, **options)
        alone = {name: score_matrix(self.fast, **sides, part=name, **options) for name in ("w2r", "o2w")}
        return {"score": self(part), **alone}

    def check_file(self, part: Split) -> None:
        """UserError if `out` cannot be written or holds the scores of something else."""
        if self.out:
            check_score_file(self.out, self.fast, **self.sides(part), data=self.known)

    def sides(self, part: Split) -> dict:
        """What scoring takes of a split, by argument."""
        features = self.data.features
        sides = {name: getattr(features, name) for name in ("regions", "objects", "valid")}
        return {**sides, "captions": self.tokenizer(part.captions), "image_rows": part.image_rows}


def _baselines(config: Config, model, tokenizer, data: Data, progress: bool) -> list[ScoreRows]:
    """Every CCA that the data allow, with the run's GloVe vectors for the rows that have what the start has."""
    glove = model.scorer.get_layer("glove").get_weights()[0] if config.model.E_glove else None
    arrays, seed = cca_inputs(data), config.training.seed
    return [cca_scores(name, array, tokenizer, data, seed, progress, glove) for name, array in arrays.items()]


def cca_inputs(data: Data) -> dict[str, np.ndarray]:
    """What a CCA can pool: the regions, `cca`, and objects that have their context beside them, `cca_context`.

    Raises:
        UserError: no regions.
    """
    if data.features.regions is None:
        raise UserError("--baseline: a CCA needs regions, and there are objects only; leave it out")
    found = {"cca": data.features.regions}
    if isinstance(data.features.objects, ObjectsInContext):
        found["cca_context"] = data.features.objects
    return found


def cca_scores(
    name: str, array: np.ndarray, tokenizer, data: Data, seed: int, progress: bool, glove: np.ndarray | None
) -> ScoreRows:
    """The scores of a CCA of one of `cca_inputs`, fitted on the train split.

    Args:
        glove: float (V, E), the GloVe vectors of a run's words, or None where it has none.

    Returns:
        What gives a split's scores: under `name` the yardstick, cosines of a CCA that knows no word vectors; under
        `name` and `_weighted` those with weighted lengths of a CCA that has `glove` and is selected by such scores.
        These have at least what the preset's start has (`start_from_cca`), so that only the rest counts as learned.
    """
    from bssan_tf.cca.fit import fit_cca

    train = data.split("train")
    samples = (array, train.image_rows, tokenizer(train.captions), train.image_of_caption, len(tokenizer.words))
    plain = fit_cca(*samples, seed, progress=progress)
    best = fit_cca(*samples, seed, progress=progress, word_vectors=glove, weighted=True)

    def scores(part: Split) -> dict[str, np.ndarray]:
        sides = (array, part.image_rows, tokenizer(part.captions))
        return {name: plain.score_matrix(*sides), f"{name}_weighted": best.score_matrix(*sides, weighted=True)}

    return scores


def _differences(
    config: Config, data: Data, part: Split, report: Mapping, captions_per_image: int | None
) -> tuple[str, ...]:
    chosen = resolve(config.data)
    sources = {
        "regions": "your own file" if chosen.import_regions else chosen.backbone,
        "objects": "your own file" if chosen.import_objects else chosen.objects,
    }
    used = {name: sources[name] for name in needed_features(config.model.variant)}
    listed = data.corpus.split(part.name)
    return reports.differences(
        corpus=data.corpus.name,
        split=part.name,
        split_lists=data.corpus.split_lists,
        official=data.corpus.official,
        images=report.get("folds", [report])[0]["n_images"],
        unreadable=int(np.isin(listed.image_rows, data.features.bad_rows).sum()),
        captions_per_image=captions_per_image,
        backbone=used.get("regions"),
        objects=used.get("objects"),
        E_glove=config.model.E_glove,
        E_trained=config.model.E_trained,
    )
