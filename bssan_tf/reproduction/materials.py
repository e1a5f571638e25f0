"""The data of a plan's trainings, opened once, and all that can be refused before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bssan_tf.cca.fit import why_no_cca
from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets.corpus import Split
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import OpenRun, Request, cca_inputs, folds_of, open_run, part_of
from bssan_tf.features.pictures import read_picture
from bssan_tf.reproduction.plan import SHOWN, Plan, Training
from bssan_tf.runs.data import Data, open_data
from bssan_tf.training.checks import check_corpus, validation_split
from bssan_tf.training.early_signs import check_probe

PHOTOS = 4  # of Figures 5 to 8, at most


class Materials:
    """Data by the settings that name them; runs opened on them.

    Raises:
        UserError: a run of the plan is there, but of other flags or data; a split, protocol, image or photo that is not
            there; what `check_corpus` refuses.
    """

    def __init__(self, plan: Plan, request: Request, photos: Sequence[str] = (), progress: bool = True):
        self.plan, self.request, self.progress = plan, request, progress
        self._opened: dict[DataConfig, Data] = {}
        self.why_no_cca: str | None = None
        for training in plan.distinct():
            if training.run.config_file.exists():
                training.run.require_settings(training.config, "give another --name")
        for training in plan.distinct():
            data = self.data_of(training)
            if training.config.training.early_signs:
                _check_signs(training, data)
            check_corpus(data.corpus, training.config)
            if training.run.config_file.exists():
                training.run.require_same_data(data.fingerprint)
        if not plan.trainings:
            return
        self.part = part_of(self.data_of(plan.distinct()[0]), request)
        folds_of(self.part, request.protocol)
        self.chosen = choose(self.part, photos, plan.seeds[0])
        if set(plan.what) & set(SHOWN):
            for image in self.chosen:
                read_picture(self.part.image_paths[image])
        if first := plan.baseline():
            self.why_no_cca = _why_no_cca(self.data_of(first), first)

    def data_of(self, training: Training) -> Data:
        """The data of a training, which features may have to be extracted for."""
        config = training.config.data
        if config not in self._opened:
            self._opened[config] = open_data(config, self.progress)
        return self._opened[config]

    def open(self, training: Training, **changes) -> OpenRun:
        """A trained run, to be measured; `changes` are fields of the request."""
        data, request = self.data_of(training), replace(self.request, **changes)
        training.run.require_same_data(data.fingerprint)
        return open_run(training.run, request, dict(self.plan.moved), False, data)


def _check_signs(training: Training, data: Data) -> None:
    try:
        check_probe(validation_split(data.corpus, training.config.training))
    except UserError as error:
        raise UserError(f"{error} (--early-signs 0)") from None


def choose(part: Split, photos: Sequence[str], seed: int) -> np.ndarray:
    """Indices of the images to show: the named ones, or seeded ones."""
    ids = list(part.image_ids)
    if len(photos) > PHOTOS:
        raise UserError(f"--photos {photos[PHOTOS]}: {PHOTOS} images are shown at most; leave it out")
    for name in photos:
        if name not in ids:
            raise UserError(f"--photos {name}: is no image of the {part.name} split; its names are like {ids[0]}")
    if photos:
        return np.array([ids.index(name) for name in photos])
    return np.random.RandomState(seed).permutation(len(ids))[:PHOTOS]


def _why_no_cca(data: Data, training: Training) -> str | None:
    """Why the table has no rows of CCA; None if it has."""
    if data.features.regions is None:
        return "a CCA needs regions, and there are objects only"
    cca_inputs(data)
    train, chosen = data.split("train"), training.config.data
    tokenizer = Tokenizer.fit(train.captions, chosen.caption_length, chosen.word_rule)
    return why_no_cca(len(train.image_rows), tokenizer(train.captions), len(tokenizer.words))
