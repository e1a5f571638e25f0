"""Ranking for one query in two stages: all candidates by the cheap part, the best of them by the whole score.

O2W costs a small part of W2R, and its side of the candidates is computed once, before any query; so it goes first.
Variants with one part have one stage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bssan_tf.scoring.matrix import Pictures, score_matrix
from bssan_tf.scoring.o2w import PAIR_ROWS
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.scorer import FastScorer

RERANK = 100

Ranking = tuple[np.ndarray, np.ndarray]  # places of all candidates, best first; MS of the first ones, float32


class PictureSearch:
    """Pictures to be ranked for sentences.

    The object side of O2W is kept in memory: P (S + H1 + F) numbers a picture.

    Args:
        features: has `regions`, `objects` and `valid`, as the feature store has.
        image_rows: int (N_i,), the candidates' rows in it.
    """

    def __init__(self, fast: FastScorer, features, image_rows: np.ndarray):
        self.fast, self.features, self.image_rows = fast, features, np.asarray(image_rows)
        self._sides = []
        if fast.o2w:
            pictures = Pictures.of(fast, ("o2w",), None, features.objects, features.valid, image_rows)
            step = max(1, PAIR_ROWS // features.objects.shape[1])
            for start in range(0, len(self.image_rows), step):
                block = pictures.block(start, step)
                self._sides.append(fast.o2w.prepare_objects(block["objects"], block["valid"]))

    def rank(self, tokens: np.ndarray, rerank: int = RERANK) -> Ranking:
        """Places in `image_rows` for a sentence int32 (1, L).

        Args:
            rerank: how many of the first stage are scored in full; 0: all.
        """

        def by_o2w() -> np.ndarray:
            text = self.fast.o2w.prepare(PrefixTree(tokens), self.fast.embed)
            return np.concatenate([self.fast.o2w.score(text, side, 1)[0] for side in self._sides])

        def by_w2r(places: np.ndarray) -> np.ndarray:
            rows = self.image_rows[places]
            return score_matrix(self.fast, self.features.regions, None, tokens, image_rows=rows, part="w2r")[:, 0]

        return two_stages(self.fast, by_o2w, by_w2r, len(self.image_rows), rerank)


class CaptionSearch:
    """Sentences to be ranked for pictures; the text side of O2W is kept in memory.

    Args:
        tokens: int32 (N_c, L), the candidates.
    """

    def __init__(self, fast: FastScorer, tokens: np.ndarray):
        self.fast, self.tokens = fast, tokens
        if fast.o2w:
            self._tree = PrefixTree(tokens)
            self._text = fast.o2w.prepare(self._tree, fast.embed)

    def rank(self, features, row: int, rerank: int = RERANK) -> Ranking:
        """Places in `tokens` for the picture in a row of the features; as `PictureSearch.rank`."""
        rows = np.array([row])

        def by_o2w() -> np.ndarray:
            block = Pictures.of(self.fast, ("o2w",), None, features.objects, features.valid, rows).block(0, 1)
            side = self.fast.o2w.prepare_objects(block["objects"], block["valid"])
            return self.fast.o2w.score(self._text, side, len(self._tree.captions))[self._tree.caption_of, 0]

        def by_w2r(places: np.ndarray) -> np.ndarray:
            tokens = self.tokens[places]
            return score_matrix(self.fast, features.regions, None, tokens, image_rows=rows, part="w2r")[0]

        return two_stages(self.fast, by_o2w, by_w2r, len(self.tokens), rerank)


def two_stages(
    fast: FastScorer,
    by_o2w: Callable[[], np.ndarray],
    by_w2r: Callable[[np.ndarray], np.ndarray],
    count: int,
    rerank: int,
) -> Ranking:
    """Order all `count` candidates by O2W, and the best `rerank` of them by MS.

    Args:
        by_o2w: scores all candidates.
        by_w2r: scores the candidates at some places.
    """
    places, kept = np.arange(count), count
    scores = {"o2w": by_o2w()} if fast.o2w else {}
    if fast.o2w and fast.w2r and 0 < rerank < count:
        places, kept = np.argsort(-scores["o2w"], kind="stable"), rerank
        scores["o2w"] = scores["o2w"][places[:kept]]
    if fast.w2r:
        scores["w2r"] = by_w2r(places[:kept])
    total = fast.total(scores)
    order = np.argsort(-total, kind="stable")
    return np.concatenate([places[order], places[kept:]]), total[order]
