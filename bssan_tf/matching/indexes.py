"""Photos that are searched for a sentence, and sentences that are searched for a photo."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bssan_tf.config.settings import MEMORY_MB, RERANK
from bssan_tf.datasets.text import UNKNOWN, Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.metrics.calibration import KEPT, Calibration
from bssan_tf.runs.photo import Source
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.scoring.two_stage import CaptionSearch, PictureSearch, Ranking

logger = logging.getLogger(__name__)

KEEP_MB = 256  # of what an index keeps of its candidates from query to query


class Hit(NamedTuple):
    """One result of a search."""

    score: float  # MS of Eq. 19; of similar photos, a cosine
    found: Path | str  # the photo's file, or the sentence
    probability: float | None = None  # of being the sentence's photo; None in a run that can't tell, and elsewhere


class PhotoIndex:
    """Photos to be searched for sentences: `paths`, and their features in `rows` int (N_i,) of `features`.

    Args:
        describe: a photo -> its features, for `like`.
        vectors: features and rows -> vectors float32 (n, F) of length 1 that tell which photos are alike.
        calibration: what makes probabilities of scores, if anything.
        whole: score all candidates in full, as where O2W was not trained to rank alone.
        first: a sentence int32 (1, L) and a number -> the places of so many photos that it may mean, if that is known.
    """

    def __init__(
        self,
        fast: FastScorer,
        tokenizer: Tokenizer,
        features,
        rows: np.ndarray,
        paths: Sequence[Path],
        describe: Callable,
        vectors: Callable,
        calibration: Calibration | None = None,
        whole: bool = False,
        memory_mb: float = MEMORY_MB,
        first: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ):
        self.first = first
        self.tokenizer, self.paths, self.calibration, self.whole = tokenizer, list(paths), calibration, whole
        self.describe, self.vectors, self._features, self._rows = describe, vectors, features, rows
        self._search = PictureSearch(fast, features, rows, memory_mb, 0 if first else KEEP_MB)

    def __len__(self) -> int:
        return len(self.paths)

    def search(
        self, sentence: str, top: int = 10, rerank: int = RERANK, min_probability: float | None = None
    ) -> list[Hit]:
        """The best photos for a sentence, best first.

        Args:
            top: how many.
            rerank: candidates that the whole model scores, the best by the first stage, or without one by O2W; 0 for
                all. Probabilities need 100, or all.
            min_probability: leave out hits that are less probable.

        Raises:
            UserError: a sentence without a word that the run knows, too little memory; probabilities are asked for, and
                can't be told.
        """
        scored = in_full(self.whole, top, rerank)
        told = self.calibration if scored == 0 or scored >= min(KEPT, len(self)) else None
        if min_probability is not None and told is None:
            why = f"--rerank {rerank} scores too few for it" if self.calibration else "the run has no calibration"
            remedy = f"give --rerank {KEPT} or more" if self.calibration else "it comes with the end of a new training"
            raise UserError(f"--min-probability {min_probability:g}: {why}; {remedy}")
        tokens = self.tokenizer.read_sentence(sentence, "query")
        if not (tokens > UNKNOWN).any():  # what is found would hang on nothing in the sentence
            raise UserError(f"query {sentence!r}: the run knows none of its words; put it as its captions would")
        if self.first and 0 < scored < len(self):
            order, scores = self._search.rank(tokens, 0, self.first(tokens, scored))
        else:
            order, scores = self._search.rank(tokens, scored)
        found = hits((order, scores), self.paths, top)
        if told:
            chances = told.probabilities(scores, len(self))
            found = [hit._replace(probability=float(chance)) for hit, chance in zip(found, chances)]
        return [hit for hit in found if min_probability is None or hit.probability >= min_probability]

    @functools.cached_property
    def _vectors(self) -> np.ndarray:
        return self.vectors(self._features, self._rows)

    def like(self, photo: Source, top: int = 10) -> list[Hit]:
        """The photos most like a photo, best first; without the photo itself, where its file is among them.

        A score is a cosine, up to 1 (`photo_vectors`). UserError: what is no picture, or not like those of the run.
        """
        file = os.path.realpath(photo) if isinstance(photo, (str, Path)) else None
        itself = [place for place, path in enumerate(self.paths) if file == os.path.realpath(path)]
        if itself:
            wanted = self._vectors[itself[0]]
        else:
            wanted = self.vectors(self.describe(photo), np.arange(1))[0]
        scores = self._vectors @ wanted
        order = [place for place in np.argsort(-scores, kind="stable") if place not in itself]
        return hits((np.array(order, int), scores[order]), self.paths, top)


class SentenceIndex:
    """Sentences int32 (N_c, L) to be searched for photos, which `describe` describes; the rest as of `PhotoIndex`."""

    def __init__(
        self,
        fast: FastScorer,
        describe: Callable,
        captions: Sequence[str],
        tokens: np.ndarray,
        whole: bool = False,
        memory_mb: float = MEMORY_MB,
    ):
        self.describe, self.captions, self.whole = describe, list(captions), whole
        self._search = CaptionSearch(fast, tokens, memory_mb, KEEP_MB)

    def __len__(self) -> int:
        return len(self.captions)

    def search(self, photo: Source, top: int = 10, rerank: int = RERANK) -> list[Hit]:
        """The best sentences for a photo, best first; arguments as of `PhotoIndex.search`."""
        ranking = self._search.rank(self.describe(photo), 0, in_full(self.whole, top, rerank))
        return hits(ranking, self.captions, top)


def hits(ranking: Ranking, found: Sequence, top: int) -> list[Hit]:
    """The first of a ranking."""
    order, scores = ranking
    return [Hit(float(score), found[place]) for score, place in zip(scores[:top], order)]


def in_full(whole: bool, top: int, rerank: int) -> int:
    """How many candidates the whole model scores, 0 for all."""
    if rerank and whole:
        logger.info("all candidates are scored in full: with --fuse fc, O2W was not trained to rank alone")
        return 0
    return rerank and max(rerank, top)
