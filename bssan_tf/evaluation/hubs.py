"""Scores that are corrected for hubs by a bank of queries, as rows beside the uncorrected ones.

In: an open run whose request names a correction of `metrics.hubs`. Out: a matrix for each direction of search. A bank
is a seeded sample of the train split, captions for text to image and pictures for image to text; never of what is
measured, unless that is asked for, as transductive, and named so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bssan_tf.config.settings import BANK
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import OpenRun, Pairs, ScoreRows
from bssan_tf.metrics.hubs import CORRECTIONS

PARTS = ("w2r", "o2w")  # rows that have no corrected one beside them
SEED = 0  # of the bank: all runs on the same data have the same
_ENDING = " corrected"  # of a corrected row's name


@dataclass(frozen=True, eq=False)
class Bank:
    """Queries of the train split; no picture of theirs is measured."""

    captions: tuple[str, ...]  # N_b, of text to image
    image_rows: np.ndarray  # int (N_b,), of image to text

    @classmethod
    def draw(cls, train: Split, size: int | None, measured: Split) -> Bank:
        """So many seeded captions, of any training pictures, and pictures; `BANK` by default, or all.

        UserError for more pictures than there are, and for pictures that are measured, too.
        """
        count = len(train.image_ids)
        if size and size > count:
            raise UserError(f"--bank {size}: the train split has {count:,} pictures; give at most so many")
        pictures = train.sample_images(size or BANK, SEED)
        size = len(pictures.image_ids)
        drawn = np.random.RandomState(SEED).permutation(len(train.captions))[:size]
        owners = train.image_rows[train.image_of_caption[drawn]]
        if shared := len(np.intersect1d(np.union1d(owners, pictures.image_rows), measured.image_rows)):
            bank = f"the bank ({size:,} captions and {size:,} pictures of the train split)"
            raise UserError(
                f"--hub: {bank} has {shared:,} of the measured pictures; use --transductive or another --split"
            )
        return cls(tuple(train.captions[i] for i in drawn), pictures.image_rows)


@dataclass(frozen=True, eq=False)
class Correction:
    """A correction of `CORRECTIONS` by name, and its bank; None is the measured queries themselves, transductive."""

    method: str
    bank: Bank | None

    @classmethod
    def of(cls, opened: OpenRun) -> Correction | None:
        """What the request of a run asks for; UserError as `Bank.draw`."""
        asked = opened.request
        if asked.hub is None:
            return None
        train = None if asked.transductive else opened.data.split("train")
        return cls(asked.hub, train and Bank.draw(train, asked.bank, opened.part))

    def added_to(self, scores: ScoreRows, bank_scores: ScoreRows) -> ScoreRows:
        """What gives the rows of `scores`, and of each but W2R's and O2W's a corrected one, as a matrix for each way.

        `bank_scores` scores the queries of the bank with the candidates.
        """

        def both(part: Split) -> dict[str, np.ndarray | tuple[np.ndarray, np.ndarray]]:
            found = dict(scores(part))
            for name, banks in self._banks(part, found, bank_scores).items():
                found[name + _ENDING] = corrected(self.method, found[name], *banks)
            return found

        return both

    def _banks(
        self, part: Split, found: Mapping[str, np.ndarray], bank_scores: ScoreRows
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By name, the bank's scores of pictures (N_b, N_c) and of captions (N_b, N_i)."""
        if self.bank is None:
            return {name: (matrix, matrix.T) for name, matrix in found.items() if name not in PARTS}
        return bank_matrices(self.bank, part, bank_scores)

    def told(self, *rows: dict[str, dict]) -> dict:
        """The JSON value of the correction; takes its reports out of the others, by name of the uncorrected row."""
        taken = {
            name.removesuffix(_ENDING): group.pop(name)
            for group in rows
            for name in list(group)
            if name.endswith(_ENDING)
        }
        size = None if self.bank is None else len(self.bank.captions)
        settings = CORRECTIONS[self.method].__kwdefaults__
        return {"method": self.method, "bank": size, "transductive": size is None, "settings": settings, "rows": taken}


def bank_matrices(bank: Bank, part: Split, bank_scores: ScoreRows) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name, scores of the bank's pictures with the part's captions (N_b, N_c), and of its captions (N_b, N_i)."""
    pictures = bank_scores(Pairs(part.captions, bank.image_rows, "pictures"))
    captions = bank_scores(Pairs(bank.captions, part.image_rows, "captions"))
    return {name: (matrix, captions[name].T) for name, matrix in pictures.items()}


def corrected(
    method: str, scores: np.ndarray, pictures: np.ndarray, captions: np.ndarray, **settings: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N_i, N_c) for image to text and for text to image, from `bank_matrices` (N_b, N_c) and (N_b, N_i)."""
    correct = CORRECTIONS[method]
    return correct(scores, pictures, **settings), correct(scores.T, captions, **settings).T
