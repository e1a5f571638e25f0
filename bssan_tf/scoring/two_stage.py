"""Ranking for one query in two stages: all candidates by the cheap part, the best of them by the whole score.

O2W costs a small part of W2R, so it goes first; its side of the candidates is kept for further queries where there is
memory for it. Variants with one part have one stage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bssan_tf.config.settings import MEMORY_MB, RERANK
from bssan_tf.scoring.matrix import Pictures, score_matrices
from bssan_tf.scoring.o2w import PAIR_ROWS
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.scorer import FastScorer

Ranking = tuple[np.ndarray, np.ndarray]  # places of all candidates, best first; MS of the first ones, float32


class PictureSearch:
    """Pictures to be ranked for sentences: `image_rows` int (N_i,) of `features`, as `score_matrices` takes them.

    A query may take `memory_mb`; candidates are read block by block. The object side of O2W, P (S + H1 + F) numbers a
    picture, is kept from query to query where it takes `keep_mb` at most, else computed anew.
    """

    def __init__(
        self, fast: FastScorer, features, image_rows: np.ndarray, memory_mb: float = MEMORY_MB, keep_mb: float = 0
    ):
        self.fast, self.features, self.image_rows = fast, features, np.asarray(image_rows)
        self.memory_mb, self._sides = memory_mb, None
        P = features.objects.shape[1] if fast.o2w else 0
        if fast.o2w and len(self.image_rows) * fast.o2w.side_bytes(P) <= keep_mb * 2**20:
            pictures, step = Pictures.of({"o2w": fast.o2w}, features, image_rows), max(1, PAIR_ROWS // P)
            starts = range(0, len(self.image_rows), step)
            self._sides = [fast.o2w.prepare_pictures(pictures.block(start, step)) for start in starts]

    def rank(self, tokens: np.ndarray, rerank: int = RERANK, among: np.ndarray | None = None) -> Ranking:
        """Places in `image_rows` for sentence int32 (1, L), best `rerank` (0: all) by MS; UserError without memory.

        With `among`, int (n,), only these places are ranked.
        """
        candidates = self.image_rows if among is None else self.image_rows[among]

        def score(part: str, places: np.ndarray) -> np.ndarray:
            if part == "o2w" and self._sides is not None and among is None:
                tree = PrefixTree(tokens)
                text = self.fast.o2w.prepare(tree, self.fast.embed)
                return np.concatenate([self.fast.o2w.score(tree, text, side)[0] for side in self._sides])
            rows, options = candidates[places], {"parts": [part], "memory_mb": self.memory_mb}
            return score_matrices(self.fast, self.features, tokens, rows, **options)[part][:, 0]

        order, scores = two_stages(self.fast, score, len(candidates), rerank)
        return order if among is None else among[order], scores


class CaptionSearch:
    """Sentences to be ranked for pictures: `tokens` int32 (N_c, L), computed page by page.

    Memory as of `PictureSearch`; what is kept is the text side of O2W, S + H1 + F numbers a word.
    """

    def __init__(self, fast: FastScorer, tokens: np.ndarray, memory_mb: float = MEMORY_MB, keep_mb: float = 0):
        self.fast, self.tokens, self.memory_mb, self._text = fast, tokens, memory_mb, None
        if fast.o2w and keep_mb:
            self._tree = PrefixTree(tokens)
            if fast.o2w.side_bytes(int(self._tree.lengths.sum())) <= keep_mb * 2**20:
                self._text = fast.o2w.prepare(self._tree, fast.embed)

    def rank(self, features, row: int, rerank: int = RERANK) -> Ranking:
        """Places in `tokens` for the picture in a row of the features; as `PictureSearch.rank`."""
        rows = np.array([row])

        def score(part: str, places: np.ndarray) -> np.ndarray:
            if part == "o2w" and self._text is not None:
                side = self.fast.o2w.prepare_pictures(Pictures.of({"o2w": self.fast.o2w}, features, rows).block(0, 1))
                return self.fast.o2w.score(self._tree, self._text, side)[self._tree.caption_of, 0]
            tokens, options = self.tokens[places], {"parts": [part], "memory_mb": self.memory_mb}
            return score_matrices(self.fast, features, tokens, rows, **options)[part][0]

        return two_stages(self.fast, score, len(self.tokens), rerank)


def two_stages(fast: FastScorer, score: Callable[[str, np.ndarray], np.ndarray], count: int, rerank: int) -> Ranking:
    """Order `count` candidates by O2W, the best `rerank` by MS; `score` gives `o2w` of all, or `w2r` at some places."""
    places, kept = np.arange(count), count
    scores = {"o2w": score("o2w", places)} if fast.o2w else {}
    if fast.o2w and fast.w2r and 0 < rerank < count:
        places, kept = np.argsort(-scores["o2w"], kind="stable"), rerank
        scores["o2w"] = scores["o2w"][places[:kept]]
    if fast.w2r:
        scores["w2r"] = score("w2r", places[:kept])
    total = fast.total(scores)
    order = np.argsort(-total, kind="stable")
    return np.concatenate([places[order], places[kept:]]), total[order]
