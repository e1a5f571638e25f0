"""The scores that are measured: of a run's model, or of a CCA fitted on its data, on the pairs that a request names.

In: a run folder and a Request. Out: every image of a split, or of a part of it, with every caption, as matrices by
name. What can be refused is refused before anything is scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np

from bssan_tf.cca import fit as cca
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import MEMORY_MB
from bssan_tf.datasets.corpus import Split
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.metrics.owners import require_owners_fit, write_owners
from bssan_tf.metrics.recall import protocol_folds
from bssan_tf.runs.data import Data, data_of_run
from bssan_tf.runs.folder import RunFolder
from bssan_tf.scoring import FastScorer, score_matrices
from bssan_tf.scoring.matrix import file_of


@dataclass(frozen=True, eq=False)
class Pairs:
    """Any images and captions that are scored with each other, as a Split's are."""

    captions: Sequence[str]  # N_c
    image_rows: np.ndarray  # int (N_i,)
    name: str  # of a bank, tells its file from others


# every image with every caption, (N_i, N_c), by a row's name
ScoreRows = Callable[[Union[Split, Pairs]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Request:
    """What to measure of a run."""

    split: str = "test"  # or `train`, `val` (or `dev`)
    captions_per_image: int | None = None  # score only the first so many captions of each picture
    images: int | None = None  # score only a seeded subset of so many pictures
    protocol: str = "full"  # see `recall.protocol_folds`
    parts: bool = False  # also measure W2R and O2W alone; their matrices lie beside the whole one's
    baseline: str | None = None  # `cca`, see `cca_scores`
    hub: str | None = None  # also measure scores that one of `metrics.hubs.CORRECTIONS` corrects
    bank: int | None = None  # by so many training captions and pictures
    transductive: bool = False  # or by the measured ones themselves
    out: Path | None = None  # a .npy file for the scores, with which an interrupted call goes on where it was
    memory_mb: float = MEMORY_MB  # what scoring may take, see `score_matrices`
    pointing: bool = True  # whether attention is measured, too, where the data's truth is known


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run whose scores can be had."""

    run: RunFolder
    config: Config  # the run's, its files where they are now
    scorer: object  # the Keras model
    fast: FastScorer
    tokenizer: Tokenizer
    data: Data
    part: Split  # the pictures and captions to measure
    request: Request
    progress: bool

    def scores(self, fold: Split) -> dict[str, np.ndarray]:
        """Scores of a split's images with its captions, float32 (N_i, N_c), as `score` and by part.

        With `out`, FILE.owners.txt beside them says whose they are, and the row of each caption's image. UserError if
        another file is there; nothing was scored then.
        """
        parts, out = None if self.request.parts else ["score"], self.request.out
        if out is None:
            return self._scores(fold, parts, None)
        require_owners_fit(out, fold.image_of_caption)
        matrices = self._scores(fold, parts, out)
        whose = f"{self.run.name}: {self.data.corpus.name}, {fold.name}"
        write_owners(out, fold.image_of_caption, f"{whose}; for each caption the row of its image, from 0")
        return matrices

    def bank_scores(self, pairs: Pairs) -> dict[str, np.ndarray]:
        """The same of a bank, as `score` alone, in a file beside the split's: FILE.bank-captions.npy and so on."""
        out = self.request.out
        return self._scores(pairs, ["score"], out and file_of(out, f"bank-{pairs.name}"))

    def _scores(self, pairs: Split | Pairs, parts: list[str] | None, out: Path | None) -> dict[str, np.ndarray]:
        return score_matrices(
            self.fast, self.data.features, self.tokenizer(pairs.captions), pairs.image_rows, parts=parts,
            memory_mb=self.request.memory_mb, out=out, data=json.dumps(self.data.fingerprint),
            progress=self.progress, engine=self.config.data.engine,
        )  # fmt: skip

    def cca(self) -> list[ScoreRows]:
        """What gives the scores of each CCA of `cca_inputs`, fitted on the train split."""
        seed = self.config.training.seed
        glove = self.scorer.get_layer("glove").get_weights()[0] if self.config.model.E_glove else None
        inputs = cca_inputs(self.data).items()
        return [
            cca_scores(name, array, self.tokenizer, self.data, seed, self.progress, glove) for name, array in inputs
        ]


def open_run(
    run: RunFolder,
    request: Request,
    data_flags: dict | None = None,
    progress: bool = True,
    data: Data | None = None,
) -> OpenRun:
    """Open a run and its data, or take those given; `data_flags` are fields of DataConfig to replace, if they moved.

    UserError for no such run or split, data that are gone or differ, too few pictures for the protocol, `parts` of a
    run that has one or trained their sum, a baseline that the data do not allow.
    """
    config = run.load_config().moved(data_flags)
    if request.parts and len(config.model.needed_features) < 2:
        raise UserError("--parts: the run has one part only; leave it out")
    if request.parts and config.model.fuse == "fc":
        raise UserError("--parts: with --fuse fc no network was trained to score alone; leave it out")
    model, tokenizer = run.load_model()
    data = data or data_of_run(run, config, progress)
    part = part_of(data, request)
    tokenizer.log_unread(part.captions, what=part.name)
    if request.baseline:
        cca_inputs(data)  # UserError without regions
        train = data.split("train")
        if problem := cca.why_no_cca(len(train.image_rows), tokenizer(train.captions), len(tokenizer.words)):
            raise UserError(f"--baseline cca: {problem}; leave it out")
    return OpenRun(run, config, model.scorer, FastScorer(model.scorer), tokenizer, data, part, request, progress)


def part_of(data: Data, request: Request) -> Split:
    """The pictures and captions to measure; UserError if they are too few, or have several matrices for one file."""
    part = data.split(request.split)
    if request.images:
        part = part.sample_images(request.images)  # the same for all runs
    if request.captions_per_image:
        part = part.captions_per_image(request.captions_per_image)
    out, protocol = request.out, request.protocol
    folds = len(protocol_folds(protocol, len(part.image_ids)))
    if out and folds > 1:
        raise UserError(f"--out {out}: holds one matrix, and --protocol {protocol} has {folds}; leave one out")
    return part


def folds_of(split: Split, protocol: str) -> list[Split]:
    """The parts of a split whose images a protocol of `recall.PROTOCOLS` ranks against each other.

    UserError if the split has fewer images than the protocol, which takes its first ones, needs.
    """
    bounds = protocol_folds(protocol, len(split.image_ids))
    return [split.without_rows(np.delete(split.image_rows, np.s_[start:stop])) for start, stop in bounds]


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

    def scores(part: Split | Pairs) -> dict[str, np.ndarray]:
        sides = (array, part.image_rows, tokenizer(part.captions))
        return {name: plain.score_matrix(*sides), f"{name}_weighted": best.score_matrix(*sides, weighted=True)}

    return scores
